"""The functions that cell equations are written with.

Called from Python they work on NumPy scalars and arrays; kernels replace each by its implementation for a vector
register (`kernels/elementary.py`). Equations must use nothing else but `+ - *`, so that one text serves every device.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); NaN stays NaN, infinities saturate."""
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent; NaN stays NaN, infinities saturate."""
    return np.tanh(x)


def clip(x: Any, bound: Any) -> Any:
    """x limited to [-bound, bound]; NaN stays NaN. Source: tf.clip_by_value."""
    return np.clip(x, -bound, bound)


def clip_gradient(x: Any, bound: Any, gradient: Any) -> Any:
    """The gradient of `clip` at x: `gradient` where x is within the bounds, 0 elsewhere. Source: tf.clip_by_value."""
    return np.where((x < -bound) | (x > bound), np.zeros_like(gradient), gradient)

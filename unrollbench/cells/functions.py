"""The functions that cell equations are written with.

Called from Python they work on NumPy scalars and arrays, and on placeholders, which stand for a value that is only
known when compiled code runs (`kernels/expression.py`). Equations must use nothing else but `+ - *`, so that one text
serves every device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np


class Placeholder:
    """An operand that is no number: a function of this module that is called with one returns `applied`."""

    def applied(self, function: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
        """What stands for function(*operands)."""
        raise TypeError(f"{type(self).__name__} does not say what stands for {function.__name__} of it")


def _takes_placeholders(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def called(*operands: Any) -> Any:
        found = next((operand for operand in operands if isinstance(operand, Placeholder)), None)
        return function(*operands) if found is None else found.applied(called, operands)

    return called


@_takes_placeholders
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); NaN stays NaN, infinities saturate."""
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


@_takes_placeholders
def tanh(x: Any) -> Any:
    """The hyperbolic tangent; NaN stays NaN, infinities saturate."""
    return np.tanh(x)


@_takes_placeholders
def clip(x: Any, bound: Any) -> Any:
    """x limited to [-bound, bound]; NaN stays NaN. Source: tf.clip_by_value."""
    return np.clip(x, -bound, bound)


@_takes_placeholders
def clip_gradient(x: Any, bound: Any, gradient: Any) -> Any:
    """The gradient of `clip` at x: `gradient` where x is within the bounds, 0 elsewhere. Source: tf.clip_by_value."""
    return np.where((x < -bound) | (x > bound), np.zeros_like(gradient), gradient)

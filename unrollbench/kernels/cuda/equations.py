"""A cell's equations as device functions: the same text as on the CPU, with CUDA's functions of the dtype in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import numpy as np

from unrollbench.cells import functions

Jit = Callable[[Callable[..., Any]], Any]
"""Makes a device function; see `device.Device.jit_device`."""


def elementary(dtype: str, jit: Jit) -> dict[Any, Any]:
    """The function of `cells.functions` -> its device function for that dtype.

    Comparisons and not min and max, so that a NaN passes; every constant has the dtype, or float32 becomes float64.
    """
    number = np.dtype(dtype).type
    half, one, zero = number(0.5), number(1), number(0)

    def sigmoid(x):
        return half * (number(math.tanh(half * x)) + one)

    def tanh(x):
        return number(math.tanh(x))

    def clip(x, bound):
        if x < -bound:
            return -bound
        if x > bound:
            return bound
        return x

    def clip_gradient(x, bound, gradient):
        if x < -bound or x > bound:
            return zero
        return gradient

    made = {f.__name__: jit(f) for f in (sigmoid, tanh, clip, clip_gradient)}
    return {getattr(functions, name): function for name, function in made.items()}


def device_equation(equation: Any, replaced: dict[Any, Any], jit: Jit) -> Any:
    """`equation` as a device function that calls the device's elementary functions instead of NumPy's."""

    def swap(value: Any) -> Any:
        return replaced.get(value, value) if callable(value) else value

    scope = {name: swap(value) for name, value in equation.__globals__.items()}
    cells = tuple(CellType(swap(cell.cell_contents)) for cell in equation.__closure__ or ())
    rebuilt = FunctionType(equation.__code__, scope, equation.__name__, equation.__defaults__, cells)
    rebuilt.__qualname__, rebuilt.__module__ = equation.__qualname__, equation.__module__
    return jit(rebuilt)

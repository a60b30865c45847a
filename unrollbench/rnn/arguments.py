"""What a caller passed, checked: every function returns the value, or names it in an ArgumentError."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from unrollbench.case import DTYPES
from unrollbench.errors import ArgumentError, ArgumentTypeError
from unrollbench.rnn.settings import Settings
from unrollbench.tensors import Array

Lengths = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def dtype(name: str, value: Any) -> str:
    """ "float32" or "float64", from whatever NumPy or TensorFlow calls it."""
    value = getattr(value, "as_numpy_dtype", value)
    try:
        got = np.dtype(value).name
    except TypeError:
        got = repr(value)
    if got not in DTYPES:
        raise ArgumentTypeError(f"{name}: got {got}, wanted {' or '.join(DTYPES)}")
    return str(got)


def integer(name: str, value: Any, low: int) -> int:
    """The value as an int that is at least `low`."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(f"{name}: got {value!r}, wanted an integer >= {low}") from None
    if number < low:
        raise ArgumentError(f"{name}: got {number}, wanted an integer >= {low}")
    return number


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """The value as a finite float, above 0 if `positive`."""
    wanted = "a number > 0" if positive else "a finite number"
    if isinstance(value, bool | np.bool_ | str) or not np.isscalar(value) or np.iscomplexobj(value):
        raise ArgumentTypeError(f"{name}: got {value!r}, wanted {wanted}")
    result = float(value)  # type: ignore[arg-type]  # a real scalar, as just checked
    if not np.isfinite(result) or (positive and result <= 0):
        raise ArgumentError(f"{name}: got {value!r}, wanted {wanted}")
    return result


def flag(name: str, value: Any) -> bool:
    """The value as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentTypeError(f"{name}: got {value!r}, wanted True or False")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, which is one of the allowed."""
    if value not in allowed:
        raise ArgumentError(f"{name}: got {value!r}, wanted one of {', '.join(map(repr, allowed))}")
    return str(value)


def array(name: str, value: Any, dtype: str, shape: Sequence[int | None], legend: str) -> Array:
    """The value as a contiguous array of the dtype and shape; a None in the shape is any size.

    An array must have the dtype already, since a silent cast would hide a mistake or lose digits; nested lists of
    numbers take it, as in TensorFlow. The result may be the caller's own array.
    """
    if hasattr(value, "__array__"):
        result = np.asarray(value)
        if result.dtype != np.dtype(dtype):
            remedy = f"{name}.astype(np.{dtype})" if name.isidentifier() else f".astype(np.{dtype})"
            raise ArgumentTypeError(f"{name}: got {result.dtype}, wanted {dtype}; convert it with {remedy}")
    else:
        result = _from_numbers(name, value, f"an array {legend}").astype(dtype)
    if result.ndim != len(shape) or any(w is not None and g != w for g, w in zip(result.shape, shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ArgumentError(f"{name}: got shape {result.shape}, wanted {legend} = ({sizes})")
    return np.ascontiguousarray(result)


def sequence(name: str, value: Any, settings: Settings, columns: int | None, steps: int | None = None) -> Array:
    """The value as an array of the settings' dtype, layout and batch size; of any number of steps if None."""
    legend = "(time, batch, columns)" if settings.time_major else "(batch, time, columns)"
    shape = (steps, settings.batch_size) if settings.time_major else (settings.batch_size, steps)
    return array(name, value, settings.dtype, (*shape, columns), legend)


def lengths(value: Any, batch_size: int, steps: int) -> Lengths | None:
    """`sequence_length` as int64 (B,), each in 0..steps; None for None."""
    if value is None:
        return None
    result = _from_numbers("sequence_length", value, "integers, one per batch row")
    if result.size == 0 and batch_size == 0:
        return np.zeros(0, np.int64)
    if result.dtype.kind not in "iu":
        raise ArgumentTypeError(f"sequence_length: got {result.dtype}, wanted integers, one per batch row")
    if result.shape != (batch_size,):
        raise ArgumentError(f"sequence_length: got shape {result.shape}, wanted (batch_size,) = ({batch_size},)")
    wrong = (result < 0) | (result > steps)
    if wrong.any():
        row = int(wrong.argmax())
        raise ArgumentError(
            f"sequence_length[{row}]: got {result[row]}, wanted 0..{steps}, the time steps of the inputs"
        )
    return result.astype(np.int64)


def _from_numbers(name: str, value: Any, wanted: str) -> npt.NDArray[Any]:
    """An array, or the array that nested lists of numbers spell."""
    try:
        result = np.asarray(value)
    except ValueError:
        raise ArgumentTypeError(f"{name}: got a ragged {type(value).__name__}, wanted {wanted}") from None
    if result.dtype.kind not in "fiu":
        got = result.dtype if isinstance(value, np.ndarray | list | tuple) else type(value).__name__
        raise ArgumentTypeError(f"{name}: got {got}, wanted {wanted}")
    return result


def finite(name: str, values: Array, valid: Mask | None = None) -> Array:
    """The values, all finite: themselves, or a copy with zeros where not valid if there are NaN or inf there."""
    good = np.isfinite(values)
    if good.all():
        return values
    bad = ~good if valid is None else ~good & valid
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        where = "" if valid is None else " within sequence_length"
        raise ArgumentError(f"{name}{list(at)}: got {values[at]}, wanted finite values{where}")
    return np.where(valid, values, np.zeros((), values.dtype))  # type: ignore[arg-type]  # not None if nothing is bad


def text(name: str, value: Any) -> str:
    """The value, a string."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: got {value!r}, wanted a string")
    return value


def scope(value: Any) -> None:
    """Nothing: TensorFlow's `scope` names variables and never changes a result; here nothing has a scoped name."""
    if value is not None:
        text("scope", value)

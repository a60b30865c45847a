"""Whether a program's results are the case's right results, and how far off they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrollbench.case import Case, CellOptions
from unrollbench.errors import WrongResult
from unrollbench.reference.network import forward, forward_backward
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors, Weights

TF32_EPS = 2.0**-10
"""The distance from 1 to the next number with TF32's ten bits of mantissa."""
TF32_FACTOR = 4
"""What stands for the 64 of float32 and float64; see `tolerance`."""


@dataclass(frozen=True)
class Expected(Outputs):
    """A case's results in float64, and what a comparison has to know about them.

    cotangent: the largest |d_outputs| or |d_state|; a gradient far below it is made of rounding errors.
    slack: how far each gradient moves when values within rounding of a clip's bound fall on its other side, where the
    gradient of a clip jumps between 0 and 1. None where nothing is clipped; all zeros where no value is that close.
    """

    cotangent: float = 1.0
    slack: Gradients | None = None


def expected(case: Case, tensors: Tensors) -> Expected:
    """What a correct program returns for the case, in the case's layout; with gradients in train mode."""
    layers = [_Layer(case.cell, case.cell_options) for _ in case.units]
    start = layers, _layout(case, tensors.inputs), tensors.lengths, tensors.initial_state, tensors.weights
    if case.mode == "forward":
        outputs, state = forward(*start)
        return Expected(_layout(case, outputs), state)
    if tensors.d_outputs is None or tensors.d_state is None:
        raise ValueError("tensors: a case in train mode needs d_outputs and d_state")
    end = _layout(case, tensors.d_outputs), tensors.d_state
    result = forward_backward(*start, *end)
    slack = None
    if case.cell_options.cell_clip is not None or case.cell_options.proj_clip is not None:
        margin = tolerance(case)
        inside, outside = (forward_backward(*start, *end, clip_margin=m).gradients for m in (-margin, margin))
        slack = _in_layout(case, _distance(inside, outside))
    cotangent = max(float(np.abs(array).max()) for array in (tensors.d_outputs, *sum(tensors.d_state, ())))
    gradients = _in_layout(case, result.gradients)
    return Expected(_layout(case, result.outputs), result.state, gradients, cotangent, slack)


def tolerance(case: Case) -> float:
    """The largest error allowed, relative to the scale of the array that it is in: 64 eps(dtype) sqrt(T).

    A step's rounding errors (a product of some hundred terms, a sigmoid or tanh good to a few units in the last place)
    are some eps, and T steps of a network that neither forgets at once nor explodes add up like a random walk, in the
    state as in the weights' gradients. The factor 64 is ten times what correct kernels show from T = 1 to 1000, and
    three times what TensorFlow shows on weights that amplify. It leaves no room for what must be seen: a term that is
    missing shows from 1e-3 on; a product in float32 inside a float64 case shows at 1e-8, where this allows 1e-12.

    Products in TF32 cut their operands to ten bits and add in float32, so that a step's error is that of the operands
    alone: 4 eps(TF32) sqrt(T). Products of operands cut that way, put into the float64 equations, show a quarter of it
    at most over all cells, T = 1 to 1000, with gradients; a cell that forgets nothing over a thousand steps (a
    forget_bias of 5 or more) goes beyond it, and is not a network for TF32.
    """
    if case.canonical().matmul_precision == "tf32":
        return float(TF32_FACTOR * TF32_EPS * np.sqrt(case.sequence_length))
    return float(64 * np.finfo(case.dtype).eps * np.sqrt(case.sequence_length))


def check(case: Case, outputs: Outputs, expected: Outputs) -> tuple[float, float]:
    """The largest error of any array relative to the array's scale, and the tolerance, which it does not exceed.

    The scale of an array is its largest value, but not less than the scale of the numbers that it was computed from,
    since these set its rounding errors: 1 for activations, the cotangents for gradients. Arrays must have the shape of
    the expected ones and the case's dtype.

    Raises:
        WrongResult: a missing gradient, a wrong shape or dtype, a NaN or inf, or an error above the tolerance; the
            message says which array, where, got, wanted and how far beyond the tolerance.
    """
    limit = tolerance(case)
    got, wanted = dict(_arrays(outputs)), dict(_arrays(expected))
    if got.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
        raise WrongResult(f"results of a {case.mode} case: missing {missing}, unexpected {extra}")
    cotangent, slack = 1.0, {}
    if isinstance(expected, Expected):
        cotangent = expected.cotangent or 1.0  # without cotangents all gradients are exactly zero
        slack = dict(_gradient_arrays(expected.slack)) if expected.slack is not None else {}
    worst = 0.0
    for name, array in wanted.items():
        floor = cotangent if name.startswith("gradients") else 1.0
        _check_form(name, got[name], array, case.dtype)
        worst = max(worst, _error(name, got[name], array, floor, slack.get(name), limit))
    return worst, limit


def _check_form(name: str, got: Array, wanted: Array, dtype: str) -> None:
    if not isinstance(got, np.ndarray) or got.shape != wanted.shape or got.dtype != np.dtype(dtype):
        form = f"{got.dtype} {got.shape}" if isinstance(got, np.ndarray) else type(got).__name__
        raise WrongResult(f"{name}: got {form}, wanted {dtype} {wanted.shape}")
    finite = np.isfinite(got)
    if not finite.all():
        at = _first(~finite)
        raise WrongResult(f"{name}{list(at)}: got {got[at]}, wanted {wanted[at]:.9g}; {(~finite).sum()} are not finite")


def _error(name: str, got: Array, wanted: Array, floor: float, slack: Array | None, limit: float) -> float:
    """The largest error of one array relative to its scale; WrongResult if it exceeds the limit."""
    scale = max(float(np.abs(wanted).max(initial=0.0)), floor)
    relative = np.abs(got - wanted) / scale
    if slack is not None:
        relative = np.maximum(relative - slack / scale, 0)
    worst = float(relative.max(initial=0.0))
    if worst > limit:
        at = _first(relative == worst)
        raise WrongResult(
            f"{name}{list(at)}: got {got[at]:.9g}, wanted {wanted[at]:.9g}: an error {worst:.3g} of the array's scale "
            f"{scale:.3g} is {worst / limit:.3g} times the tolerance {limit:.3g}; "
            f"{(relative > limit).sum()} of {relative.size} values are beyond it"
        )
    return worst


@dataclass(frozen=True)
class _Layer:
    cell: str
    options: CellOptions


def _layout(case: Case, array: Array) -> Array:
    """From the case's layout to time-major or back: the same transposition."""
    return array if case.time_major else array.transpose(1, 0, 2)


def _in_layout(case: Case, gradients: Gradients | None) -> Gradients | None:
    if gradients is None:
        return None
    return Gradients(_layout(case, gradients.inputs), gradients.weights, gradients.initial_state)


def _distance(a: Gradients | None, b: Gradients | None) -> Gradients | None:
    """|a - b|, element by element; for one step across a bound this is the whole jump."""
    if a is None or b is None:
        return None
    weights: tuple[Weights, ...] = tuple(
        {name: np.abs(x[name] - y[name]) for name in x} for x, y in zip(a.weights, b.weights, strict=True)
    )
    states: tuple[State, ...] = tuple(
        tuple(np.abs(p - q) for p, q in zip(x, y, strict=True))
        for x, y in zip(a.initial_state, b.initial_state, strict=True)
    )
    return Gradients(np.abs(a.inputs - b.inputs), weights, states)


def _arrays(results: Outputs) -> Iterator[tuple[str, Array]]:
    """Every array of the results with the name that an error message gives it."""
    yield "outputs", results.outputs
    for layer, state in enumerate(results.state):
        yield from ((f"state[{layer}][{part}]", array) for part, array in enumerate(state))
    if results.gradients is not None:
        yield from _gradient_arrays(results.gradients)


def _gradient_arrays(gradients: Gradients) -> Iterator[tuple[str, Array]]:
    yield "gradients.inputs", gradients.inputs
    for layer, weights in enumerate(gradients.weights):
        yield from ((f"gradients.weights[{layer}][{name!r}]", array) for name, array in weights.items())
    for layer, state in enumerate(gradients.initial_state):
        yield from ((f"gradients.initial_state[{layer}][{part}]", array) for part, array in enumerate(state))


def _first(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])

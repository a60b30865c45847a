"""The cases that break recurrent kernels, in one table that every test of an execution goes through.

@pytest.mark.parametrize("adversary", ADVERSARIES, ids=str)
def test_...(adversary):
    case = adversary.case(cell="gru", execution="dynamic", mode="train")
    tensors = adversary.tensors(case)
    check(case, run(case, tensors), expected(case, tensors))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from unrollbench import cells
from unrollbench.case import Case, CellOptions
from unrollbench.tensors import Tensors, draw

SMALL: Mapping[str, Any] = {
    "sequence_length": 7,
    "batch_size": 3,
    "input_size": 5,
    "num_units": 6,
    "unroll": 2,
    "parallel_iterations": 3,
    "mode": "train",
}

CELLS: Mapping[str, Mapping[str, Any]] = {
    "basic_rnn": {"cell": "basic_rnn"},
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "lstm with forget_bias 0": {"cell": "lstm", "cell_options": CellOptions(forget_bias=0.0)},
    "lstm with peepholes": {"cell": "lstm", "cell_options": CellOptions(use_peepholes=True)},
    "lstm with cell_clip": {"cell": "lstm", "cell_options": CellOptions(cell_clip=0.2)},
    "lstm with projection": {"cell": "lstm", "cell_options": CellOptions(num_proj=4)},
    "lstm with everything": {
        "cell": "lstm",
        "cell_options": CellOptions(use_peepholes=True, cell_clip=0.3, num_proj=4, proj_clip=0.1, forget_bias=0.7),
    },
}
"""Name -> axes: every cell with every option, alone and together."""


@dataclass(frozen=True)
class Adversary:
    """One row of the table: axes of the case, and what to do to its tensors."""

    name: str
    axes: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Case, Tensors], Tensors] = lambda case, tensors: tensors

    def __str__(self) -> str:
        return self.name

    def case(self, **axes: Any) -> Case:
        """A small train case with this row's axes; the arguments win over the defaults, the row's axes over both."""
        return Case(**{**SMALL, **axes, **self.axes})

    def tensors(self, case: Case) -> Tensors:
        return self.change(case, draw(case))


def _saturated(case: Case, tensors: Tensors) -> Tensors:
    """Pre-activations of some hundred: gates at 0 and 1, tanh at -1 and 1, exp at the ends of its range."""
    weights = tuple({name: array * 100 for name, array in layer.items()} for layer in tensors.weights)
    return replace(tensors, inputs=tensors.inputs * 3, weights=weights)


def _zero_inputs(case: Case, tensors: Tensors) -> Tensors:
    state = tuple(tuple(np.zeros_like(array) for array in layer) for layer in tensors.initial_state)
    return replace(tensors, inputs=np.zeros_like(tensors.inputs), initial_state=state)


def _poisoned_padding(case: Case, tensors: Tensors) -> Tensors:
    """NaN and inf where no row is valid any more: in the inputs and in the cotangents of the outputs."""
    assert tensors.lengths is not None
    inputs, d_outputs = tensors.inputs.copy(), None if tensors.d_outputs is None else tensors.d_outputs.copy()
    for array in (inputs, d_outputs):
        if array is None:
            continue
        rows = array.swapaxes(0, 1) if case.time_major else array
        for row, length in enumerate(tensors.lengths):
            rows[row, length:] = np.nan
            rows[row, length::2] = np.inf
    return replace(tensors, inputs=inputs, d_outputs=d_outputs)


ADVERSARIES = (
    Adversary("one step", {"sequence_length": 1}),
    Adversary("fewer steps than unroll", {"sequence_length": 3, "unroll": 8}),
    Adversary("a remainder after unroll", {"sequence_length": 11, "unroll": 4}),
    Adversary("unroll divides the steps", {"sequence_length": 8, "unroll": 4}),
    Adversary("one row", {"batch_size": 1}),
    Adversary("more rows than a register tile", {"batch_size": 13}),
    Adversary("one unit", {"num_units": 1, "input_size": 1}),
    Adversary("units not a multiple of 16", {"num_units": 19, "input_size": 17}),
    Adversary("units a multiple of 16", {"num_units": 32, "input_size": 16}),
    Adversary("three unequal layers", {"num_units": (5, 9, 3), "num_layers": 3}),
    Adversary("a window of one step", {"parallel_iterations": 1}),
    Adversary("batch-major", {"time_major": False}),
    Adversary("saturated gates", {}, _saturated),
    Adversary("zero inputs and state", {}, _zero_inputs),
    Adversary("lengths 0 and T", {"lengths": (0, 7, 4)}),
    Adversary("all lengths 0", {"lengths": (0, 0, 0)}),
    Adversary("no row reaches T", {"lengths": (2, 0, 5), "num_units": (6, 4), "num_layers": 2}),
)
"""Every row must hold for every cell, dtype, mode and execution of every backend."""

POISONED = (
    Adversary("NaN and inf past the lengths", {"lengths": (0, 7, 4)}, _poisoned_padding),
    Adversary(
        "NaN and inf past the lengths of two batch-major layers",
        {"lengths": (5, 2, 7), "time_major": False, "num_units": (4, 6), "num_layers": 2},
        _poisoned_padding,
    ),
)
"""Every row must hold for `unrollbench.rnn` and the reference; a backend is given inputs that are finite everywhere."""


def stages() -> list[Any]:
    """Every stage of every cell and option as a test's parameter, with float64 constants."""
    found = []
    for name, axes in CELLS.items():
        cell = cells.load(axes["cell"], axes.get("cell_options", CellOptions()), "float64")
        found += [pytest.param(stage, id=f"{name}: {' '.join(stage.gates)}") for stage in cell.stages]
    return found

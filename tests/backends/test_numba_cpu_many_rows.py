"""Networks of rows and units enough for a matrix unit, which multiplies them where this machine has one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.backends.numba_programs import EXECUTIONS, check, identical, run
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case, CellOptions
from unrollbench.kernels import host
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import Outputs, Tensors, draw

MANY: dict[str, Any] = {
    "mode": "train",
    "sequence_length": 5,
    "batch_size": 29,
    "input_size": 20,
    "num_units": 30,
    "parallel_iterations": 3,
}
EVERYTHING = CellOptions(use_peepholes=True, num_proj=29, cell_clip=0.5, proj_clip=0.3, forget_bias=0.5)


def program_of(case: Case) -> NetworkProgram:
    program = NetworkProgram(spec_of(case), of_case(case))
    assert all(layout.on_matrix_unit == host.matrix_unit() for layout in program.network.layouts)
    assert (program.listing().multiplied_by == "matrix unit") == host.matrix_unit()
    return program


def results_of(case: Case, tensors: Tensors) -> Outputs:
    with closing(program_of(case)) as program:
        return run(program, case, tensors)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    "axes",
    [
        {"cell": "basic_rnn", "num_layers": 3},
        {"cell": "gru", "num_layers": 2},
        {"cell": "lstm", "num_layers": 2},
        {"cell": "lstm", "cell_options": EVERYTHING, "num_layers": 2},
        {"cell": "lstm", "time_major": False, "lengths": "uniform"},
        {"cell": "gru", "batch_size": 58, "threads": 2, "lengths": "uniform"},
        {"cell": "lstm", "batch_size": 93, "threads": 2, "num_layers": 2},
        {"cell": "lstm", "batch_size": 16, "input_size": 1, "num_units": 64},
        {"cell": "lstm", "batch_size": 131, "input_size": 70, "num_units": 62, "sequence_length": 4},
        {"cell": "gru", "swap_memory": True},
    ],
    ids=lambda axes: " ".join(f"{name}={value}" for name, value in axes.items() if name != "cell_options"),
)
def test_results_of_many_rows_are_the_references(axes: dict[str, Any], execution: str) -> None:
    case = Case(**{**MANY, **axes, "execution": execution})
    tensors = draw(case)
    check(case, tensors, results_of(case, tensors))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_results_of_threads_that_share_many_rows_are_the_references(
    monkeypatch: pytest.MonkeyPatch, cell: str, mode: str, execution: str
) -> None:
    """They have units of their own, where weights are too many for a cache: here that is any number."""
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 1)
    case = Case(**{**MANY, "cell": cell, "mode": mode, "execution": execution, "threads": 2, "num_layers": 2})
    tensors = draw(case)
    with closing(program_of(case)) as program:
        split = "units" if host.matrix_unit() else "rows"
        assert {layout.split for layout in program.network.layouts} == {split}
        check(case, tensors, run(program, case, tensors))


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_a_forward_pass_of_many_rows_is_the_references_whatever_the_window(cell: str, window: int) -> None:
    case = Case(**{**MANY, "cell": cell, "mode": "forward", "num_layers": 2, "parallel_iterations": window})
    tensors = draw(case)
    check(case, tensors, results_of(case, tensors))


def test_static_and_dynamic_programs_of_many_rows_differ_in_no_bit() -> None:
    case = Case(**{**MANY, "cell": "lstm", "mode": "forward", "num_layers": 2, "parallel_iterations": 5})
    tensors = draw(case)
    assert identical(*(results_of(replace(case, execution=execution), tensors) for execution in ("static", "dynamic")))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_nan_in_one_of_many_rows_stays_in_that_row(cell: str, window: int) -> None:
    case, row, step = Case(**{**MANY, "cell": cell, "parallel_iterations": window}), 17, 2
    tensors = draw(case)
    inputs = tensors.inputs.copy()
    inputs[step, row, 0] = np.nan
    results = results_of(case, replace(tensors, inputs=inputs))
    others = np.arange(case.batch_size) != row
    assert np.isnan(results.outputs[step:, row]).all()
    assert not np.isnan(results.outputs[:step]).any()
    assert not np.isnan(results.outputs[:, others]).any()
    assert results.gradients is not None
    assert not np.isnan(results.gradients.inputs[:, others]).any()


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_infinities_in_some_of_many_rows_saturate_gates_as_in_the_reference(cell: str, window: int) -> None:
    case = Case(**{**MANY, "cell": cell, "mode": "forward", "parallel_iterations": window})
    tensors = draw(case)
    inputs = tensors.inputs.copy()
    inputs[1, 3, 0], inputs[2, 20, 19] = np.inf, -np.inf
    infinite = replace(tensors, inputs=inputs)
    with np.errstate(invalid="ignore"):  # NumPy's own product warns of infinities in its operands
        check(case, infinite, results_of(case, infinite))


def test_results_of_many_rows_depend_on_nothing_that_buffers_held_before() -> None:
    case = Case(**{**MANY, "cell": "gru", "num_layers": 2})
    tensors = draw(case)
    with closing(program_of(case)) as program:
        before = run(program, case, tensors)
        program._buffers._room[...] = np.nan
        program._buffers._panel[...] = np.nan
        assert identical(before, run(program, case, tensors))

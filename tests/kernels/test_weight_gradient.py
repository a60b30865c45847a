"""Gradients of weights: panels of rows, shares of threads, and what threads with rows of their own add up apart."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import check, identical, program_of, run
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case
from unrollbench.kernels import weight_gradient
from unrollbench.kernels.spec import spec_of
from unrollbench.kernels.weight_gradient import PANEL_ROWS, ROWS_APART
from unrollbench.schedule import of_case
from unrollbench.tensors import draw


@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
@pytest.mark.parametrize(("units", "inputs"), [(1, 1), (7, 40), (16, 3), (37, 33)])
def test_threads_share_out_the_rows_of_a_weight_gradient_however_few_there_are(
    cell: str, units: int, inputs: int
) -> None:
    """Parts begin and end among the rows of x, of the operand and at the bias; of three rows some threads have none."""
    for threads in (2, 3, 5):
        axes = {"cell": cell, "num_units": units, "input_size": inputs, "batch_size": 20, "threads": threads}
        case = Case(**{**SMALL, **axes})
        tensors = draw(case)
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            check(case, tensors, run(program, case, tensors))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weight_gradients_over_more_rows_than_a_panel_are_the_references(cell: str) -> None:
    case = Case(**{**SMALL, "cell": cell, "parallel_iterations": 64})
    for T in (PANEL_ROWS // 3, PANEL_ROWS // 3 + 1, PANEL_ROWS):  # just below a panel of rows, above, and several
        longer = Case(**{**SMALL, "cell": cell, "parallel_iterations": 64, "sequence_length": T})
        tensors = draw(longer)
        check(longer, tensors, run(program_of(case), longer, tensors))


def test_weight_gradients_are_the_references_however_few_panels_are_packed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_gradient, "PANELS", 1)
    for threads in (1, 2):  # 39 units: kernels are shared by layout, and no other test has this one
        axes = {"cell": "lstm", "num_units": 39, "sequence_length": 50, "parallel_iterations": 64, "threads": threads}
        case = Case(**{**SMALL, **axes})
        tensors = draw(case)
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            check(case, tensors, run(program, case, tensors))


@pytest.fixture
def always_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if so few rows paid; kernels are shared by layout, so tests with this have sizes that no other test has."""
    monkeypatch.setattr(weight_gradient, "ROWS_APART", 1)


@pytest.mark.usefixtures("always_apart")
@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm", "lstm with everything"])
def test_gradients_that_threads_add_up_apart_are_the_references(name: str, execution: str) -> None:
    """Rows that come out even and not, more of them per step than a square of a transpose has, and lengths that end."""
    for batch, threads, units in ((9, 2, 43), (16, 3, 44), (70, 2, 45), (67, 4, 46)):
        axes = {"batch_size": batch, "threads": threads, "num_units": units, "num_layers": 2, "execution": execution}
        case = Case(**{**SMALL, **CELLS[name], **axes, "lengths": "uniform"})
        tensors = draw(case)
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            assert all(layout.sums_apart for layout in program.network.layouts)
            check(case, tensors, run(program, case, tensors))


@pytest.mark.usefixtures("always_apart")
@pytest.mark.parametrize("axes", [{"swap_memory": True}, {"parallel_iterations": 1}, {"unroll": 5}], ids=str)
def test_they_are_so_window_by_window(axes: dict[str, Any]) -> None:
    for dtype in ("float32", "float64"):
        wanted = {"cell": "lstm", "batch_size": 11, "threads": 2, "num_units": 47, "dtype": dtype, **axes}
        case = Case(**{**SMALL, **wanted})
        tensors = draw(case)
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            check(case, tensors, run(program, case, tensors))


@pytest.mark.usefixtures("always_apart")
def test_a_thread_without_rows_adds_nothing() -> None:
    case = Case(**{**SMALL, "cell": "lstm", "batch_size": 2, "threads": 4, "num_units": 3, "input_size": 2})
    tensors = draw(case)
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        assert all(layout.sums_apart for layout in program.network.layouts)
        check(case, tensors, run(program, case, tensors))


def test_a_program_adds_up_apart_or_not_as_the_steps_of_each_run_are_many_or_few() -> None:
    """What one run has left in the sums is nothing to the next."""
    batch, few = 16, 3
    many = -(-ROWS_APART // batch)
    axes = {"cell": "gru", "batch_size": batch, "threads": 2, "num_units": 21, "parallel_iterations": 32}
    cases = [Case(**{**SMALL, **axes, "sequence_length": T}) for T in (many, few, many, many - 1)]
    with closing(NetworkProgram(spec_of(cases[0]), of_case(cases[0]))) as program:
        results = []
        for case in cases:
            tensors = draw(case)
            results.append(run(program, case, tensors))
            check(case, tensors, results[-1])
        assert identical(results[0], results[2])


def test_memory_counts_the_sums_of_every_thread() -> None:
    axes = {"cell": "gru", "batch_size": 16, "num_units": 21}
    one, two = (Case(**{**SMALL, **axes, "threads": threads}) for threads in (1, 2))
    sizes = []
    for case in (one, two):
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            program.set_weights(draw(case).weights)
            program.forward(draw(case).inputs)
            sizes.append(program.memory().workspace_bytes or 0)
            kernels = sum(
                buffers[f"d_kernel_{s.index}"].nbytes
                for buffers in program._buffers.layers
                for s in buffers.layout.stages
            )
    assert sizes[1] - sizes[0] >= kernels > 0

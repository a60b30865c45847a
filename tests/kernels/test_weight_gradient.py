"""Gradients of weights: panels of rows, shares of threads, and what threads with rows of their own add up apart."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import check, identical, program_of, run
from tests.kernels.stacks import bottom, stack
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case
from unrollbench.kernels import weight_gradient
from unrollbench.kernels.spec import spec_of
from unrollbench.kernels.weight_gradient import PANEL_ROWS, ROWS_APART
from unrollbench.schedule import of_case
from unrollbench.tensors import Outputs, draw


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


def results_of(case: Case) -> Outputs:
    """What a program of the case computes, whose threads may add up gradients of their own rows."""
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        assert all(layout.sums_apart for layout in program.network.layouts)
        return run(program, case, draw(case))


MANY = {"cell": "lstm", "batch_size": 70, "threads": 2, "num_units": 13, "sequence_length": 31}
"""Rows enough that each of two threads adds up its own 35 per time step."""


@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm", "lstm with everything"])
def test_gradients_that_threads_add_up_of_their_own_rows_are_the_references(name: str, execution: str) -> None:
    """Rows per thread even and not, fewer and more than a square of a transpose has, and lengths that end early.

    With windows of 32 steps, or one of all, there are several panels, which begin within a step.
    """
    for batch, threads, T in ((70, 2, 31), (67, 4, 63), (9, 2, 140)):
        axes = {"batch_size": batch, "threads": threads, "sequence_length": T, "num_units": 7, "num_layers": 2}
        case = Case(**{**SMALL, **CELLS[name], **axes, "execution": execution, "parallel_iterations": 32})
        for lengths in ("full", "uniform"):
            ended = replace(case, lengths=lengths)
            given = draw(ended).lengths
            assert (T if given is None else given.max()) * batch >= ROWS_APART * threads
            check(ended, draw(ended), results_of(ended))


@pytest.mark.parametrize(
    "axes",
    [{"swap_memory": True}, {"parallel_iterations": 1}, {"unroll": 5}, {"dtype": "float64", "time_major": False}],
    ids=str,
)
def test_threads_add_up_their_own_rows_window_by_window(axes: dict[str, Any]) -> None:
    case = Case(**{**SMALL, **MANY, **axes})
    check(case, draw(case), results_of(case))


@pytest.mark.parametrize("batch", [1, 2])
def test_threads_without_rows_help_with_the_gradients_of_all(batch: int) -> None:
    axes = {"batch_size": batch, "threads": 3, "num_units": 3, "input_size": 2, "sequence_length": 3 * ROWS_APART}
    case = Case(**{**SMALL, **MANY, **axes})
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        (layout,) = program.network.layouts
        assert layout.split == "rows"
        assert not layout.sums_apart
        check(case, draw(case), run(program, case, draw(case)))


def test_repeated_runs_add_up_the_same() -> None:
    """No thread reads what another is still adding up."""
    case = Case(**{**SMALL, **MANY, "num_layers": 2, "threads": 3})
    tensors = draw(case)
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        results = [run(program, case, tensors) for _ in range(20)]
    check(case, tensors, results[0])
    assert all(identical(each, results[0]) for each in results[1:])


def test_a_program_adds_up_own_rows_or_all_as_the_steps_of_each_run_are_many_or_few() -> None:
    """What one run has left in the sums is nothing to the next."""
    enough = -(-ROWS_APART * 2 // 70)
    cases = [Case(**{**SMALL, **MANY, "sequence_length": T}) for T in (enough, 3, enough, enough - 1)]
    with closing(NetworkProgram(spec_of(cases[0]), of_case(cases[0]))) as program:
        results = []
        for case in cases:
            results.append(run(program, case, draw(case)))
            check(case, draw(case), results[-1])
        assert identical(results[0], results[2])


def test_threads_have_sums_of_their_own_where_they_have_rows_and_weights_are_few() -> None:
    def taken(**axes: Any) -> bool:
        return bottom(stack("lstm", **{"threads": 2, "batch": 8, **axes})).sums_apart

    assert taken()
    assert taken(units=400)
    assert not taken(units=600)  # 5.6 MiB of weights
    assert not taken(units=350, layers=2)  # 1.9 and 3.7 MiB
    assert not taken(threads=1)
    assert not taken(train=False)
    assert not taken(batch=3, units=300)  # they share rows
    assert not taken(batch=1)  # one has none
    assert not taken(batch=3)  # one has twice as many as the other
    assert taken(batch=2)
    assert taken(batch=9)


def test_memory_counts_the_sums_of_every_thread() -> None:
    case = Case(**{**SMALL, **MANY})
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        buffers = program._buffers
        before, sums = buffers.workspace_bytes, buffers._gradients
        assert sums is not None
        kernels = sum(b[f"d_kernel_{s.index}"].nbytes for b in buffers.layers for s in b.layout.stages)
        assert sums.nbytes == 2 * kernels
        buffers._gradients = sums[:1]
        assert before - buffers.workspace_bytes == kernels

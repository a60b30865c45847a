"""The CPU programs' results against the reference, and what the backend says about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.adversarial import ADVERSARIES, CELLS, SMALL, Adversary
from tests.backends.numba_programs import (
    EXECUTIONS,
    check,
    program_of,
    run,
    small,
)
from unrollbench.backends.numba_cpu import NumbaCpu
from unrollbench.case import Case
from unrollbench.tensors import draw

SHAPES = {"batch_size", "input_size", "num_units", "num_layers"}
"""Axes that kernels are compiled for; rows of the table that change none of them share a cell's kernels."""


def rows() -> Iterator[Any]:
    """Each row that can share a cell's kernels: with every cell and execution, and every second in forward mode too.

    Each of the others, which cost a compilation: with one or two cells in train mode and one in forward mode, in turn,
    half of them in float64, and with every execution.
    """
    for c, name in enumerate(CELLS):
        for a, adversary in enumerate(ADVERSARIES):
            reshapes = bool(SHAPES & set(adversary.axes))
            for mode, turn in (("train", 6 if reshapes else 1), ("forward", 8 if reshapes else 2)):
                if (a + c) % turn:
                    continue
                dtype = "float64" if reshapes and c % 2 else "float32"
                for execution in EXECUTIONS:
                    axes = {**CELLS[name], "execution": execution, "mode": mode, "dtype": dtype}
                    yield pytest.param(adversary, axes, id=f"{name}, {execution}, {mode}, {dtype}: {adversary}")


@pytest.mark.parametrize(("adversary", "axes"), list(rows()))
def test_results_are_the_references_where_recurrent_kernels_break(adversary: Adversary, axes: dict[str, Any]) -> None:
    case = adversary.case(**axes)
    tensors = adversary.tensors(case)
    check(case, tensors, run(program_of(case), case, tensors))


def random_case(seed: int) -> Case:
    """Any cell, shape and way of running it."""
    rng = np.random.default_rng(seed)

    def size(high: int) -> int:
        return int(rng.integers(1, high, endpoint=True))

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    layers, T, B = size(2), size(20), size(15)
    drawn: dict[str, Any] = {
        **one_of(*CELLS.values()),
        "mode": one_of("train", "train", "forward"),
        "execution": one_of(*EXECUTIONS),
        "dtype": one_of("float32", "float64"),
        "time_major": one_of(True, False),
        "swap_memory": one_of(True, False),
        "unroll": size(6),
        "parallel_iterations": size(10),
        "lengths": one_of("full", tuple(int(n) for n in rng.integers(0, T, B, endpoint=True))),
        "num_units": tuple(size(40) for _ in range(layers)),
    }
    return Case(sequence_length=T, batch_size=B, input_size=size(40), num_layers=layers, seed=seed, **drawn)


@pytest.mark.parametrize("seed", range(4))
def test_results_are_the_references_for_any_network_run_any_way(seed: int) -> None:
    case = random_case(seed)
    tensors = draw(case)
    check(case, tensors, run(program_of(case), case, tensors))


def test_a_backend_builds_a_program_that_holds_the_cases_tensors() -> None:
    case = Case(**{**SMALL, **CELLS["gru"], "lengths": (2, 7, 0), "time_major": False})
    tensors = draw(case)
    program = NumbaCpu().build(case, tensors)
    program.run()
    program.synchronize()
    check(case, tensors, program.outputs())
    assert program.build_phases_s["codegen"] > 0
    assert program.build_phases_s["llvm"] > 0
    program.close()


def test_a_backend_says_which_cases_it_cannot_run() -> None:
    backend = NumbaCpu()
    assert backend.why_not(Case()) is None
    assert "device" in (backend.why_not(Case(device="cuda")) or "")
    assert "library" in (backend.why_not(Case(execution="library")) or "")
    assert "threads" in (backend.why_not(Case(threads=100_000)) or "")


def test_a_wider_window_of_parallel_iterations_takes_more_workspace() -> None:
    def workspace(parallel_iterations: int) -> int:
        case, tensors, program = small(mode="forward", parallel_iterations=parallel_iterations, sequence_length=64)
        run(program, case, tensors)
        return program.memory().workspace_bytes or 0

    gate_bytes = 3 * 3 * 6 * 4  # B rows of 3 gates and 6 units; padding takes more
    assert workspace(10) - workspace(4) >= 6 * gate_bytes
    assert workspace(100) == workspace(64)  # no window is longer than the sequence
    assert workspace(100) > workspace(10)


def test_a_static_programs_workspace_grows_with_time_and_a_stepwise_ones_by_its_outputs_only() -> None:
    def workspace(execution: str, T: int) -> int:
        case, tensors, program = small(execution=execution, mode="forward", sequence_length=T, parallel_iterations=3)
        run(program, case, tensors)
        return program.memory().workspace_bytes or 0

    growth = {execution: workspace(execution, 11) - workspace(execution, 7) for execution in EXECUTIONS}
    assert growth["static"] > growth["dynamic"] == growth["stepwise"] > 0


def test_saved_activations_grow_with_time_and_forward_programs_save_none() -> None:
    saved = []
    for T in (4, 8, 12):
        case, tensors, program = small("lstm", sequence_length=T)
        run(program, case, tensors)
        saved.append(program.memory().saved_bytes or 0)
        assert saved[-1] >= case.activation_bytes
    assert saved[2] - saved[1] == saved[1] - saved[0] > 0
    case, tensors, program = small("lstm", mode="forward")
    run(program, case, tensors)
    assert program.memory().saved_bytes == 0


def test_packed_weights_are_at_least_as_large_as_the_weights_and_twice_in_training() -> None:
    for mode, copies in (("forward", 1), ("train", 2)):
        case, tensors, program = small("lstm", mode=mode)
        program.set_weights(tensors.weights)
        assert (program.memory().weight_bytes or 0) >= copies * (case.weight_bytes - 4 * 6 * 4)  # one copy of the bias


def test_a_listing_shows_the_program_its_graph_and_its_size() -> None:
    case, _, static = small(execution="static")
    listing = static.listing()
    forward, _, _ = listing.source.partition("def backward")
    assert forward.count("step_0(") == case.sequence_length
    assert listing.graph_nodes == 1 + 3 * case.sequence_length
    assert listing.code_bytes is not None
    assert listing.code_bytes > 1000
    assert listing.graph_dot is not None
    assert listing.graph_dot.startswith("digraph")
    _, _, dynamic = small(execution="dynamic")
    assert "while start < limit" in dynamic.listing().source

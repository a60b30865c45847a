"""The cells' equations, called from plain Python, against the reference's and against finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.adversarial import CELLS, stages
from unrollbench import cells, reference
from unrollbench.case import Case, CellOptions
from unrollbench.cells import Cell, LayerSpec, Stage
from unrollbench.tensors import Array, State, Weights, draw

STEP = 1e-6
"""Of a central difference: its truncation error is about STEP**2, its rounding error about 1e-16 / STEP."""
TOLERANCE = 1e-8
"""A hundred times the sum of both errors, for values of size 1."""


def spec_of(case: Case) -> LayerSpec:
    return LayerSpec(case.cell, case.cell_options, case.input_size, case.units[0])


def one_step(spec: LayerSpec, weights: Weights, x: Array, state: State) -> State:
    """The new state after the chain of stages; every stage reads the state from before the step."""
    cell = cells.load(spec.cell, spec.options, x.dtype.name)
    old: dict[str, Array] = dict(zip(cell.state, state, strict=True))
    gates: dict[str, Array] = {}
    new: dict[str, Array] = {}
    for stage in cell.stages:
        W_x, W_h, bias = cells.stage_weights(stage, spec, weights)
        operand = old[stage.operand] if stage.operand in old else new[stage.operand]
        pre = operand @ W_h + (0 if W_x is None else x @ W_x) + (0 if bias is None else bias)
        reads = [gates[name] if name in gates else old[name] for name in stage.reads]
        diagonals = [weights[name] for name in stage.diagonals]
        results = stage.forward(*np.split(pre, len(stage.gates), axis=-1), *reads, *diagonals)
        names = (*stage.gates, *stage.writes)
        assert len(results) == len(names)
        gates |= dict(zip(stage.gates, results, strict=False))
        new |= dict(zip(stage.writes, results[len(stage.gates) :], strict=True))
    return tuple(new[name] for name in cell.state)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_the_equations_is_a_step_of_the_reference(name: str) -> None:
    case = Case(**CELLS[name], dtype="float64", sequence_length=1, batch_size=4, input_size=5, num_units=7)
    tensors = draw(case)
    wanted = reference.expected(case, tensors).state[0]
    got = one_step(spec_of(case), tensors.weights[0], tensors.inputs[0], tensors.initial_state[0])
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=16 * np.finfo(np.float64).eps)


def results_that_count(stage: Stage, arguments: Sequence[Array]) -> list[Array]:
    """What later equations see of a stage: exposed gates and writes."""
    results = stage.forward(*arguments)
    return [results[stage.gates.index(name)] for name in stage.exposed] + list(results[len(stage.gates) :])


@pytest.mark.parametrize("stage", stages())
def test_a_stages_backward_is_the_derivative_of_its_forward(stage: Stage) -> None:
    rng = np.random.default_rng(0)
    names = (*stage.gates, *stage.reads, *stage.diagonals)
    arguments = [rng.standard_normal(200) for _ in names]
    cotangents = [rng.standard_normal(200) for _ in (*stage.exposed, *stage.writes)]
    results = stage.forward(*arguments)
    gates, writes = results[: len(stage.gates)], results[len(stage.gates) :]
    others = arguments[len(stage.gates) :]
    reads, diagonals = others[: len(stage.reads)], others[len(stage.reads) :]
    got = stage.backward(*gates, *reads, *writes, *diagonals, *cotangents)
    assert len(got) == len(names)
    for index, name in enumerate(names):
        moved = []
        for sign in (1, -1):
            shifted = [a + sign * STEP * (i == index) for i, a in enumerate(arguments)]
            moved.append(results_that_count(stage, shifted))
        pairs = zip(cotangents, *moved, strict=True)
        wanted = sum(d * (up - down) for d, up, down in pairs) / (2 * STEP)
        np.testing.assert_allclose(got[index], wanted, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("stage", stages())
def test_a_stage_reads_only_what_an_earlier_one_leaves(stage: Stage) -> None:
    assert set(stage.exposed) <= set(stage.gates)
    assert len(set(stage.gates) | set(stage.diagonals)) == len(stage.gates) + len(stage.diagonals)


@pytest.mark.parametrize("name", CELLS)
def test_constants_take_the_dtype_so_that_float32_stays_float32(name: str) -> None:
    case = Case(**CELLS[name], dtype="float32", sequence_length=1, batch_size=2, input_size=3, num_units=4)
    tensors = draw(case)
    state = one_step(spec_of(case), tensors.weights[0], tensors.inputs[0], tensors.initial_state[0])
    assert {array.dtype for array in state} == {np.dtype(np.float32)}


def cell_of(name: str) -> Cell:
    axes = CELLS[name]
    return cells.load(axes["cell"], axes.get("cell_options", CellOptions()), "float32")


@pytest.mark.parametrize("name", CELLS)
def test_every_state_array_is_written_once_and_h_is_one_of_them(name: str) -> None:
    cell = cell_of(name)
    written = [array for stage in cell.stages for array in stage.writes]
    assert sorted(written) == sorted((*cell.state, *cell.temporaries))
    assert "h" in cell.state


def test_options_that_are_off_leave_no_trace_in_the_chain() -> None:
    plain, full = cell_of("lstm"), cell_of("lstm with everything")
    assert [stage.diagonals for stage in plain.stages] == [()]
    assert [stage.diagonals for stage in full.stages] == [("w_i_diag", "w_f_diag", "w_o_diag"), ()]
    assert [stage.projects for stage in full.stages] == [False, True]
    assert full.projected == {"h"}


def test_equal_options_give_the_same_cell_so_that_kernels_are_shared() -> None:
    assert cell_of("gru") is cell_of("gru")
    assert cell_of("lstm") is not cell_of("lstm with forget_bias 0")


@pytest.mark.parametrize("P", [None, 3])
def test_a_layers_output_size_is_its_projection_or_its_units(P: int | None) -> None:
    assert LayerSpec("lstm", CellOptions(num_proj=P), 5, 7).output_size == (P or 7)

"""No way of running a network changes its results: every execution, window, body, swap and team of threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.stacks import sharing_rows
from unrollbench import rnn
from unrollbench.reference import forward_backward
from unrollbench.tensors import Array, State

BATCH, INPUTS, MAX_TIME = 3, 4, 7
DTYPE = "float64"

WAYS: Mapping[str, Mapping[str, Any]] = {
    "static": {"execution": "static", "threads": 1},
    "static on two threads that share rows, time-major": {"execution": "static", "threads": 2, "time_major": True},
    "dynamic": {"execution": "dynamic", "threads": 1},
    "dynamic, a window of one step": {"execution": "dynamic", "threads": 1, "parallel_iterations": 1},
    "dynamic, three steps in the body, a window of two": {
        "execution": "dynamic",
        "threads": 1,
        "unroll": 3,
        "parallel_iterations": 2,
        "time_major": True,
    },
    "dynamic on two threads with rows of their own": {"execution": "dynamic", "threads": 2},
    "dynamic on two threads that share rows, swapping": {"execution": "dynamic", "threads": 2, "swap_memory": True},
    "dynamic, swapping through a window of two": {
        "execution": "dynamic",
        "threads": 1,
        "swap_memory": True,
        "parallel_iterations": 2,
        "unroll": 2,
        "time_major": True,
    },
    "stepwise": {"execution": "stepwise", "threads": 1},
}


@pytest.fixture(scope="module")
def cell() -> rnn.MultiRNNCell:
    """Unequal layers of every kind of cell, with every option."""
    stack = rnn.MultiRNNCell(
        [
            rnn.LSTMCell(5, use_peepholes=True, cell_clip=0.8, num_proj=3, proj_clip=0.5, forget_bias=0.7),
            rnn.GRUCell(6),
            rnn.BasicRNNCell(2),
        ]
    )
    stack.build(INPUTS, DTYPE, seed=3)
    return stack


@pytest.fixture(scope="module")
def programs(cell: rnn.MultiRNNCell) -> Iterator[Mapping[str, rnn.Program]]:
    """One program per way, compiled once for all examples."""
    shape: dict[str, Any] = {"max_time": MAX_TIME, "batch_size": BATCH, "dtype": DTYPE, "mode": "train"}
    compiled = {}
    for name, way in WAYS.items():
        with pytest.MonkeyPatch.context() as patch:
            if "share rows" in name:
                sharing_rows(patch)
            compiled[name] = rnn.compile(cell, **shape, **way)
    yield compiled
    for program in compiled.values():
        program.close()


calls = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "steps": st.integers(1, MAX_TIME),
        "lengths": st.none() | st.lists(st.floats(0, 1), min_size=BATCH, max_size=BATCH),
        "initial_state": st.booleans(),
        "poisoned": st.booleans(),
    }
)


@pytest.mark.parametrize("way", WAYS)
@given(call=calls)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_results_are_the_reference_s_whatever_the_execution(
    cell: rnn.MultiRNNCell, programs: Mapping[str, rnn.Program], way: str, call: dict[str, Any]
) -> None:
    program, steps = programs[way], call["steps"]
    rng = np.random.default_rng(call["seed"])
    lengths = None if call["lengths"] is None else np.array([round(f * steps) for f in call["lengths"]])
    inputs, d_outputs = rng.standard_normal((steps, BATCH, INPUTS)), rng.standard_normal((steps, BATCH, 2))
    start, d_state = (_state(cell, rng, scale) for scale in (float(call["initial_state"]), 1.0))
    wanted = forward_backward(
        cell.specs, inputs, lengths, start, [layer.weights for layer in cell.layers], d_outputs, d_state
    )
    if call["poisoned"] and lengths is not None:
        padding = np.arange(steps)[:, None] >= lengths
        inputs[padding], d_outputs[padding] = np.nan, np.inf
    given_state = cell.nest(iter(start)) if call["initial_state"] else None
    outputs, state = program(_layout(program, inputs), lengths, given_state)
    gradients = program.backward(_layout(program, d_outputs), cell.nest(iter(d_state)))
    assert wanted.gradients is not None
    _close(_layout(program, outputs), wanted.outputs)
    _close_states(cell, state, wanted.state)
    _close(_layout(program, gradients.inputs), wanted.gradients.inputs)
    _close_states(cell, gradients.initial_state, wanted.gradients.initial_state)
    for got, expected in zip(gradients.weights, wanted.gradients.weights, strict=True):
        for name, array in expected.items():
            _close(got[name], array)


def test_weights_set_after_compiling_are_those_of_the_next_call(
    cell: rnn.MultiRNNCell, programs: Mapping[str, rnn.Program]
) -> None:
    before = cell.weights
    inputs = np.ones((MAX_TIME, BATCH, INPUTS))
    start = _state(cell, np.random.default_rng(0), 1.0)
    try:
        cell.set_weights([{name: array / 2 for name, array in layer.items()} for layer in before])
        wanted = forward_backward(cell.specs, inputs, None, start, cell.weights, None, None).outputs
        for program in programs.values():
            _close(_layout(program, program(_layout(program, inputs), None, cell.nest(iter(start)))[0]), wanted)
    finally:
        cell.set_weights(before)


def test_gradients_may_be_asked_for_twice(cell: rnn.MultiRNNCell, programs: Mapping[str, rnn.Program]) -> None:
    for program in programs.values():
        program(np.ones(program.settings.shape(MAX_TIME, INPUTS)), [7, 0, 3])
        d_outputs = np.ones(program.settings.shape(MAX_TIME, 2))
        first, twice, again = (program.backward(d) for d in (d_outputs, 2 * d_outputs, d_outputs))
        _close(twice.inputs, 2 * first.inputs)
        np.testing.assert_array_equal(again.inputs, first.inputs)
        np.testing.assert_array_equal(again.weights[0]["kernel"], first.weights[0]["kernel"])


def test_a_static_program_has_as_many_copies_of_the_step_as_it_was_built_for(
    programs: Mapping[str, rnn.Program],
) -> None:
    static, dynamic = programs["static"].listing(), programs["dynamic"].listing()
    assert static.graph_nodes is not None
    assert dynamic.graph_nodes is not None
    assert static.graph_nodes > dynamic.graph_nodes


def _state(cell: rnn.RNNCell, rng: np.random.Generator, scale: float) -> list[State]:
    zeros = cell.flatten_state("state", cell.zero_state(BATCH, DTYPE), BATCH, DTYPE)
    return [tuple(scale * rng.standard_normal(array.shape) for array in layer) for layer in zeros]


def _layout(program: rnn.Program, array: Array) -> Array:
    return array if program.settings.time_major else array.swapaxes(0, 1)


def _close_states(cell: rnn.RNNCell, got: Any, wanted: tuple[State, ...]) -> None:
    for layer, expected in zip(cell.flatten_state("state", got, BATCH, DTYPE), wanted, strict=True):
        for array, other in zip(layer, expected, strict=True):
            _close(array, other)


def _close(got: Array, wanted: Array) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)

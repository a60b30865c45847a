"""`unrollbench.rnn` on the GPU: the same calls on both devices give the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pytest

from unrollbench import rnn
from unrollbench.errors import ArgumentError, OrderError
from unrollbench.rnn import devices
from unrollbench.tensors import Array

BATCH, INPUTS, MAX_TIME = 3, 4, 5

CELLS: dict[str, Callable[[], rnn.RNNCell]] = {
    "basic_rnn": lambda: rnn.BasicRNNCell(5),
    "gru": lambda: rnn.GRUCell(5),
    "basic lstm": lambda: rnn.BasicLSTMCell(5, forget_bias=0.3),
    "lstm with everything": lambda: rnn.LSTMCell(
        6, use_peepholes=True, cell_clip=0.8, num_proj=3, proj_clip=0.5, forget_bias=0.7
    ),
    "stack": lambda: rnn.MultiRNNCell(
        [rnn.LSTMCell(5, use_peepholes=True, num_proj=3), rnn.GRUCell(6), rnn.BasicRNNCell(2)]
    ),
}
WAYS: dict[str, dict[str, Any]] = {
    "static": {"execution": "static"},
    "static, time-major": {"execution": "static", "time_major": True},
    "dynamic": {"execution": "dynamic", "parallel_iterations": 2, "unroll": 3, "time_major": True},
    "dynamic, swapping": {"execution": "dynamic", "parallel_iterations": 2, "unroll": 2, "swap_memory": True},
    "stepwise": {"execution": "stepwise"},
}
PAIRS = (("basic_rnn", "stepwise"), ("gru", "static"), ("basic lstm", "dynamic"), *(("stack", way) for way in WAYS))
PAIRS += (("lstm with everything", "dynamic, swapping"), ("lstm with everything", "static, time-major"))
"""Every cell, and the stack of unlike ones every way; `test_results` has all cells in all executions."""
CALLS: tuple[tuple[int, Any], ...] = ((5, None), (3, [3, 0, 1]), (1, [1, 1, 0]), (5, [4, 5, 0]), (2, None), (0, None))
"""Steps and sequence_length of calls of one program."""
LONG_CALLS = (*CALLS, (9, [9, 0, 8]), (5, None))


@pytest.fixture
def compiled() -> Iterator[Callable[..., rnn.Program]]:
    """What compiles a cell for a device, for training in float64; all programs are closed in the end."""
    with ExitStack() as programs:

        def compiled(cell: rnn.RNNCell, device: str, **arguments: Any) -> rnn.Program:
            given = {
                "max_time": MAX_TIME,
                "batch_size": BATCH,
                "input_size": INPUTS,
                "dtype": np.float64,
                "mode": "train",
            }
            threads = 1 if device == "cpu" else None
            program = rnn.compile(cell, **{**given, "device": device, "threads": threads, **arguments})
            return programs.enter_context(program)

        yield compiled


@pytest.fixture
def on_cuda(compiled: Callable[..., rnn.Program]) -> Callable[..., rnn.Program]:
    """What compiles a cell for the simulated GPU."""
    return partial(compiled, device="cuda")


@pytest.fixture
def pair(compiled: Callable[..., rnn.Program]) -> Callable[..., list[rnn.Program]]:
    """What compiles a cell on both devices."""
    return lambda cell, **arguments: [compiled(cell, device, **arguments) for device in ("cpu", "cuda")]


def leaves(nested: Any) -> list[Array]:
    """The arrays of nested tuples, lists, dicts and gradients, in order."""
    if isinstance(nested, np.ndarray):
        return [nested]
    if isinstance(nested, rnn.Gradients):
        nested = (nested.inputs, nested.weights, nested.initial_state)
    return [array for part in (nested.values() if isinstance(nested, dict) else nested) for array in leaves(part)]


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-11) -> None:
    found, expected = leaves(got), leaves(wanted)
    assert [a.shape for a in found] == [a.shape for a in expected]
    for array, other in zip(found, expected, strict=True):
        assert array.dtype == other.dtype
        scale = max(float(np.abs(other).max(initial=0)), 1.0)
        np.testing.assert_allclose(array, other, rtol=0, atol=tolerance * scale)


def normal_like(nested: Any, rng: np.random.Generator) -> Any:
    """A nested state of the same shapes."""
    if isinstance(nested, np.ndarray):
        return np.asarray(rng.standard_normal(nested.shape), nested.dtype)
    parts = [normal_like(part, rng) for part in nested]
    return type(nested)(*parts) if isinstance(nested, rnn.LSTMStateTuple) else tuple(parts)


def drawn(program: rnn.Program, steps: int, seed: int) -> tuple[Array, Array, Any, Any]:
    """(inputs, initial state, cotangents of outputs and of state) for a call."""
    rng, settings, cell = np.random.default_rng(seed), program.settings, program.cell
    zeros = cell.zero_state(settings.batch_size, settings.dtype)
    inputs = rng.standard_normal(settings.shape(steps, INPUTS)).astype(settings.dtype)
    d_outputs = rng.standard_normal(settings.shape(steps, cell.output_size)).astype(settings.dtype)
    return inputs, normal_like(zeros, rng), d_outputs, normal_like(zeros, rng)


def called(program: rnn.Program, steps: int, lengths: Sequence[int] | None, seed: int) -> tuple[Any, ...]:
    """All results of a call, with NaN where the lengths say that nobody looks."""
    inputs, state, d_outputs, d_state = drawn(program, steps, seed)
    if lengths is not None:
        past = np.arange(steps) >= np.array(lengths)[:, None]
        for array in (inputs, d_outputs):
            array[past.T if program.settings.time_major else past] = np.nan
    outputs, final = program(inputs, lengths, state if seed % 2 else None)
    if program.settings.mode == "forward":
        return outputs, final
    return outputs, final, program.backward(d_outputs, d_state if seed % 3 else None)


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_both_devices_compute_the_same_in_every_call(name: str, way: str, pair: Any) -> None:
    here, there = pair(CELLS[name](), **WAYS[way])
    calls = CALLS if WAYS[way]["execution"] == "static" else LONG_CALLS
    for seed, (steps, lengths) in enumerate(calls):
        assert_close(called(there, steps, lengths, seed), called(here, steps, lengths, seed))


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_both_devices_compute_the_same_forwards_in_float32(way: str, pair: Any) -> None:
    here, there = pair(CELLS["stack"](), **WAYS[way], mode="forward", dtype=np.float32)
    tolerance = float(64 * np.finfo(np.float32).eps * np.sqrt(MAX_TIME))
    for seed, (steps, lengths) in enumerate(CALLS):
        assert_close(called(there, steps, lengths, seed), called(here, steps, lengths, seed), tolerance)
    with pytest.raises(OrderError, match='mode="train"'):
        there.backward()


@pytest.mark.parametrize("way", ["static", "dynamic, swapping"])
def test_weights_set_between_calls_are_those_of_the_next_call(way: str, pair: Any) -> None:
    cell = CELLS["gru"]()
    here, there = pair(cell, **WAYS[way])
    _, _, d_outputs, _ = drawn(there, 4, 0)
    for program in (here, there):
        program(drawn(program, 4, 0)[0])
    cell.set_weights({name: array / 2 for name, array in cell.weights.items()})
    assert_close(there.backward(d_outputs), here.backward(d_outputs))  # those of the weights that the call used
    assert_close(called(there, 3, None, 1), called(here, 3, None, 1))


@pytest.mark.parametrize("way", ["static", "dynamic, swapping", "stepwise"])
def test_gradients_may_be_asked_for_twice(way: str, on_cuda: Any) -> None:
    program = on_cuda(CELLS["gru"](), **WAYS[way])
    inputs, state, d_outputs, d_state = drawn(program, 4, 1)
    program(inputs, [4, 0, 2], state)
    first = program.backward(d_outputs, d_state)
    assert not program.backward().inputs.any()
    for array, again in zip(leaves(first), leaves(program.backward(d_outputs, d_state)), strict=True):
        np.testing.assert_array_equal(again, array)


def test_an_empty_batch_has_empty_results(pair: Any) -> None:
    here, there = pair(CELLS["stack"](), batch_size=0)
    assert_close(called(there, 4, None, 1), called(here, 4, None, 1))
    with pytest.raises(OrderError, match="empty batch"):
        there.listing()


def test_a_static_program_names_the_length_that_it_was_built_for(on_cuda: Any) -> None:
    program = on_cuda(CELLS["gru"](), execution="static")
    with pytest.raises(ArgumentError, match="6 time steps, but this static program was built for 5"):
        program(drawn(program, 6, 0)[0])
    program(drawn(program, 5, 0)[0])


def test_gradients_need_a_call_before_and_a_program_that_is_open(on_cuda: Any) -> None:
    program = on_cuda(CELLS["gru"]())
    with pytest.raises(OrderError, match="not called yet"):
        program.backward()
    program(drawn(program, 2, 0)[0])
    program.close()
    program.close()
    for use in (lambda: program(drawn(program, 2, 0)[0]), program.backward, program.listing, program.memory):
        with pytest.raises(OrderError, match="closed"):
            use()


def test_a_program_says_what_it_is_and_what_it_takes_of_the_device(on_cuda: Any) -> None:
    program = on_cuda(CELLS["gru"](), execution="static", mode="forward")
    assert "# static: not recorded until it is called" in program.listing().source
    program(drawn(program, 2, 0)[0])
    listing, memory = program.listing(), program.memory()
    assert "# device: simulator" in listing.source
    assert f"# static: {listing.graph_nodes} kernels launched in order" in listing.source
    assert memory.device_bytes == memory.device_peak_bytes
    assert memory.device_bytes > memory.weight_bytes > 0


def test_a_body_longer_than_a_window_that_is_swapped_is_refused() -> None:
    arguments: dict[str, Any] = {"mode": "train", "batch_size": 2, "input_size": 3, "device": "cuda"}
    with pytest.raises(ArgumentError, match="unroll = 4 with swap_memory: a window of parallel_iterations = 2 steps"):
        rnn.compile(rnn.GRUCell(2), **arguments, unroll=4, parallel_iterations=2, swap_memory=True)
    # Nothing is swapped forwards, where nothing is saved.
    given = {**arguments, "mode": "forward"}
    rnn.compile(rnn.GRUCell(2), **given, unroll=4, parallel_iterations=2, swap_memory=True).close()


def test_every_backend_of_a_device_builds_networks() -> None:
    assert all(isinstance(devices.builder(device), devices.Builder) for device in devices.BACKENDS)

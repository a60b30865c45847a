"""Several runs of one CPU program: what may change between them, and what must not."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import (
    EXECUTIONS,
    arrays,
    check,
    identical,
    nothing_compiled,
    run,
    small,
)
from unrollbench.backends.numba_cpu import NetworkProgram, NumbaCpu
from unrollbench.case import Case
from unrollbench.kernels import division, pack
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import Outputs, draw


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_two_runs_give_the_same_bits(execution: str, mode: str) -> None:
    case, tensors, program = small(execution=execution, mode=mode)
    assert identical(run(program, case, tensors), run(program, case, tensors))


def test_a_case_program_gives_the_same_bits_in_every_run() -> None:
    case = Case(**{**SMALL, **CELLS["lstm"]})
    program = NumbaCpu().build(case, draw(case))
    program.run()
    first = program.outputs()
    program.run()
    assert identical(first, program.outputs())
    program.close()


@pytest.mark.parametrize(
    "axes",
    [
        {"execution": "dynamic", "mode": "forward"},
        {"execution": "dynamic"},
        {"execution": "dynamic", "swap_memory": True},
        {"execution": "stepwise", "mode": "forward"},
        {"execution": "stepwise"},
    ],
    ids=str,
)
def test_time_may_change_from_call_to_call_and_nothing_is_compiled_again(axes: dict[str, Any]) -> None:
    case, tensors, program = small(**axes)
    run(program, case, tensors)
    for T in (1, 9, 2, 20, 7):
        longer = replace(case, sequence_length=T, seed=T)
        tensors = draw(longer)
        with nothing_compiled():
            results = run(program, longer, tensors)
        check(longer, tensors, results)


@pytest.mark.parametrize("steps_ahead", [8, 16])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("cell", "axes"),
    [
        ("lstm with peepholes", {"num_units": (150, 90), "num_layers": 2}),
        ("lstm", {"input_size": 130, "num_units": 100, "mode": "forward"}),
        ("gru", {"input_size": 40, "num_units": 120}),
        ("basic_rnn", {"num_units": 250, "num_layers": 2, "mode": "forward"}),
        ("lstm", {"num_units": 130, "mode": "forward", "parallel_iterations": 16}),
        ("gru", {"input_size": 1, "num_units": 70, "mode": "forward"}),
    ],
)
def test_inputs_that_are_projected_ahead_are_those_of_every_length(
    monkeypatch: pytest.MonkeyPatch, cell: str, axes: dict[str, Any], threads: int, steps_ahead: int
) -> None:
    monkeypatch.setattr(division, "_steps_ahead", lambda *_: steps_ahead)  # on hosts, too, where it would cost
    case = Case(**{**SMALL, **CELLS[cell], "batch_size": 1, "parallel_iterations": 48, **axes, "threads": threads})
    program = NetworkProgram(spec_of(case), of_case(case))
    try:
        assert all(layout.projects_ahead for layout in program.network.layouts)
        for T, length in (
            (50, 50), (7, 7), (8, 8), (12, 12), (15, 15), (16, 16), (23, 23), (32, 32), (33, 20), (100, 100), (97, 96),
            (48, 0),
        ):  # fmt: skip
            longer = replace(case, sequence_length=T, lengths=(length,), seed=T)
            tensors = draw(longer)
            found = run(program, longer, tensors)
            check(longer, tensors, found)
            assert identical(run(program, longer, tensors), found)  # a race would show
    finally:
        program.close()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["lstm with peepholes", "lstm with projection", "gru"])
def test_nothing_of_an_earlier_run_is_in_the_gradients(execution: str, name: str) -> None:
    case, tensors, program = small(name, execution=execution, parallel_iterations=3)
    for lengths in ([7, 7, 5], [0, 2, 1], [0, 0, 0], [3, 0, 7]):
        results = run(program, case, replace(tensors, lengths=np.array(lengths)))
        of_lengths = replace(case, lengths=tuple(lengths))
        check(of_lengths, draw(of_lengths), results)


def test_a_static_program_takes_no_other_number_of_time_steps() -> None:
    case, tensors, program = small(execution="static")
    for T in (6, 8):
        inputs = draw(replace(case, sequence_length=T)).inputs
        with pytest.raises(ValueError, match=f"{T} time steps.*built for 7"):
            program.forward(inputs)
    check(case, tensors, run(program, case, tensors))


@pytest.mark.parametrize("lengths", [(0, 8, 1), (-1, 2, 3)])
def test_lengths_outside_the_inputs_are_refused(lengths: tuple[int, ...]) -> None:
    _, tensors, program = small()
    with pytest.raises(ValueError, match="lengths"):
        program.forward(tensors.inputs, np.array(lengths), tensors.initial_state)


def test_the_backward_pass_belongs_to_the_inputs_set_last() -> None:
    case, first, program = small("lstm")
    other = replace(case, seed=5)
    second = draw(other)
    run(program, case, first)
    check(other, second, run(program, other, second))
    check(case, first, run(program, case, first))


def test_a_second_backward_pass_of_one_forward_pass_takes_its_own_cotangents() -> None:
    case, tensors, program = small("lstm")
    results = run(program, case, tensors)
    assert tensors.d_outputs is not None
    negated = replace(
        tensors,
        d_outputs=-tensors.d_outputs,
        d_state=tuple(tuple(-array for array in layer) for layer in tensors.d_state or ()),
    )
    again = Outputs(results.outputs, results.state, program.backward(negated.d_outputs, negated.d_state))
    check(case, negated, again)


def test_missing_states_and_cotangents_are_zero() -> None:
    case, tensors, program = small("lstm")
    assert tensors.d_outputs is not None
    zeros = tuple(tuple(np.zeros_like(array) for array in layer) for layer in tensors.initial_state)
    no_outputs = np.zeros_like(tensors.d_outputs)
    program.set_weights(tensors.weights)
    for d_outputs, d_state in ((tensors.d_outputs, None), (None, tensors.d_state)):
        outputs, state = program.forward(tensors.inputs)
        got = Outputs(outputs, state, program.backward(d_outputs, d_state))
        cotangents = no_outputs if d_outputs is None else d_outputs, d_state or zeros
        wanted = replace(tensors, initial_state=zeros, d_outputs=cotangents[0], d_state=cotangents[1])
        check(case, wanted, got)
    nothing = Outputs(no_outputs, (), program.backward())
    assert not any(array.any() for array in arrays(nothing))


def test_results_belong_to_the_caller_and_the_tensors_are_never_written() -> None:
    case, tensors, program = small("lstm")
    before = [array.copy() for array in (tensors.inputs, *tensors.weights[0].values(), *tensors.initial_state[0])]
    first = run(program, case, tensors)
    kept = [array.copy() for array in arrays(first)]
    run(program, replace(case, seed=9), draw(replace(case, seed=9)))
    for array, copy in zip(arrays(first), kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.owndata or array.base is not None
        array[...] = np.nan  # theirs to write
    check(case, tensors, run(program, case, tensors))
    after = (tensors.inputs, *tensors.weights[0].values(), *tensors.initial_state[0])
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_tensors_may_be_dropped_once_they_are_set() -> None:
    case, tensors, program = small("gru", sequence_length=9)
    program.set_weights([{name: array.copy() for name, array in layer.items()} for layer in tensors.weights])
    program.set_inputs(
        tensors.inputs.copy(), None, tuple(tuple(a.copy() for a in layer) for layer in tensors.initial_state)
    )
    fillers = [np.full_like(tensors.inputs, np.nan) for _ in range(50)]  # would land in memory that was freed
    program.run_forward()
    wanted = replace(case, mode="forward")
    check(wanted, replace(tensors, d_outputs=None, d_state=None), Outputs(program.outputs(), program.final_state()))
    assert len(fillers) == 50


@pytest.mark.parametrize("execution", ["dynamic", "stepwise"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_first_call_may_have_no_time_steps(execution: str, threads: int) -> None:
    case = Case(**{**SMALL, **CELLS["gru"], "execution": execution, "threads": threads})
    state = draw(case).initial_state
    assert state is not None
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        with pytest.raises(RuntimeError, match="no inputs"):
            program.run_forward()
        program.set_weights(draw(case).weights)
        outputs, final = program.forward(np.zeros((0, case.batch_size, case.input_size), np.float32), None, state)
        gradients = program.backward(None, state)
    assert outputs.shape == (0, case.batch_size, case.num_units)
    np.testing.assert_array_equal(final[0][0], state[0][0])
    np.testing.assert_array_equal(gradients.initial_state[0][0], state[0][0])
    assert not any(array.any() for array in gradients.weights[0].values())


@pytest.mark.parametrize(
    "lengths", [np.array([2, 1]), np.array([[2], [1], [1]]), np.array([3, 1, 1]), np.array([-1, 1, 1])]
)
def test_wrong_lengths_change_nothing(lengths: np.ndarray) -> None:
    case, tensors, program = small()
    run(program, case, tensors)
    with pytest.raises(ValueError, match="lengths"):
        program.set_inputs(tensors.inputs[:2], lengths, None)
    assert program.backward(tensors.d_outputs, tensors.d_state).inputs.shape == tensors.inputs.shape


def test_a_program_without_room_for_a_longer_call_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    case, tensors, program = small(execution="dynamic")
    run(program, case, tensors)
    longer, allocate = replace(case, sequence_length=30), pack.aligned
    given: list[tuple[int, ...]] = []

    def room_for_one(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if given:
            raise MemoryError(f"{shape} of {dtype}")
        given.append(shape)
        return allocate(shape, dtype)

    with monkeypatch.context() as patched:
        patched.setattr(pack, "aligned", room_for_one)
        for _ in range(2):
            with pytest.raises(MemoryError):
                program.set_inputs(draw(longer).inputs, None, None)
            assert program.memory().saved_bytes == 0, "what there was room for is given back"
            for call in (program.run_forward, program.run_backward, program.backward):
                with pytest.raises(RuntimeError, match="no inputs"):
                    call()
        assert len(given) == 1
    for now in (longer, case):
        check(now, draw(now), run(program, now, draw(now)))

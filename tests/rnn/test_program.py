"""Compiled programs: their arguments, padding, gradients' nesting, order of calls. The reference computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.rnn.reference_program import ReferenceProgram
from unrollbench import rnn
from unrollbench.errors import ArgumentError, OrderError
from unrollbench.rnn import LSTMStateTuple

pytestmark = pytest.mark.usefixtures("built")

Built = list[ReferenceProgram]


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def stack() -> rnn.MultiRNNCell:
    return rnn.MultiRNNCell([rnn.LSTMCell(4, num_proj=3), rnn.GRUCell(5)])


def train(cell: rnn.RNNCell, **arguments: Any) -> rnn.Program:
    given = {"execution": "dynamic", "batch_size": 2, "input_size": 3, "dtype": np.float64, "threads": 1, **arguments}
    return rnn.compile(cell, mode="train", **given)


def test_compile_builds_the_cell_and_the_program(built: Built) -> None:
    cell = rnn.GRUCell(4)
    program = rnn.compile(cell, execution="static", max_time=7, batch_size=2, input_size=3, unroll=1, threads=2)
    assert isinstance(program, rnn.Program)
    assert (cell.input_size, cell.dtype) == (3, "float32")
    wanted = {
        "execution": "static",
        "mode": "forward",
        "max_time": 7,
        "batch_size": 2,
        "dtype": "float32",
        "threads": 2,
    }
    assert {name: built[0].settings[name] for name in wanted} == wanted
    assert program.listing().source == "the reference"
    assert program.memory().weight_bytes == 1


def test_a_built_cell_tells_compile_its_input_size_and_dtype(built: Built) -> None:
    cell = rnn.GRUCell(4)
    cell.build(3, np.float64)
    rnn.compile(cell, batch_size=2)
    assert built[0].layers[0].input_size == 3
    assert built[0].settings["dtype"] == "float64"


def test_unroll_full_is_max_time_and_no_threads_are_all_processors(built: Built) -> None:
    rnn.compile(rnn.GRUCell(4), max_time=9, batch_size=2, input_size=3, unroll="full")
    assert built[0].settings["unroll"] == 9
    assert built[0].settings["threads"] >= 1


def test_a_dynamic_program_takes_any_number_of_steps() -> None:
    cell = stack()
    program = train(cell)
    for steps in (5, 2, 9, 0):
        assert program(normal(2, steps, 3))[0].shape == (2, steps, 5)
        assert program.backward(normal(2, steps, 5)).inputs.shape == (2, steps, 3)


def test_gradients_are_nested_as_weights_and_state() -> None:
    cell = stack()
    program = train(cell)
    outputs, state = program(normal(2, 4, 3))
    gradients = program.backward(np.ones_like(outputs), state)
    assert [g.keys() for g in gradients.weights] == [w.keys() for w in cell.weights]
    assert isinstance(gradients.initial_state[0], LSTMStateTuple)
    assert gradients.initial_state[1].shape == (2, 5)
    single = rnn.GRUCell(2)
    program = train(single)
    program(normal(2, 4, 3))
    assert program.backward(d_state=np.ones((2, 2))).weights.keys() == single.weights.keys()


@pytest.mark.parametrize("time_major", [False, True])
def test_fewer_steps_than_a_static_program_has_are_padded_and_cut(time_major: bool) -> None:
    cell, x, d = stack(), normal(2, 4, 3), normal(2, 4, 5)
    if time_major:
        x, d = x.swapaxes(0, 1), d.swapaxes(0, 1)
    long = train(cell, execution="static", max_time=9, time_major=time_major)
    exact = train(cell, execution="static", max_time=4, time_major=time_major)
    for lengths in (None, [1, 4]):
        outputs, state = long(x, lengths)
        wanted, wanted_state = exact(x, lengths)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-12)
        np.testing.assert_allclose(state[0].c, wanted_state[0].c, rtol=1e-12)
        got, expected = long.backward(d), exact.backward(d)
        np.testing.assert_allclose(got.inputs, expected.inputs, rtol=1e-12)
        np.testing.assert_allclose(got.weights[0]["kernel"], expected.weights[0]["kernel"], rtol=1e-10)


def test_more_steps_than_a_static_program_has_are_an_error_that_says_what_to_do() -> None:
    program = train(rnn.GRUCell(2), execution="static", max_time=4)
    with pytest.raises(
        ArgumentError, match=r"5 time steps, but .* built for 4; compile it with max_time=5, or .*dynamic"
    ):
        program(normal(2, 5, 3))


def test_cotangents_past_a_row_s_length_do_not_matter() -> None:
    program = train(rnn.GRUCell(5))
    d = normal(2, 4, 5)
    program(normal(2, 4, 3), [1, 4])
    clean = program.backward(d)
    d[0, 1:] = np.nan
    poisoned = program.backward(d)
    np.testing.assert_array_equal(poisoned.inputs, clean.inputs)
    np.testing.assert_array_equal(poisoned.weights["gates/kernel"], clean.weights["gates/kernel"])
    assert not poisoned.inputs[0, 1:].any()


def test_no_cotangent_is_zero() -> None:
    program = train(rnn.GRUCell(5))
    program(normal(2, 4, 3))
    assert not program.backward().inputs.any()


def test_gradients_of_an_empty_batch_are_empty_or_zero() -> None:
    program = train(stack(), batch_size=0)
    assert program(normal(0, 4, 3))[0].shape == (0, 4, 5)
    gradients = program.backward()
    assert gradients.inputs.shape == (0, 4, 3)
    assert not gradients.weights[1]["gates/kernel"].any()
    with pytest.raises(OrderError, match="empty batch"):
        program.listing()


def test_without_steps_the_state_s_gradient_passes_through() -> None:
    program = train(rnn.GRUCell(5))
    program(normal(2, 0, 3))
    d_state = normal(2, 5)
    np.testing.assert_array_equal(program.backward(d_state=d_state).initial_state, d_state)


def test_gradients_are_those_of_the_weights_that_the_call_used() -> None:
    cell = rnn.GRUCell(5)
    program = train(cell)
    x, d = normal(2, 4, 3), normal(2, 4, 5)
    program(x)
    before = program.backward(d)
    cell.set_weights({name: array * 2 for name, array in cell.weights.items()})
    np.testing.assert_array_equal(program.backward(d).inputs, before.inputs)
    program(x)
    assert not np.array_equal(program.backward(d).inputs, before.inputs)


def test_the_caller_may_write_into_the_inputs_before_asking_for_gradients() -> None:
    program = train(rnn.GRUCell(5))
    x, d = normal(2, 4, 3), normal(2, 4, 5)
    program(x)
    before = program.backward(d)
    program(x)
    x[:] = 7
    np.testing.assert_array_equal(program.backward(d).weights["gates/kernel"], before.weights["gates/kernel"])


def test_the_caller_may_write_into_the_initial_state_before_asking_for_gradients() -> None:
    program = train(rnn.GRUCell(5))
    x, h, d = normal(2, 4, 3), normal(2, 5), normal(2, 4, 5)
    program(x, initial_state=h)
    before = program.backward(d)
    h[:] = 7
    np.testing.assert_array_equal(program.backward(d).inputs, before.inputs)


def test_a_with_block_closes_the_program(built: Built) -> None:
    with train(rnn.GRUCell(2)) as program:
        program(normal(2, 4, 3))
    assert built[0].closed
    program.close()
    for use in (lambda: program(normal(2, 4, 3)), program.backward, program.listing, program.memory):
        with pytest.raises(OrderError, match="closed"):
            use()


def test_gradients_need_train_mode_and_a_call_before() -> None:
    forward = rnn.compile(rnn.GRUCell(2), batch_size=2, input_size=3, threads=1)
    forward(normal(2, 4, 3).astype(np.float32))
    with pytest.raises(OrderError, match='mode="train"'):
        forward.backward()
    with pytest.raises(OrderError, match="not called yet"):
        train(rnn.GRUCell(2)).backward()


@pytest.mark.parametrize(
    ("d_outputs", "d_state", "message"),
    [
        (normal(2, 5, 2), None, r"d_outputs: got shape \(2, 5, 2\), wanted .* \(2, 4, 2\)"),
        (normal(2, 4, 3), None, r"d_outputs: got shape \(2, 4, 3\)"),
        (normal(2, 4, 2).astype(np.float32), None, "d_outputs: got float32, wanted float64"),
        (np.full((2, 4, 2), np.inf), None, r"d_outputs\[0, 0, 0\]: got inf"),
        (None, normal(2, 3), r"d_state: got shape \(2, 3\)"),
        (None, (normal(2, 2),), "d_state: got a tuple of 1"),
    ],
)
def test_wrong_cotangents_are_named(d_outputs: Any, d_state: Any, message: str) -> None:
    program = train(rnn.GRUCell(2))
    program(normal(2, 4, 3))
    with pytest.raises(ArgumentError, match=message):
        program.backward(d_outputs, d_state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"execution": "library"}, "execution: got 'library', wanted one of 'static', 'dynamic', 'stepwise'"),
        ({"mode": "test"}, "mode: got 'test'"),
        ({"execution": "static"}, "max_time: got None, but a static program"),
        ({"unroll": "full"}, "max_time: got None, but unroll"),
        ({"max_time": 0}, "max_time: got 0"),
        ({"batch_size": -1}, "batch_size: got -1"),
        ({"batch_size": 2.0}, "batch_size: got 2.0"),
        ({"input_size": None}, r"input_size: got None, but GRUCell\(num_units=2\) is not built"),
        ({"input_size": 0}, "input_size: got 0"),
        ({"dtype": np.int8}, "dtype: got int8"),
        ({"unroll": 0}, "unroll: got 0"),
        ({"unroll": "half"}, "unroll: got 'half'"),
        ({"parallel_iterations": 0}, "parallel_iterations: got 0"),
        ({"swap_memory": None}, "swap_memory: got None"),
        ({"time_major": "no"}, "time_major: got 'no'"),
        ({"threads": 0}, "threads: got 0"),
    ],
)
def test_wrong_arguments_of_compile_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rnn.compile(rnn.GRUCell(2), **{"batch_size": 2, "input_size": 3, **arguments})


def test_a_program_s_batch_size_is_fixed() -> None:
    with pytest.raises(ArgumentError, match=r"inputs: got shape \(3, 4, 3\), wanted .* = \(2, any, 3\)"):
        train(rnn.GRUCell(2))(normal(3, 4, 3))


def test_compile_wants_a_cell() -> None:
    use: Callable[..., Any] = rnn.compile
    with pytest.raises(ArgumentError, match="cell: got int"):
        use(3, batch_size=2)

"""static_rnn, dynamic_rnn and the one-step call: shapes, nesting, dtypes, bad input. The reference computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.rnn.reference_program import ReferenceProgram
from unrollbench import rnn
from unrollbench.errors import ArgumentError, ArgumentTypeError
from unrollbench.rnn import LSTMStateTuple
from unrollbench.rnn.compilation import KEPT

pytestmark = pytest.mark.usefixtures("built")

Built = list[ReferenceProgram]


def inputs(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def stack() -> rnn.MultiRNNCell:
    return rnn.MultiRNNCell([rnn.LSTMCell(4, num_proj=3), rnn.GRUCell(5)])


def test_dynamic_rnn_returns_batch_major_outputs_and_the_nested_state() -> None:
    outputs, state = rnn.dynamic_rnn(stack(), inputs(2, 6, 3), dtype=np.float32)
    assert outputs.shape == (2, 6, 5)
    assert outputs.dtype == np.float32
    assert isinstance(state[0], LSTMStateTuple)
    assert (state[0].c.shape, state[0].h.shape, state[1].shape) == ((2, 4), (2, 3), (2, 5))
    np.testing.assert_array_equal(state[1], outputs[:, -1])


def test_time_major_is_the_transposed_call() -> None:
    cell, x = stack(), inputs(2, 6, 3)
    outputs, state = rnn.dynamic_rnn(cell, x, [6, 2])
    transposed, same = rnn.dynamic_rnn(cell, x.swapaxes(0, 1), [6, 2], time_major=True)
    np.testing.assert_array_equal(transposed.swapaxes(0, 1), outputs)
    np.testing.assert_array_equal(same[0].c, state[0].c)


def test_static_rnn_takes_and_returns_lists() -> None:
    cell, x = stack(), inputs(6, 2, 3)
    outputs, state = rnn.static_rnn(cell, list(x), dtype=np.float32)
    assert isinstance(outputs, list)
    assert [array.shape for array in outputs] == [(2, 5)] * 6
    dynamic, same = rnn.dynamic_rnn(cell, x, time_major=True)
    np.testing.assert_array_equal(np.stack(outputs), dynamic)
    np.testing.assert_array_equal(state[0].c, same[0].c)


def test_a_hand_written_loop_over_the_cell_is_static_rnn() -> None:
    cell, x = stack(), inputs(6, 2, 3)
    expected, final = rnn.static_rnn(cell, list(x))
    state = cell.zero_state(2, np.float32)
    for t in range(6):
        output, state = cell(x[t], state)
        np.testing.assert_allclose(output, expected[t], atol=1e-6)
    np.testing.assert_allclose(state[0].h, final[0].h, atol=1e-6)


def test_a_state_goes_in_as_it_came_out() -> None:
    cell, x = stack(), inputs(2, 6, 3, dtype="float64")
    whole, end = rnn.dynamic_rnn(cell, x)
    first, middle = rnn.dynamic_rnn(cell, x[:, :2])
    second, same_end = rnn.dynamic_rnn(cell, x[:, 2:], initial_state=middle)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=1e-12)
    np.testing.assert_allclose(same_end[1], end[1], rtol=1e-12)


def test_past_a_row_s_length_nothing_matters_and_the_state_is_kept() -> None:
    cell, x = rnn.BasicLSTMCell(4), inputs(3, 5, 2)
    poisoned = x.copy()
    poisoned[0, 2:] = np.nan
    poisoned[2] = np.inf
    before = poisoned.copy()
    outputs, state = rnn.dynamic_rnn(cell, poisoned, sequence_length=[2, 5, 0])
    short, short_state = rnn.dynamic_rnn(cell, x[:, :2])
    np.testing.assert_allclose(outputs[0, :2], short[0], rtol=1e-6)
    np.testing.assert_allclose(state.c[0], short_state.c[0], rtol=1e-6)
    assert not outputs[0, 2:].any()
    assert not outputs[2].any()
    assert not state.h[2].any()
    np.testing.assert_array_equal(poisoned, before)


def test_the_first_call_builds_the_cell_with_the_dtype_of_the_argument_the_cell_or_the_inputs() -> None:
    for dtype, made, x in [
        (np.float64, None, inputs(1, 2, 3, dtype="float64")),
        (None, "float64", inputs(1, 2, 3, dtype="float64")),
        (None, None, inputs(1, 2, 3, dtype="float64")),
        (np.float64, None, [[[1, 2, 3], [4, 5, 6]]]),
    ]:
        cell = rnn.GRUCell(2, dtype=made)
        outputs, _ = rnn.dynamic_rnn(cell, x, dtype=dtype)
        assert outputs.dtype == cell.dtype == "float64"
        assert cell.input_size == 3


def test_nested_lists_of_numbers_are_float32_as_in_tensorflow() -> None:
    outputs, _ = rnn.static_rnn(rnn.GRUCell(2), [[[1, 2, 3]], [[4, 5, 6]]])
    assert outputs[0].dtype == np.float32


def test_an_empty_batch_and_no_time_steps_give_empty_outputs_as_in_tensorflow() -> None:
    cell = stack()
    outputs, state = rnn.dynamic_rnn(cell, inputs(0, 6, 3), sequence_length=[])
    assert outputs.shape == (0, 6, 5)
    assert state[0].c.shape == (0, 4)
    start = (LSTMStateTuple(inputs(2, 4), inputs(2, 3)), inputs(2, 5))
    outputs, state = rnn.dynamic_rnn(cell, inputs(2, 0, 3), initial_state=start)
    assert outputs.shape == (2, 0, 5)
    np.testing.assert_array_equal(state[0].c, start[0].c)
    assert state[0].c is not start[0].c


def test_calls_of_the_same_shape_do_not_compile_again(built: Built) -> None:
    cell = rnn.GRUCell(2)
    for steps in (4, 7, 4):
        rnn.dynamic_rnn(cell, inputs(2, steps, 3))
        rnn.static_rnn(cell, list(inputs(steps, 2, 3)))
        cell(inputs(2, 3), cell.zero_state(2, np.float32))
    executions = [program.settings["execution"] for program in built]
    assert executions == ["dynamic", "static", "stepwise", "static"]


def test_only_so_many_programs_are_kept_and_the_oldest_is_closed(built: Built) -> None:
    cell = rnn.GRUCell(2)
    for steps in range(1, KEPT + 3):
        rnn.static_rnn(cell, list(inputs(steps, 2, 3)))
    assert [program.closed for program in built] == [True] * 2 + [False] * KEPT


def test_weights_set_after_a_call_take_effect_in_the_next(built: Built) -> None:
    cell, x = rnn.BasicRNNCell(2), inputs(2, 3, 4)
    rnn.dynamic_rnn(cell, x)
    cell.set_weights({name: array * 0 for name, array in cell.weights.items()})
    outputs, _ = rnn.dynamic_rnn(cell, x)
    assert not outputs.any()
    rnn.dynamic_rnn(cell, x)
    assert len(built) == 1
    assert built[0].packed == 2


def test_arguments_of_dynamic_rnn_reach_the_program(built: Built) -> None:
    rnn.dynamic_rnn(
        rnn.GRUCell(2), inputs(2, 3, 4), parallel_iterations=5, swap_memory=True, time_major=True, scope="rnn"
    )
    wanted = {"parallel_iterations": 5, "swap_memory": True, "time_major": True, "batch_size": 3, "mode": "forward"}
    assert {name: built[0].settings[name] for name in wanted} == wanted
    rnn.dynamic_rnn(rnn.GRUCell(2), inputs(2, 3, 4), parallel_iterations=None)
    assert built[1].settings["parallel_iterations"] == 32


def test_results_are_the_caller_s_own() -> None:
    cell, x = rnn.GRUCell(2), inputs(2, 3, 4)
    outputs, state = rnn.dynamic_rnn(cell, x)
    outputs[:] = state[:] = 7
    again, _ = rnn.dynamic_rnn(cell, x)
    assert (again != 7).all()


F32, F64 = inputs(2, 4, 3), inputs(2, 4, 3, dtype="float64")


def with_nan() -> Any:
    x = F32.copy()
    x[1, 2, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rnn.dynamic_rnn("cell", F32), "cell: got str, wanted a cell"),  # type: ignore[arg-type]
        (lambda: rnn.dynamic_rnn(rnn.GRUCell, F32), "cell: got the class GRUCell"),  # type: ignore[arg-type]
        (
            lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32[0]),
            r"inputs: got shape \(4, 3\), wanted \(batch, time, columns\)",
        ),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), None), "inputs: got NoneType"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), "text"), "inputs: got str"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), [[[1, 2], [3]]]), "inputs: got a ragged list"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32.astype(int)), "inputs: got int64, wanted float32 or float64"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32.astype(object)), "inputs: got object"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32.astype(complex)), "inputs: got complex128"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32.astype(np.float16)), "inputs: got float16"),
        (
            lambda: rnn.dynamic_rnn(rnn.GRUCell(2, dtype="float32"), F64),
            r"inputs: got float64, wanted float32; convert it with inputs.astype\(np.float32\)",
        ),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F64, dtype=np.float32), "inputs: got float64, wanted float32"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, dtype=np.int32), "dtype: got int32"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32[:, :, :0]), "input_size: got 0"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), with_nan()), r"inputs\[1, 2, 0\]: got nan, wanted finite values$"),
        (
            lambda: rnn.dynamic_rnn(rnn.GRUCell(2), with_nan(), [4, 3]),
            r"inputs\[1, 2, 0\]: got nan.*within sequence_length",
        ),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [4]), r"sequence_length: got shape \(1,\), wanted .* \(2,\)"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, 4), r"sequence_length: got shape \(\)"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [4.0, 1.0]), "sequence_length: got float64, wanted integers"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [True, False]), "sequence_length: got bool, wanted integers"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, ["4", "1"]), "sequence_length: got <U1"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [4, -1]), r"sequence_length\[1\]: got -1, wanted 0..4"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [4, 5]), r"sequence_length\[1\]: got 5, wanted 0..4"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [4, 2**80]), "sequence_length: got object"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, [[4], [1, 2]]), "sequence_length: got a ragged list"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, None, np.zeros((3, 2), np.float32)), "initial_state: got shape"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, None, (F32[:, 0, :2],)), "initial_state: got a tuple of 1"),
        (
            lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, None, F64[:, 0, :2]),
            "initial_state: got float64, wanted float32",
        ),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, None, with_nan()[:, 2, :2]), r"initial_state\[1, 0\]: got nan"),
        (lambda: rnn.dynamic_rnn(rnn.LSTMCell(2), F32, None, F32[:, 0, :2]), "initial_state: got ndarray, wanted LSTM"),
        (
            lambda: rnn.dynamic_rnn(rnn.LSTMCell(2, num_proj=1), F32, None, (F32[:, 0, :2], F32[:, 0, :2])),
            r"initial_state.h: got shape \(2, 2\), wanted \(batch, output\) = \(2, 1\)",
        ),
        (lambda: rnn.dynamic_rnn(stack(), F32, None, F32[:, 0, :2]), "initial_state: got ndarray, wanted a tuple of 2"),
        (
            lambda: rnn.dynamic_rnn(stack(), F32, None, (stack().zero_state(2, "float32")[0], None)),
            r"initial_state\[1\]: got NoneType",
        ),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, parallel_iterations=0), "parallel_iterations: got 0"),
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, parallel_iterations=1.5), "parallel_iterations: got 1.5"),  # type: ignore[arg-type]
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, swap_memory="yes"), "swap_memory: got 'yes'"),  # type: ignore[arg-type]
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, time_major=2), "time_major: got 2"),  # type: ignore[arg-type]
        (lambda: rnn.dynamic_rnn(rnn.GRUCell(2), F32, scope=3), "scope: got 3"),  # type: ignore[arg-type]
        (lambda: rnn.static_rnn(rnn.GRUCell(2), []), "inputs: got an empty list"),
        (lambda: rnn.static_rnn(rnn.GRUCell(2), F32), "inputs: got ndarray, wanted a list"),
        (lambda: rnn.static_rnn(rnn.GRUCell(2), [F32]), r"inputs\[0\]: got shape \(2, 4, 3\)"),
        (lambda: rnn.static_rnn(rnn.GRUCell(2), [F32[:, 0], F32[:, 0, :2]]), r"inputs\[1\]: got shape \(2, 2\)"),
        (lambda: rnn.static_rnn(rnn.GRUCell(2), [F32[:, 0], F64[:, 0]]), r"inputs\[1\]: got float64"),
        (lambda: rnn.GRUCell(2)(F32, None), r"inputs: got shape \(2, 4, 3\), wanted \(batch, columns\)"),
        (lambda: rnn.GRUCell(2)(F32[:, 0], None), "state: got None"),
        (lambda: rnn.GRUCell(2)(F32[:, 0], F32[:, 0]), r"state: got shape \(2, 3\)"),
    ],
)
def test_bad_input_is_named_with_what_it_is_and_what_is_wanted(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_cell_that_was_built_says_so_when_the_columns_differ() -> None:
    cell = rnn.GRUCell(2)
    rnn.dynamic_rnn(cell, F32)
    with pytest.raises(ArgumentError, match=r"inputs: got shape \(2, 4, 2\), wanted .*any, any, 3\)"):
        rnn.dynamic_rnn(cell, F32[:, :, :2])
    with pytest.raises(ArgumentTypeError, match="inputs: got float64, wanted float32"):
        rnn.dynamic_rnn(cell, F64)

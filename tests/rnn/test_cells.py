"""Cells: constructors, sizes, weights, state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from unrollbench import rnn
from unrollbench.errors import ArgumentError, ArgumentTypeError, OrderError, UnrollbenchError
from unrollbench.rnn import LSTMStateTuple


def stack() -> rnn.MultiRNNCell:
    return rnn.MultiRNNCell([rnn.LSTMCell(4, num_proj=3), rnn.GRUCell(5)])


@pytest.mark.parametrize(
    ("cell", "shapes"),
    [
        (rnn.BasicRNNCell(4), {"kernel": (7, 4), "bias": (4,)}),
        (
            rnn.GRUCell(4),
            {"gates/kernel": (7, 8), "gates/bias": (8,), "candidate/kernel": (7, 4), "candidate/bias": (4,)},
        ),
        (rnn.BasicLSTMCell(4), {"kernel": (7, 16), "bias": (16,)}),
        (
            rnn.LSTMCell(4, use_peepholes=True, num_proj=2),
            {
                "kernel": (5, 16),
                "bias": (16,),
                "w_i_diag": (4,),
                "w_f_diag": (4,),
                "w_o_diag": (4,),
                "projection/kernel": (4, 2),
            },
        ),
    ],
)
def test_weights_have_tensorflow_s_names_and_shapes(cell: rnn.RNNCell, shapes: dict[str, tuple[int, ...]]) -> None:
    cell.build(3)
    assert {name: array.shape for name, array in cell.weights.items()} == shapes


def test_first_weights_are_glorot_uniform_with_zero_biases_and_ones_for_a_gru_s_gates() -> None:
    cell = rnn.GRUCell(200)
    cell.build(100, np.float64, seed=1)
    kernel = cell.weights["gates/kernel"]
    bound = np.sqrt(6 / (300 + 400))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.mean()) < 0.01 * bound
    assert (cell.weights["gates/bias"] == 1).all()
    assert not cell.weights["candidate/bias"].any()
    lstm = rnn.LSTMCell(200, use_peepholes=True)
    lstm.build(100)
    assert not lstm.weights["bias"].any()
    assert 0.9 < np.abs(lstm.weights["w_f_diag"]).max() / np.sqrt(3 / 200) <= 1


def test_a_seed_gives_equal_weights_and_layers_of_a_stack_differ() -> None:
    first, second, other = (rnn.MultiRNNCell([rnn.GRUCell(3), rnn.GRUCell(3)]) for _ in range(3))
    for cell, seed in ((first, 7), (second, 7), (other, None)):
        cell.build(3, seed=seed)
    np.testing.assert_array_equal(first.weights[1]["gates/kernel"], second.weights[1]["gates/kernel"])
    assert not np.array_equal(first.weights[0]["gates/kernel"], first.weights[1]["gates/kernel"])
    assert not np.array_equal(first.weights[0]["gates/kernel"], other.weights[0]["gates/kernel"])


def test_sizes_are_nested_as_in_tensorflow() -> None:
    cell = stack()
    assert rnn.BasicRNNCell(4).state_size == rnn.GRUCell(4).state_size == 4
    assert rnn.BasicLSTMCell(4).state_size == LSTMStateTuple(c=4, h=4)
    assert cell.state_size == (LSTMStateTuple(c=4, h=3), 5)
    assert cell.output_size == 5
    nested = rnn.MultiRNNCell([cell, rnn.BasicLSTMCell(2)])
    assert nested.state_size == ((LSTMStateTuple(4, 3), 5), LSTMStateTuple(2, 2))


def test_zero_state_is_nested_as_the_state() -> None:
    state = stack().zero_state(2, np.float32)
    assert isinstance(state, tuple)
    assert isinstance(state[0], LSTMStateTuple)
    assert state[0].c.shape == (2, 4)
    assert state[0].h.shape == (2, 3)
    assert state[0].dtype == np.float32
    assert state[1].shape == (2, 5)
    assert not state[1].any()


def test_a_state_tuple_of_two_dtypes_has_no_dtype() -> None:
    with pytest.raises(TypeError, match="c is float32 and h is float64"):
        _ = LSTMStateTuple(np.zeros(1, np.float32), np.zeros(1)).dtype


def test_set_weights_takes_copies_and_weights_are_read_only() -> None:
    cell = rnn.BasicRNNCell(2)
    cell.build(1, np.float64)
    mine = {"kernel": np.ones((3, 2)), "bias": np.zeros(2)}
    cell.set_weights(mine)
    mine["kernel"][:] = 5
    assert (cell.weights["kernel"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        cell.weights["kernel"][:] = 5


def test_weights_of_a_stack_are_a_list_with_a_dict_per_layer() -> None:
    cell = stack()
    cell.build(6, np.float64, seed=0)
    assert [layer["kernel" if i == 0 else "gates/kernel"].shape for i, layer in enumerate(cell.weights)] == [
        (9, 16),
        (8, 10),
    ]
    before = cell.weights
    cell.set_weights([{name: array + 1 for name, array in layer.items()} for layer in before])
    np.testing.assert_array_equal(cell.weights[1]["candidate/bias"], before[1]["candidate/bias"] + 1)


def test_a_stack_with_one_wrong_layer_changes_no_weights() -> None:
    cell = stack()
    cell.build(6, np.float64, seed=0)
    weights = [{name: array + 1 for name, array in layer.items()} for layer in cell.weights]
    weights[1]["gates/bias"] = np.zeros(3)
    before = cell.weights[0]["bias"]
    with pytest.raises(ArgumentError, match=r"weights\[1\]\['gates/bias'\]: got shape \(3,\), wanted .* \(10\)"):
        cell.set_weights(weights)
    np.testing.assert_array_equal(cell.weights[0]["bias"], before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "weights: got list, wanted a dict of kernel, bias"),
        ({"kernel": np.zeros((3, 2))}, r"weights: got \['kernel'\], wanted \['bias', 'kernel'\]"),
        ({"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2)}, r"\['kernel'\]: got float32, wanted float64"),
        ({"kernel": np.full((3, 2), np.inf), "bias": np.zeros(2)}, r"\['kernel'\]\[0, 0\]: got inf, wanted finite"),
    ],
)
def test_wrong_weights_are_refused_by_name(weights: Any, message: str) -> None:
    cell = rnn.BasicRNNCell(2, dtype=np.float64)
    cell.build(1)
    with pytest.raises(ArgumentError, match=message):
        cell.set_weights(weights)


def test_weights_before_build_are_an_error_that_says_how_to_build() -> None:
    with pytest.raises(OrderError, match=r"BasicRNNCell\(num_units=2\) has no weights yet: call build"):
        _ = rnn.BasicRNNCell(2).weights


def test_building_again_keeps_the_weights_and_other_sizes_are_refused() -> None:
    cell = rnn.GRUCell(2)
    cell.build(3, np.float32, seed=0)
    before = cell.weights["gates/kernel"]
    cell.build(3, np.float32, seed=1)
    assert cell.weights["gates/kernel"] is before
    with pytest.raises(ArgumentError, match=r"input_size: got 4, but GRUCell.* was built for 3 columns"):
        cell.build(4)
    with pytest.raises(ArgumentError, match=r"dtype: got float64, but GRUCell.* has float32"):
        cell.build(3, np.float64)


def test_a_dtype_is_taken_as_numpy_or_tensorflow_names_it() -> None:
    class TensorFlowDtype:
        as_numpy_dtype = np.float64

    for dtype in ("float64", np.float64, np.dtype("float64"), TensorFlowDtype()):
        assert rnn.GRUCell(1, dtype=dtype).dtype == "float64"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: rnn.GRUCell(0), "num_units"),
        (lambda: rnn.GRUCell(2.5), "num_units"),  # type: ignore[arg-type]
        (lambda: rnn.GRUCell(True), "num_units"),
        (lambda: rnn.GRUCell("4"), "num_units"),  # type: ignore[arg-type]
        (lambda: rnn.GRUCell(2, activation="relu"), "activation"),
        (lambda: rnn.GRUCell(2, reuse=True), "reuse"),
        (lambda: rnn.GRUCell(2, kernel_initializer="zeros"), "kernel_initializer"),
        (lambda: rnn.GRUCell(2, bias_initializer="zeros"), "bias_initializer"),
        (lambda: rnn.GRUCell(2, name=3), "name"),  # type: ignore[arg-type]
        (lambda: rnn.GRUCell(2, dtype=np.float16), "dtype"),
        (lambda: rnn.GRUCell(2, dtype="nonsense"), "dtype"),
        (lambda: rnn.BasicLSTMCell(2, forget_bias=np.nan), "forget_bias"),
        (lambda: rnn.BasicLSTMCell(2, forget_bias="1"), "forget_bias"),  # type: ignore[arg-type]
        (lambda: rnn.BasicLSTMCell(2, state_is_tuple=False), "state_is_tuple"),
        (lambda: rnn.LSTMCell(2, use_peepholes=1), "use_peepholes"),  # type: ignore[arg-type]
        (lambda: rnn.LSTMCell(2, cell_clip=-1.0), "cell_clip"),
        (lambda: rnn.LSTMCell(2, cell_clip=0.0), "cell_clip"),
        (lambda: rnn.LSTMCell(2, num_proj=0), "num_proj"),
        (lambda: rnn.LSTMCell(2, num_proj=2, proj_clip=np.inf), "proj_clip"),
        (lambda: rnn.LSTMCell(2, proj_clip=[1.0]), "proj_clip"),  # type: ignore[arg-type]
        (lambda: rnn.LSTMCell(2, initializer="zeros"), "initializer"),
        (lambda: rnn.LSTMCell(2, num_unit_shards=2), "num_unit_shards"),
        (lambda: rnn.LSTMCell(2, num_proj_shards=2), "num_proj_shards"),
        (lambda: rnn.MultiRNNCell([]), "cells"),
        (lambda: rnn.MultiRNNCell(rnn.GRUCell(2)), "cells"),  # type: ignore[arg-type]
        (lambda: rnn.MultiRNNCell([rnn.GRUCell(2), 3]), r"cells\[1\]"),  # type: ignore[list-item]
        (lambda: rnn.MultiRNNCell([rnn.GRUCell(2)] * 2), "cells: the same cell object twice"),
        (lambda: rnn.MultiRNNCell([rnn.GRUCell(2)], state_is_tuple=False), "state_is_tuple"),
    ],
)
def test_a_constructor_s_argument_that_cannot_be_used_is_named(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{name}"):
        make()


def test_an_argument_that_no_cell_has_is_python_s_own_error() -> None:
    with pytest.raises(TypeError, match="trainable"):
        rnn.GRUCell(2, trainable=False)  # type: ignore[call-arg]


def test_tanh_may_be_said_in_any_way() -> None:
    assert rnn.GRUCell(2, np.tanh).num_units == rnn.GRUCell(2, activation="tanh").num_units == 2


def test_positional_arguments_are_in_tensorflow_s_order() -> None:
    cell = rnn.LSTMCell(4, True, 3.0, None, 2, 1.5, None, None, 0.5, True, None, None, "mine", np.float64)
    options = cell.options
    found = options.use_peepholes, options.cell_clip, options.num_proj, options.proj_clip, options.forget_bias
    assert found == (True, 3.0, 2, 1.5, 0.5)
    assert (cell.name, cell.dtype) == ("mine", "float64")
    assert rnn.BasicLSTMCell(4, 0.25).options.forget_bias == 0.25


def test_proj_clip_without_num_proj_has_no_effect_as_in_tensorflow() -> None:
    assert rnn.LSTMCell(4, proj_clip=0.1).options.proj_clip is None


def test_errors_are_value_errors_and_ours() -> None:
    for kind in (ArgumentError, ArgumentTypeError, OrderError):
        assert issubclass(kind, ValueError)
        assert issubclass(kind, UnrollbenchError)
    assert issubclass(ArgumentTypeError, TypeError)

"""Names, arguments, defaults, first weights and edges of `unrollbench.rnn` are those of TensorFlow 1."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.tensorflow.configurations import CELL_OF_CLASS, LayerOf
from tests.tensorflow.graph import make, tf, variables_by_name
from unrollbench import rnn


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Name -> default of every parameter, in order, without self and keywords for the layer's base class."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.kind != p.VAR_KEYWORD and p.name != "self"}


@pytest.mark.parametrize("name", ["static_rnn", "dynamic_rnn"])
def test_the_functions_have_tensorflow_s_signatures(name: str) -> None:
    ours, theirs = parameters(getattr(rnn, name)), parameters(getattr(tf.nn, name))
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("name", [*CELL_OF_CLASS, "MultiRNNCell"])
def test_the_constructors_have_tensorflow_s_signatures(name: str) -> None:
    ours, theirs = parameters(getattr(rnn, name).__init__), parameters(getattr(tf.nn.rnn_cell, name).__init__)
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("name", [*CELL_OF_CLASS, "MultiRNNCell"])
def test_the_one_step_call_and_zero_state_take_tensorflow_s_arguments_in_order(name: str) -> None:
    ours, theirs = getattr(rnn, name), getattr(tf.nn.rnn_cell, name)
    assert list(parameters(ours.__call__)) == [p for p in parameters(theirs.__call__) if p != "args"]
    assert list(parameters(ours.zero_state)) == list(parameters(theirs.zero_state))


@pytest.mark.parametrize("layer", [LayerOf(n, 40) for n in CELL_OF_CLASS], ids=CELL_OF_CLASS)
def test_first_weights_are_drawn_as_tensorflow_draws_them(layer: LayerOf) -> None:
    arguments = {"use_peepholes": True, "num_proj": 30} if layer.name == "LSTMCell" else {}
    layer = LayerOf(layer.name, layer.num_units, arguments)
    ours = getattr(rnn, layer.name)(layer.num_units, **arguments)
    ours.build(20, np.float32, seed=0)
    with warnings.catch_warnings(), tf.Graph().as_default(), tf.Session() as session:
        warnings.simplefilter("ignore")
        cell = make(layer)
        tf.nn.dynamic_rnn(cell, np.zeros((1, 1, 20), np.float32), dtype=tf.float32)
        session.run(tf.global_variables_initializer())
        theirs = session.run(variables_by_name(cell, ours.weights))
    for name, array in theirs.items():
        assert ours.weights[name].shape == array.shape
        if name.endswith("bias"):
            np.testing.assert_array_equal(ours.weights[name], array)
        else:
            largest = np.abs(ours.weights[name]).max()
            assert 0.8 < np.abs(array).max() / largest < 1.25, name


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)], ids=["an empty batch", "no time steps"])
def test_edges_return_what_tensorflow_returns(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    with warnings.catch_warnings(), tf.Graph().as_default(), tf.Session() as session:
        warnings.simplefilter("ignore")
        fetched = tf.nn.dynamic_rnn(tf.nn.rnn_cell.LSTMCell(5), x, dtype=tf.float32)
        session.run(tf.global_variables_initializer())
        outputs, state = session.run(fetched)
    our_outputs, our_state = rnn.dynamic_rnn(rnn.LSTMCell(5), x, dtype=tf.float32)
    assert our_outputs.shape == outputs.shape
    np.testing.assert_array_equal(our_state.c, state.c)
    np.testing.assert_array_equal(our_state.h, state.h)


def test_tensorflow_s_tanh_and_dtypes_are_understood() -> None:
    cell = rnn.GRUCell(3, activation=tf.tanh, dtype=tf.float64)
    assert cell.dtype == "float64"

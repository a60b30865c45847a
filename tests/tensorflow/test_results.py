"""The reference and `unrollbench.rnn` against TensorFlow's own functions: outputs, states and all gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.tensorflow import face, graph
from tests.tensorflow.configurations import Configuration, Drawn, LayerOf, draw, random_configuration
from unrollbench.case import Case
from unrollbench.reference import Expected, check, forward_backward
from unrollbench.tensors import Outputs

EVERYTHING = {"use_peepholes": True, "cell_clip": 0.3, "num_proj": 4, "proj_clip": 0.1, "forget_bias": 0.5}

CELLS = {
    "BasicRNNCell": (LayerOf("BasicRNNCell", 5),),
    "GRUCell": (LayerOf("GRUCell", 5),),
    "BasicLSTMCell": (LayerOf("BasicLSTMCell", 5, {"forget_bias": 0.0}),),
    "LSTMCell": (LayerOf("LSTMCell", 5),),
    "LSTMCell with peepholes": (LayerOf("LSTMCell", 5, {"use_peepholes": True}),),
    "LSTMCell with cell_clip": (LayerOf("LSTMCell", 5, {"cell_clip": 0.2}),),
    "LSTMCell with num_proj": (LayerOf("LSTMCell", 5, {"num_proj": 3}),),
    "LSTMCell with num_proj above num_units and proj_clip": (
        LayerOf("LSTMCell", 5, {"num_proj": 7, "proj_clip": 0.1}),
    ),
    "LSTMCell with everything": (LayerOf("LSTMCell", 5, EVERYTHING),),
    "two unequal LSTMCells": (LayerOf("LSTMCell", 5, {"use_peepholes": True}), LayerOf("LSTMCell", 3, EVERYTHING)),
    "three different cells": (
        LayerOf("GRUCell", 4),
        LayerOf("LSTMCell", 6, {"num_proj": 2}),
        LayerOf("BasicRNNCell", 3),
    ),
}

VARIATIONS = {
    "dynamic": {"function": "dynamic", "time_major": True},
    "dynamic with lengths": {"function": "dynamic", "lengths": (0, 4, 2)},
    "static from zeros": {"function": "static", "initial_state": False},
    "static with lengths": {"function": "static", "lengths": (3, 0, 4), "dtype": "float32"},
}

EVERY_CONFIGURATION = pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(Configuration(layers, **axes), id=f"{cell}, {variation}")  # type: ignore[arg-type]
        for cell, layers in CELLS.items()
        for variation, axes in VARIATIONS.items()
    ],
)

SEEDS = range(100, 130)
"""Of the random configurations; any other range must do as well."""


def assert_same(configuration: Configuration, drawn: Drawn, got: Outputs, wanted: Outputs) -> None:
    """The results agree within the tolerance of a correct program, and have the dtype that was asked for."""
    if not configuration.initial_state and wanted.gradients is not None and got.gradients is not None:
        got = replace(got, gradients=replace(got.gradients, initial_state=()))
        wanted = replace(wanted, gradients=replace(wanted.gradients, initial_state=()))
    case = Case(dtype=configuration.dtype, sequence_length=configuration.steps, mode="train")  # type: ignore[arg-type]
    cotangent = max(float(np.abs(d).max()) for d in (drawn.d_outputs, *sum(drawn.d_state, ())))
    check(case, got, Expected(wanted.outputs, wanted.state, wanted.gradients, cotangent))


def reference(configuration: Configuration, drawn: Drawn) -> Outputs:
    return forward_backward(
        configuration.specs,
        drawn.inputs,
        configuration.lengths,
        drawn.state,
        drawn.weights,
        drawn.d_outputs,
        drawn.d_state,
    )


@EVERY_CONFIGURATION
def test_tensorflow_computes_what_the_reference_does(configuration: Configuration) -> None:
    drawn = draw(configuration)
    assert_same(configuration, drawn, graph.run(configuration, drawn), reference(configuration, drawn))


@pytest.mark.parametrize("seed", range(60))
def test_tensorflow_computes_what_the_reference_does_for_a_random_configuration(seed: int) -> None:
    configuration = random_configuration(seed)
    drawn = draw(configuration)
    assert_same(configuration, drawn, graph.run(configuration, drawn), reference(configuration, drawn))


@pytest.mark.parametrize("layers", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("function", ["static", "dynamic"])
def test_programs_compute_what_tensorflow_does(layers: tuple[LayerOf, ...], function: str) -> None:
    """One compiled program per cell and function, called with and without lengths and initial state."""
    configuration = Configuration(layers, function, dtype="float32", lengths=(2, 0, 4))
    drawn = draw(configuration)
    assert_same(configuration, drawn, face.run(configuration, drawn), graph.run(configuration, drawn))


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_compute_what_tensorflow_does_for_a_random_configuration(seed: int) -> None:
    configuration = random_configuration(seed)
    drawn = draw(configuration)
    rng = np.random.default_rng(seed)
    way: dict[str, Any] = {"unroll": int(rng.choice([1, 2, 3, 8])), "threads": int(rng.choice([1, 2]))}
    if rng.random() < 0.2:
        way["execution"] = "stepwise"
    assert_same(configuration, drawn, face.run(configuration, drawn, **way), graph.run(configuration, drawn))


@pytest.mark.parametrize("function", ["static", "dynamic"])
@pytest.mark.parametrize("lengths", [None, (3, 0, 4)], ids=["full", "lengths"])
def test_the_functions_themselves_return_what_tensorflow_s_do(function: str, lengths: tuple[int, ...] | None) -> None:
    configuration = Configuration(CELLS["three different cells"], function, lengths=lengths)
    drawn = draw(configuration)
    assert_same(
        configuration, drawn, face.call(configuration, drawn), replace(graph.run(configuration, drawn), gradients=None)
    )

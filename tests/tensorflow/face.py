"""`unrollbench.rnn` run on a configuration, with its results in the form that TensorFlow's are in."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.tensorflow.configurations import Configuration, Drawn
from unrollbench import rnn
from unrollbench.tensors import Gradients, Outputs, State


def make(configuration: Configuration, drawn: Drawn) -> rnn.RNNCell:
    """The cell with the drawn weights."""
    cells = [getattr(rnn, layer.name)(layer.num_units, **layer.arguments) for layer in configuration.layers]
    cell: rnn.RNNCell = rnn.MultiRNNCell(cells) if configuration.is_stack else cells[0]
    cell.build(configuration.input_size, configuration.dtype)
    cell.set_weights(list(drawn.weights) if configuration.is_stack else drawn.weights[0])
    return cell


def run(configuration: Configuration, drawn: Drawn, **way: Any) -> Outputs:
    """Outputs, time-major, final state and all gradients of a compiled program; `way` are arguments of `compile`."""
    cell = make(configuration, drawn)
    arguments: dict[str, Any] = {
        "execution": configuration.function,
        "max_time": configuration.steps,
        "parallel_iterations": configuration.parallel_iterations,
        "swap_memory": configuration.swap_memory,
        "time_major": configuration.time_major,
        "threads": 1,
    }
    program = rnn.compile(cell, mode="train", batch_size=configuration.batch, **(arguments | way))
    start = cell.nest(iter(drawn.state)) if configuration.initial_state else None
    with program:
        outputs, state = program(_layout(configuration, drawn.inputs), configuration.lengths, start)
        found = program.backward(_layout(configuration, drawn.d_outputs), cell.nest(iter(drawn.d_state)))
    weights = found.weights if configuration.is_stack else [found.weights]
    d_inputs = _layout(configuration, found.inputs)
    gradients = Gradients(d_inputs, tuple(weights), _layers(configuration, cell, found.initial_state))
    return Outputs(_layout(configuration, outputs), _layers(configuration, cell, state), gradients)


def call(configuration: Configuration, drawn: Drawn) -> Outputs:
    """Outputs, time-major, and final state of `static_rnn` or `dynamic_rnn` itself."""
    cell = make(configuration, drawn)
    start = cell.nest(iter(drawn.state)) if configuration.initial_state else None
    given: dict[str, Any] = {"sequence_length": configuration.lengths, "initial_state": start}
    if configuration.function == "static":
        steps, state = rnn.static_rnn(cell, list(drawn.inputs), dtype=configuration.dtype, **given)
        return Outputs(np.stack(steps), _layers(configuration, cell, state))
    outputs, state = rnn.dynamic_rnn(
        cell, _layout(configuration, drawn.inputs), time_major=configuration.time_major, **given
    )
    return Outputs(_layout(configuration, outputs), _layers(configuration, cell, state))


def _layout(configuration: Configuration, array: Any) -> Any:
    """From time-major to the configuration's layout, or back."""
    return array if configuration.time_major else array.swapaxes(0, 1)


def _layers(configuration: Configuration, cell: rnn.RNNCell, state: Any) -> tuple[State, ...]:
    return tuple(cell.flatten_state("state", state, configuration.batch, configuration.dtype))

"""TensorFlow 1's own functions, run as in 2017: a graph, control flow of version 1, a session."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.tensorflow.configurations import Configuration, Drawn, LayerOf
from unrollbench.tensors import Gradients, Outputs, State, Weights

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # rnn_cell lives in tf_keras, and only there
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own imports are deprecated in one another
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_eager_execution()
    tf.disable_control_flow_v2()
    tf.logging.set_verbosity(tf.logging.ERROR)


def run(configuration: Configuration, drawn: Drawn) -> Outputs:
    """Outputs, final state and all gradients as TensorFlow computes them, in the configuration's layout."""
    with warnings.catch_warnings(), tf.Graph().as_default():
        warnings.simplefilter("ignore")  # every cell says that it is deprecated
        feeds: dict[Any, Any] = {}
        inputs = _placeholder(drawn.inputs, feeds)
        state = [tuple(_placeholder(array, feeds) for array in layer) for layer in drawn.state]
        cells = [make(layer) for layer in configuration.layers]
        outputs, final = _call(configuration, cells, inputs, state)
        final_layers = _flat(final if configuration.is_stack else [final])
        loss = tf.reduce_sum(outputs * drawn.d_outputs)
        loss += sum(
            tf.reduce_sum(a * d)
            for x, y in zip(final_layers, drawn.d_state, strict=True)
            for a, d in zip(x, y, strict=True)
        )
        variables = [variables_by_name(cell, drawn.weights[i]) for i, cell in enumerate(cells)]
        targets = [inputs, [list(v.values()) for v in variables], state if configuration.initial_state else []]
        gradients = _gradients(loss, targets)
        with tf.Session(
            config=tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        ) as session:
            for given, named in zip(drawn.weights, variables, strict=True):
                for name, variable in named.items():
                    session.run(variable.initializer, {variable.initial_value: given[name]})
            values = session.run([outputs, final_layers, gradients], feeds)
    return _results(configuration, drawn, *values)


def make(layer: LayerOf) -> Any:
    """TensorFlow's cell."""
    return getattr(tf.nn.rnn_cell, layer.name)(layer.num_units, **layer.arguments)


def variables_by_name(cell: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's variables under the names that `unrollbench.tensors` gives them."""
    found = {}
    for variable in cell.trainable_weights:
        path = variable.name.removesuffix(":0")
        found[max((name for name in names if path.endswith(f"/{name}")), key=len)] = variable
    assert found.keys() == set(names), f"TensorFlow has {sorted(found)}, unrollbench {sorted(names)}"
    return {name: found[name] for name in names}


def _placeholder(array: Any, feeds: dict[Any, Any]) -> Any:
    tensor = tf.placeholder(array.dtype, array.shape)
    feeds[tensor] = array
    return tensor


def _call(configuration: Configuration, cells: Sequence[Any], inputs: Any, state: Sequence[Any]) -> tuple[Any, Any]:
    """Calls the function under test; outputs come back time-major."""
    cell = tf.nn.rnn_cell.MultiRNNCell(cells) if configuration.is_stack else cells[0]
    start: dict[str, Any] = {"dtype": configuration.dtype}
    if configuration.initial_state:
        layers = [tf.nn.rnn_cell.LSTMStateTuple(*layer) if len(layer) == 2 else layer[0] for layer in state]
        start = {"initial_state": tuple(layers) if configuration.is_stack else layers[0]}
    if configuration.lengths is not None:
        start["sequence_length"] = np.array(configuration.lengths, np.int32)
    if configuration.function == "static":
        outputs, final = tf.nn.static_rnn(cell, tf.unstack(inputs), **start)
        return tf.stack(outputs), final
    outputs, final = tf.nn.dynamic_rnn(
        cell,
        inputs if configuration.time_major else tf.transpose(inputs, [1, 0, 2]),
        time_major=configuration.time_major,
        parallel_iterations=configuration.parallel_iterations,
        swap_memory=configuration.swap_memory,
        **start,
    )
    return (outputs if configuration.time_major else tf.transpose(outputs, [1, 0, 2])), final


def _flat(final: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(layer) if isinstance(layer, tuple) else (layer,) for layer in final]


def _gradients(loss: Any, targets: Any) -> Any:
    """The gradient of each target, in the same structure; zeros where the loss does not depend on it."""
    flat = tensorflow.nest.flatten(targets)
    gradients = tf.gradients(loss, flat)
    dense = [tf.zeros_like(x) if d is None else d for x, d in zip(flat, gradients, strict=True)]
    return tensorflow.nest.pack_sequence_as(targets, dense)


def _results(configuration: Configuration, drawn: Drawn, outputs: Any, state: Any, gradients: Any) -> Outputs:
    d_inputs, d_weights, d_state = gradients
    weights: list[Weights] = [
        dict(zip(layer, arrays, strict=True)) for layer, arrays in zip(drawn.weights, d_weights, strict=True)
    ]
    initial: list[State] = [tuple(layer) for layer in d_state]
    return Outputs(outputs, tuple(tuple(layer) for layer in state), Gradients(d_inputs, tuple(weights), tuple(initial)))

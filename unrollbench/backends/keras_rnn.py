"""Keras 3 on TensorFlow: SimpleRNN, GRU and LSTM layers with `unroll` on or off, inside one `tf.function`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unrollbench.backends import Listing, Memory, limits
from unrollbench.backends.phases import Phases
from unrollbench.case import Case
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors, Weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import tensorflow as tf

Tensor = Any

_GATES = {"basic_rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 2, 1, 3)}
"""Keras's gate order by TensorFlow 1's: z, r, h from r, u, candidate; i, f, c, o from i, j, f, o; its own inverse."""


class KerasRnn:
    """static: `unroll=True`; dynamic: `unroll=False`. Layers are called with masks where rows have lengths."""

    name = "keras"
    versions: Mapping[str, str] = {"keras": keras.__version__, "tensorflow": tf.__version__}

    def why_not(self, case: Case) -> str | None:
        return limits.keras(case)

    def build(self, case: Case, tensors: Tensors) -> KerasProgram:
        """Traced, and called once, because TensorFlow optimises a function's graph in its first call."""
        case = case.canonical()
        _set_threads(case.threads)
        with tf.device("/device:CPU:0"):
            return KerasProgram(case, tensors)


class KerasProgram:
    """One function for the whole sequence and, in train mode, its gradients; everything but weights is an argument."""

    def __init__(self, case: Case, tensors: Tensors) -> None:
        phases = Phases()
        self._case = case
        with phases("layers"):
            self._layers = [_layer(case, *given) for given in zip(case.layer_shapes, tensors.weights, strict=True)]
            self._arguments = [tf.constant(array) for array in _arguments(tensors)]
        with phases("trace"):
            self._function = tf.function(self._train if case.mode == "train" else self._forward, autograph=False)
            self._concrete = self._function.get_concrete_function(*self._arguments)
        with phases("first_call"):
            self.run()
        self.build_phases_s: Mapping[str, float] = phases

    def run(self) -> None:
        self._results = self._concrete(*self._arguments)

    def synchronize(self) -> None:
        """Nothing to wait for: TensorFlow's CPU functions have finished when they return."""

    def outputs(self) -> Outputs:
        outputs, state, *gradients = self._results
        if not gradients:
            return Outputs(outputs.numpy(), _canonical_state(state))
        d_inputs, d_weights, d_state = gradients
        weights = tuple(_canonical_weights(self._case, layer) for layer in d_weights)
        return Outputs(
            outputs.numpy(), _canonical_state(state), Gradients(d_inputs.numpy(), weights, _canonical_state(d_state))
        )

    def compilations(self) -> int:
        return int(self._function.experimental_get_tracing_count())

    def memory(self) -> Memory:
        return Memory(weight_bytes=sum(v.numpy().nbytes for layer in self._layers for v in layer.trainable_variables))

    def listing(self) -> Listing:
        """The traced graph with the functions that it calls, such as a while loop's body."""
        graph = self._concrete.graph.as_graph_def()
        bodies = {function.signature.name: function.node_def for function in graph.library.function}
        lines = [f"{node.name} = {node.op}({', '.join(node.input)})" for node in graph.node]
        for name, nodes in bodies.items():
            lines.append(f"\n{name}:")
            lines += [f"  {node.name} = {node.op}({', '.join(node.input)})" for node in nodes]
        return Listing("\n".join(lines), graph_nodes=len(graph.node) + sum(map(len, bodies.values())))

    def close(self) -> None:
        self._results = self._function = self._concrete = None
        self._arguments = []

    def _forward(self, inputs: Tensor, lengths: Tensor, *initial: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        mask = None if self._case.lengths == "full" else tf.sequence_mask(lengths, self._case.sequence_length)
        parts = len(initial) // len(self._layers)
        x, state = inputs, []
        for i, layer in enumerate(self._layers):
            given = list(reversed(initial[i * parts : (i + 1) * parts]))  # Keras has (h, c), TensorFlow 1 (c, h)
            x, *after = layer(x, mask=mask, initial_state=given)
            state.append(list(reversed(after)))
        return x, state

    def _train(self, inputs: Tensor, lengths: Tensor, *rest: Tensor) -> tuple[Any, ...]:
        initial, (d_outputs, *d_state) = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        weights = [[variable.value for variable in layer.trainable_variables] for layer in self._layers]
        with tf.GradientTape() as tape:
            tape.watch([inputs, *initial])
            outputs, state = self._forward(inputs, lengths, *initial)
        results = [outputs, *(part for layer in state for part in layer)]
        d_inputs, d_weights, d_initial = tape.gradient(
            results, (inputs, weights, initial), output_gradients=[d_outputs, *d_state], unconnected_gradients="zero"
        )
        parts = len(initial) // len(self._layers)
        by_layer = [list(d_initial[i : i + parts]) for i in range(0, len(initial), parts)]
        return outputs, state, d_inputs, d_weights, by_layer


def _set_threads(threads: int) -> None:
    """TensorFlow's process-wide pools; it raises RuntimeError if they already run with other sizes."""
    for pool in ("intra", "inter"):
        if getattr(tf.config.threading, f"get_{pool}_op_parallelism_threads")() != threads:
            getattr(tf.config.threading, f"set_{pool}_op_parallelism_threads")(threads)


def _layer(case: Case, shape: tuple[int, int, int], weights: Weights) -> Any:
    inputs, units, _ = shape
    options: dict[str, Any] = {
        "return_sequences": True,
        "return_state": True,
        "unroll": case.execution == "static",
        "zero_output_for_mask": True,
        "dtype": case.dtype,
    }
    if case.cell == "gru":
        options["reset_after"] = False  # the variant of TensorFlow 1: the reset gate before the product
    kind = {"basic_rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[case.cell]
    layer = kind(units, **options)
    layer.build((case.batch_size, case.sequence_length, inputs))
    layer.set_weights(_keras_weights(case, weights, inputs))
    return layer


def _keras_weights(case: Case, weights: Weights, inputs: int) -> list[Array]:
    """kernel (I, G*H), recurrent kernel (H, G*H) and bias (G*H,) in Keras's gate order."""
    if case.cell == "gru":
        kernel = np.concatenate([weights["gates/kernel"], weights["candidate/kernel"]], axis=1)
        bias = np.concatenate([weights["gates/bias"], weights["candidate/bias"]])
    else:
        kernel, bias = weights["kernel"], weights["bias"]
    kernel, bias = _gates(case, kernel), _gates(case, bias)
    if case.cell == "lstm":
        units = len(bias) // 4
        bias[units : 2 * units] += case.cell_options.forget_bias
    return [kernel[:inputs], kernel[inputs:], bias]


def _canonical_weights(case: Case, layer: Sequence[Tensor]) -> Weights:
    """What `_keras_weights` took apart."""
    input_kernel, recurrent_kernel, bias = (part.numpy() for part in layer)
    kernel, bias = _gates(case, np.concatenate([input_kernel, recurrent_kernel])), _gates(case, bias)
    if case.cell != "gru":
        return {"kernel": kernel, "bias": bias}
    gates = 2 * len(bias) // 3
    return {
        "gates/kernel": kernel[:, :gates],
        "gates/bias": bias[:gates],
        "candidate/kernel": kernel[:, gates:],
        "candidate/bias": bias[gates:],
    }


def _gates(case: Case, columns: Array) -> Array:
    """A copy with the blocks of columns, one per gate, in the other order."""
    order = _GATES[case.cell]
    blocks = np.split(columns, len(order), axis=-1)
    return np.concatenate([blocks[gate] for gate in order], axis=-1)


def _arguments(tensors: Tensors) -> list[Any]:
    """inputs, lengths (empty if all rows are full), initial state and, in train mode, d_outputs and d_state, flat."""
    lengths = np.zeros(0, np.int64) if tensors.lengths is None else tensors.lengths
    arrays: list[Any] = [tensors.inputs, lengths, *(part for layer in tensors.initial_state for part in layer)]
    if tensors.d_state is not None:
        arrays += [tensors.d_outputs, *(part for layer in tensors.d_state for part in layer)]
    return arrays


def _canonical_state(state: Sequence[Sequence[Tensor]]) -> tuple[State, ...]:
    return tuple(tuple(part.numpy() for part in layer) for layer in state)

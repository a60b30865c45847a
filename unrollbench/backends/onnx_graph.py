"""The ONNX graphs of a case: unrolled, with a Scan, of one step, and of fused operators.

Every graph takes `inputs`, the initial state as `state_<layer>_<part>` and, unless all rows are full, `lengths` (B,)
int64; it returns `outputs` and the final state as `final_<layer>_<part>`. Weights are initialisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from unrollbench.backends.step import States, Value, stack_step
from unrollbench.case import Case
from unrollbench.tensors import Array, Weights, state_shapes

OPSET = 18
"""The first with Split(num_outputs); ONNX Runtime 1.14 and later run it."""
IR_VERSION = 9


def unrolled_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One copy of the step's nodes per time step."""
    graph, axis = Graph(case), 0 if case.time_major else 1
    constants = graph.weights(weights)
    steps = graph.split(Name("inputs", graph), case.sequence_length, axis)
    state, outputs = graph.initial_state(), []
    column = graph.column_of_lengths()
    for t, x in enumerate(steps):
        running = None if column is None else graph.node("Less", graph.constant(np.int64(t)), column)
        output, state = stack_step(graph.ops, case, constants, graph.squeeze(x, axis), state, running)
        outputs.append(graph.unsqueeze(output, axis))
    graph.node("Concat", *outputs, named="outputs", axis=axis)
    return graph.model(state)


def scan_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One Scan, whose body has one copy of the step's nodes."""
    graph, axis = Graph(case), 0 if case.time_major else 1
    body = Graph(case, prefix="body_")
    constants = [{key: Name(value.name, body) for key, value in layer.items()} for layer in graph.weights(weights)]
    state = tuple(tuple(Name(f"body_{name}", body) for name in layer) for layer in _state_names(case, "state"))
    sequences: list[Value] = [Name("inputs", graph)]
    column = graph.column_of_lengths()
    if column is not None:
        steps = graph.constant(np.arange(case.sequence_length, dtype=np.int64)[:, None, None])
        sequences.append(graph.node("Less", steps, column))
    running = None if column is None else Name("body_running", body)
    output, new_state = stack_step(body.ops, case, constants, Name("body_x", body), state, running)
    finals = [body.node("Identity", value) for layer in new_state for value in layer]
    body_graph = helper.make_graph(
        body.nodes,
        "step",
        [helper.make_tensor_value_info(name.name, body.element, None) for layer in state for name in layer]
        + [helper.make_tensor_value_info("body_x", body.element, [case.batch_size, case.input_size])]
        + ([] if running is None else [helper.make_tensor_value_info("body_running", TensorProto.BOOL, None)]),
        [helper.make_tensor_value_info(value.name, body.element, None) for value in finals]
        + [helper.make_tensor_value_info(output.name, body.element, None)],
        body.initializers,
    )
    results = graph.node(
        "Scan",
        *(value for layer in graph.initial_state() for value in layer),
        *sequences,
        count=len(finals) + 1,
        body=body_graph,
        num_scan_inputs=len(sequences),
        scan_input_axes=[axis, 0][: len(sequences)],
        scan_output_axes=[axis],
    )
    graph.node("Identity", results[-1], named="outputs")
    parts = len(state[0])
    return graph.model(tuple(tuple(results[i : i + parts]) for i in range(0, len(finals), parts)))


def step_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One step: `inputs` is (B,I), `outputs` (B,P), and the step's number is the input `t` where rows have lengths."""
    graph = Graph(case)
    column = graph.column_of_lengths()
    running = None if column is None else graph.node("Less", Name("t", graph), column)
    x = Name("inputs", graph)
    output, state = stack_step(graph.ops, case, graph.weights(weights), x, graph.initial_state(), running)
    graph.node("Identity", output, named="outputs")
    return graph.model(state, step=True)


def fused_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """A chain of RNN, GRU or LSTM operators; they are time-major, so batch-major cases get two transposes."""
    graph = Graph(case)
    x: Value = Name("inputs", graph)
    if not case.time_major:
        x = graph.node("Transpose", x, perm=[1, 0, 2])
    lengths: Value = Name("", graph)
    if case.lengths != "full":
        lengths = graph.node("Cast", Name("lengths", graph), to=TensorProto.INT32)
    finals = []
    for units, layer, before in zip(case.units, weights, graph.initial_state(), strict=True):
        operands = [graph.constant(array) for array in _fused_weights(case, layer, units)]
        initial = [graph.unsqueeze(part, 0) for part in reversed(before)]
        peepholes = []
        if case.cell_options.use_peepholes:
            peepholes = [graph.constant(np.concatenate([layer[f"w_{gate}_diag"] for gate in "iof"])[None])]
        results = graph.node(
            {"basic_rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}[case.cell],
            *(x, *operands, lengths, *initial, *peepholes),
            count=1 + len(before),
            hidden_size=units,
        )
        x = graph.squeeze(results[0], 1)
        finals.append(tuple(graph.squeeze(part, 0) for part in reversed(results[1:])))
    if case.time_major:
        graph.node("Identity", x, named="outputs")
    else:
        graph.node("Transpose", x, named="outputs", perm=[1, 0, 2])
    return graph.model(tuple(finals))


def feed_names(case: Case) -> tuple[tuple[str, ...], ...]:
    """The graph's inputs for the initial state, a tuple per layer."""
    return _state_names(case, "state")


def final_names(case: Case) -> tuple[tuple[str, ...], ...]:
    """The graph's outputs for the final state, a tuple per layer."""
    return _state_names(case, "final")


@dataclass(frozen=True)
class Name:
    """A value of a graph: what stands for an array when a step is written down as nodes."""

    name: str
    graph: Graph = field(repr=False)

    def __add__(self, other: Name | float) -> Name:
        return self.graph.binary("Add", self, other)

    def __sub__(self, other: Name | float) -> Name:
        return self.graph.binary("Sub", self, other)

    def __mul__(self, other: Name | float) -> Name:
        return self.graph.binary("Mul", self, other)


class Graph:
    """Nodes and initialisers as they are added."""

    def __init__(self, case: Case, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.element = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[case.dtype]
        self.ops = _GraphOps(self)
        self._case, self._prefix = case, prefix

    def node(self, operator: str, *inputs: Name, count: int = 1, named: str | None = None, **attributes: Any) -> Any:
        """The node's output, or all of them if there are more than one."""
        stem = named or f"{self._prefix}{operator}_{len(self.nodes)}"
        names = [stem] if count == 1 else [f"{stem}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(operator, [value.name for value in inputs], names, **attributes))
        outputs = tuple(Name(name, self) for name in names)
        return outputs[0] if count == 1 else outputs

    def binary(self, operator: str, left: Name, right: Name | float) -> Name:
        return self.node(  # type: ignore[no-any-return]
            operator, left, right if isinstance(right, Name) else self.scalar(right)
        )

    def constant(self, array: Any) -> Name:
        name = f"{self._prefix}constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name))
        return Name(name, self)

    def scalar(self, value: float) -> Name:
        return self.constant(np.asarray(value, self._case.dtype))

    def weights(self, weights: Sequence[Weights]) -> list[dict[str, Name]]:
        return [{name: self.constant(array) for name, array in layer.items()} for layer in weights]

    def split(self, value: Name, parts: int, axis: int) -> Sequence[Name]:
        if parts == 1:
            return (value,)
        return self.node("Split", value, count=parts, num_outputs=parts, axis=axis)  # type: ignore[no-any-return]

    def squeeze(self, value: Name, axis: int) -> Name:
        return self.node("Squeeze", value, self.constant(np.array([axis])))  # type: ignore[no-any-return]

    def unsqueeze(self, value: Name, axis: int) -> Name:
        return self.node("Unsqueeze", value, self.constant(np.array([axis])))  # type: ignore[no-any-return]

    def initial_state(self) -> States:
        return tuple(tuple(Name(name, self) for name in layer) for layer in feed_names(self._case))

    def column_of_lengths(self) -> Name | None:
        """The lengths as (B, 1), or None if every row is full."""
        return None if self._case.lengths == "full" else self.unsqueeze(Name("lengths", self), 1)

    def model(self, state: States, step: bool = False) -> ModelProto:
        """The checked model, with the state as its outputs beside `outputs`."""
        case, shapes = (
            self._case,
            [state_shapes(self._case.cell, self._case.cell_options, 0, u) for u in self._case.units],
        )
        lead = [case.batch_size] if step else _lead(case)
        inputs = [helper.make_tensor_value_info("inputs", self.element, [*lead, case.input_size])]
        outputs = [helper.make_tensor_value_info("outputs", self.element, [*lead, case.layer_shapes[-1][2]])]
        for layer, (befores, afters) in enumerate(zip(feed_names(case), final_names(case), strict=True)):
            for before, after, value, (_, size) in zip(befores, afters, state[layer], shapes[layer], strict=True):
                inputs.append(helper.make_tensor_value_info(before, self.element, [case.batch_size, size]))
                outputs.append(helper.make_tensor_value_info(after, self.element, [case.batch_size, size]))
                self.node("Identity", value, named=after)
        if case.lengths != "full":
            inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT64, [case.batch_size]))
            inputs += [helper.make_tensor_value_info("t", TensorProto.INT64, [])] * step
        graph = helper.make_graph(self.nodes, case.execution, inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


class _GraphOps:
    """What a step needs, as nodes of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def affine(self, x: Value, h: Value, kernel: Value, bias: Value) -> Value:
        return self._graph.node("Gemm", self._graph.node("Concat", x, h, axis=1), kernel, bias)

    def matmul(self, x: Value, kernel: Value) -> Value:
        return self._graph.node("MatMul", x, kernel)

    def sigmoid(self, x: Value) -> Value:
        return self._graph.node("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self._graph.node("Tanh", x)

    def split(self, x: Value, parts: int) -> Sequence[Value]:
        return self._graph.split(x, parts, axis=1)

    def clip(self, x: Value, bound: float) -> Value:
        return self._graph.node("Clip", x, self._graph.scalar(-bound), self._graph.scalar(bound))

    def where(self, running: Value, new: Value, old: Value) -> Value:
        return self._graph.node("Where", running, new, old)

    def zeros_like(self, x: Value) -> Value:
        return self._graph.scalar(0.0)


def _lead(case: Case) -> list[int]:
    steps, rows = case.sequence_length, case.batch_size
    return [steps, rows] if case.time_major else [rows, steps]


def _state_names(case: Case, stem: str) -> tuple[tuple[str, ...], ...]:
    parts = len(state_shapes(case.cell, case.cell_options, 1, 1))
    return tuple(tuple(f"{stem}_{layer}_{part}" for part in range(parts)) for layer in range(case.num_layers))


def _fused_weights(case: Case, layer: Weights, units: int) -> tuple[Array, Array, Array]:
    """W (1, G*H, I), R (1, G*H, H) and B (1, 2*G*H) in ONNX's gate order: i, o, f, c for LSTM; z, r, h for GRU."""
    order: tuple[int, ...]
    if case.cell == "gru":
        kernel = np.concatenate([layer["gates/kernel"], layer["candidate/kernel"]], axis=1)
        bias, order = np.concatenate([layer["gates/bias"], layer["candidate/bias"]]), (1, 0, 2)
    else:
        kernel, bias, order = layer["kernel"], layer["bias"].copy(), (0, 3, 2, 1) if case.cell == "lstm" else (0,)
    if case.cell == "lstm":
        bias[2 * units : 3 * units] += case.cell_options.forget_bias
    columns = np.concatenate([np.arange(gate * units, (gate + 1) * units) for gate in order])
    rows, bias = kernel[:, columns].T, bias[columns]
    inputs = rows.shape[1] - units
    return rows[None, :, :inputs], rows[None, :, inputs:], np.concatenate([bias, np.zeros_like(bias)])[None]

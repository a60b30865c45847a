"""An ONNX graph while it is being made: names that stand for arrays, and the nodes that compute with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from unrollbench.backends.step import States, Value
from unrollbench.case import Case
from unrollbench.tensors import Weights, state_shapes

OPSET = 18
"""The first with Split(num_outputs); ONNX Runtime 1.14 and later run it."""
IR_VERSION = 9


def lines(graph: Any, indent: str = "") -> list[str]:
    """The graph's nodes, one per line, those of a Scan's body below it; weights are told by name only."""
    found = []
    for node in graph.node:
        found.append(f"{indent}{', '.join(node.output)} = {node.op_type}({', '.join(node.input)})")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += lines(attribute.g, indent + "  ")
    return found


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

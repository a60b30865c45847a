"""One time step of a stack of cells in any array language: what the JAX, PyTorch and ONNX backends repeat.

The equations are TensorFlow 1's, on TensorFlow 1's weight layouts; `tensors.py` has the legend. An `Ops` names the few
functions in which the languages differ; + - * are the arrays' own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from unrollbench.case import Case, CellOptions

Value = Any
"""An array of the framework, or a node of its graph."""
States = tuple[tuple[Value, ...], ...]
"""The state of each layer: (h,), or (c, h) for lstm."""
LayerWeights = Mapping[str, Value]


class Ops(Protocol):
    """The functions of an array language that a step needs; every operand has batch rows first."""

    def affine(self, x: Value, h: Value, kernel: Value, bias: Value) -> Value:
        """[x, h] @ kernel + bias."""

    def matmul(self, x: Value, kernel: Value) -> Value: ...

    def sigmoid(self, x: Value) -> Value: ...

    def tanh(self, x: Value) -> Value: ...

    def split(self, x: Value, parts: int) -> Sequence[Value]:
        """Equal parts of the last axis."""

    def clip(self, x: Value, bound: float) -> Value:
        """x bounded to [-bound, bound]."""

    def where(self, running: Value, new: Value, old: Value) -> Value:
        """new where `running` (B, 1) is true, else old."""

    def zeros_like(self, x: Value) -> Value: ...


def stack_step(
    ops: Ops, case: Case, weights: Sequence[LayerWeights], x: Value, state: States, running: Value | None = None
) -> tuple[Value, States]:
    """The last layer's output (B, P) and the new states after one step of all layers.

    running (B, 1) tells which batch rows have this step; the others copy their state through and output zeros. None
    is: all rows.
    """
    cell = CELLS[case.cell]
    states: list[tuple[Value, ...]] = []
    for layer_weights, old in zip(weights, state, strict=True):
        x, new = cell(ops, case.cell_options, layer_weights, x, old)
        if running is not None:
            new = tuple(ops.where(running, after, before) for after, before in zip(new, old, strict=True))
        states.append(new)
    if running is not None:
        x = ops.where(running, x, ops.zeros_like(x))
    return x, tuple(states)


CellStep = Callable[[Ops, CellOptions, LayerWeights, Value, tuple[Value, ...]], tuple[Value, tuple[Value, ...]]]


def _basic_rnn(
    ops: Ops, options: CellOptions, w: LayerWeights, x: Value, state: tuple[Value, ...]
) -> tuple[Value, tuple[Value, ...]]:
    h = ops.tanh(ops.affine(x, state[0], w["kernel"], w["bias"]))
    return h, (h,)


def _gru(
    ops: Ops, options: CellOptions, w: LayerWeights, x: Value, state: tuple[Value, ...]
) -> tuple[Value, tuple[Value, ...]]:
    (h,) = state
    r, u = ops.split(ops.sigmoid(ops.affine(x, h, w["gates/kernel"], w["gates/bias"])), 2)
    candidate = ops.tanh(ops.affine(x, r * h, w["candidate/kernel"], w["candidate/bias"]))
    h = candidate + u * (h - candidate)
    return h, (h,)


def _lstm(
    ops: Ops, options: CellOptions, w: LayerWeights, x: Value, state: tuple[Value, ...]
) -> tuple[Value, tuple[Value, ...]]:
    c, h = state
    i, j, f, o = ops.split(ops.affine(x, h, w["kernel"], w["bias"]), 4)
    f = f + options.forget_bias
    if options.use_peepholes:
        i, f = i + w["w_i_diag"] * c, f + w["w_f_diag"] * c
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(j)
    if options.cell_clip is not None:
        c = ops.clip(c, options.cell_clip)
    if options.use_peepholes:
        o = o + w["w_o_diag"] * c
    h = ops.sigmoid(o) * ops.tanh(c)
    if options.num_proj is not None:
        h = ops.matmul(h, w["projection/kernel"])
        if options.proj_clip is not None:
            h = ops.clip(h, options.proj_clip)
    return h, (c, h)


CELLS: dict[str, CellStep] = {"basic_rnn": _basic_rnn, "gru": _gru, "lstm": _lstm}

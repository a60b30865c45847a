"""The time loop, the stack of layers and the lengths, around the steps of `equations`.

Past a row's length the state is copied through and the output is zero (TensorFlow's `_rnn_step`), so neither the input
there, were it NaN, nor the cotangent of the output there reaches any result. In five lines:

    for t in range(T):
        output, new = step(x[t], state)
        outputs[t] = where(t < length, output, 0)
        state = where(t < length, new, state)
    return outputs, state
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from unrollbench import definition
from unrollbench.case import CellOptions
from unrollbench.reference.equations import GRU, LSTM, BasicRNN, Cell, Saved
from unrollbench.tensors import Array, Gradients, Outputs, State, Weights

BLOCK_BYTES = 1 << 28
"""Saved activations of one block of batch rows: rows are independent, so memory need not grow with the batch."""

Mask = npt.NDArray[np.bool_]
Lengths = npt.NDArray[np.integer] | Sequence[int] | None


class Layer(Protocol):
    """One layer of a network; its sizes are those of its weights."""

    @property
    def cell(self) -> str: ...

    @property
    def options(self) -> CellOptions: ...


def forward(
    layers: Sequence[Layer], inputs: Array, lengths: Lengths, initial_state: Sequence[State], weights: Sequence[Weights]
) -> tuple[Array, tuple[State, ...]]:
    """The outputs (T,B,P) and each layer's final state, in float64, for inputs (T,B,I)."""
    result = forward_backward(layers, inputs, lengths, initial_state, weights, None, None)
    return result.outputs, result.state


def forward_backward(
    layers: Sequence[Layer],
    inputs: Array,
    lengths: Lengths,
    initial_state: Sequence[State],
    weights: Sequence[Weights],
    d_outputs: Array | None,
    d_state: Sequence[State] | None,
    clip_margin: float = 0.0,
) -> Outputs:
    """Outputs and final state in float64, and the gradients of sum(outputs * d_outputs) + sum(state * d_state).

    inputs, d_outputs: (T,B,I), (T,B,P). Without cotangents there are no gradients; one alone takes the other as zero.
    clip_margin: how far beyond a clip's bounds its gradient still passes (see `comparison.expected`).
    """
    network = _Network.of(layers, inputs.shape[2], weights, clip_margin)
    valid = _valid(inputs, lengths)
    blocks = []
    for rows in _blocks(inputs.shape[1], network.saved_bytes_per_row(len(inputs))):
        state = [tuple(np.asarray(array[rows], np.float64) for array in layer) for layer in initial_state]
        outputs, final, runs = network.forward(inputs[:, rows], valid[:, rows], state)
        gradients = None
        if d_outputs is not None or d_state is not None:
            d_out = np.zeros_like(outputs) if d_outputs is None else np.asarray(d_outputs[:, rows], np.float64)
            d_end = [tuple(np.zeros_like(array) for array in layer) for layer in final]
            if d_state is not None:
                d_end = [tuple(np.asarray(array[rows], np.float64) for array in layer) for layer in d_state]
            gradients = network.backward(runs, valid[:, rows], d_out, d_end)
        blocks.append(Outputs(outputs, final, gradients))
    return _joined(blocks)


@dataclass(frozen=True)
class _Run:
    """What one layer's forward pass leaves for its backward pass: its input and, per step, what the cell saved."""

    x: Array
    tape: list[Saved]


@dataclass(frozen=True)
class _Network:
    cells: tuple[Cell, ...]
    activations_per_step: int

    @staticmethod
    def of(layers: Sequence[Layer], input_size: int, weights: Sequence[Weights], clip_margin: float) -> _Network:
        cells: list[Cell] = []
        activations = 0
        for layer, given in zip(layers, weights, strict=True):
            double: Weights = {name: np.asarray(array, np.float64) for name, array in given.items()}
            if layer.cell == "basic_rnn":
                cells.append(BasicRNN(double, input_size, layer.options))
                input_size = double["bias"].size
            elif layer.cell == "gru":
                cells.append(GRU(double, input_size, layer.options))
                input_size = double["candidate/bias"].size
            elif layer.cell == "lstm":
                cells.append(LSTM(double, input_size, layer.options, clip_margin))
                input_size = layer.options.num_proj or double["bias"].size // 4
            elif layer.cell in definition.names():
                foreign = definition.load(layer.cell).reference(double, input_size)
                cells.append(foreign)
                input_size = foreign.num_units
            else:
                raise ValueError(f"cell = {layer.cell!r}: the reference knows basic_rnn, gru and lstm")
            activations += 20 * sum(array.size for name, array in double.items() if name.endswith("bias")) // 4
        return _Network(tuple(cells), activations)

    def saved_bytes_per_row(self, steps: int) -> int:
        return 8 * steps * self.activations_per_step

    def forward(
        self, inputs: Array, valid: Mask, state: Sequence[State]
    ) -> tuple[Array, tuple[State, ...], list[_Run]]:
        x = np.where(valid, inputs, 0).astype(np.float64)
        runs, final = [], []
        for cell, layer_state in zip(self.cells, state, strict=True):
            wx, tape, outputs = cell.project(x), [], []
            for t in range(len(x)):
                output, new_state, saved = cell.step(wx[t], layer_state)
                layer_state = tuple(np.where(valid[t], n, old) for n, old in zip(new_state, layer_state, strict=True))
                outputs.append(np.where(valid[t], output, 0))
                tape.append(saved)
            runs.append(_Run(x, tape))
            final.append(layer_state)
            x = np.stack(outputs)
        return x, tuple(final), runs

    def backward(self, runs: Sequence[_Run], valid: Mask, d_outputs: Array, d_state: Sequence[State]) -> Gradients:
        weights, initial_state = [], []
        d_x = np.where(valid, d_outputs, 0)
        for cell, run, d_layer in reversed(list(zip(self.cells, runs, d_state, strict=True))):
            d_pres = []
            for t in reversed(range(len(run.tape))):
                d_new = tuple(np.where(valid[t], d, 0) for d in d_layer)
                d_pre, d_old = cell.step_gradient(run.tape[t], d_x[t], d_new)
                d_layer = tuple(o + np.where(valid[t], 0, d) for o, d in zip(d_old, d_layer, strict=True))
                d_pres.append(d_pre)
            saved, d_pre = _stacked(run.tape), _stacked(d_pres[::-1])
            weights.append(cell.weight_gradients(run.x, saved, d_pre))
            initial_state.append(d_layer)
            d_x = cell.input_gradient(d_pre)
        return Gradients(d_x, tuple(weights[::-1]), tuple(initial_state[::-1]))


def _valid(inputs: Array, lengths: Lengths) -> Mask:
    """(T,B,1) booleans: true where the step is within its row's length."""
    steps, batch = inputs.shape[:2]
    limit = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    valid: Mask = (np.arange(steps)[:, None] < limit)[:, :, None]
    return valid


def _stacked(steps: Sequence[Saved]) -> Saved:
    return tuple(np.stack(arrays) for arrays in zip(*steps, strict=True))


def _blocks(batch: int, bytes_per_row: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // bytes_per_row)
    return (slice(start, start + size) for start in range(0, batch, size))


def _joined(blocks: Sequence[Outputs]) -> Outputs:
    """The results of blocks of rows as one: rows side by side, weight gradients added up."""
    outputs = np.concatenate([block.outputs for block in blocks], axis=1)
    state = _joined_states([block.state for block in blocks])
    parts = [block.gradients for block in blocks if block.gradients is not None]
    if not parts:
        return Outputs(outputs, state)
    weights = tuple(
        {name: sum((layer[name] for layer in layers), np.zeros(())) for name in layers[0]}
        for layers in zip(*(part.weights for part in parts), strict=True)
    )
    inputs = np.concatenate([part.inputs for part in parts], axis=1)
    return Outputs(outputs, state, Gradients(inputs, weights, _joined_states([part.initial_state for part in parts])))


def _joined_states(states: Sequence[tuple[State, ...]]) -> tuple[State, ...]:
    return tuple(
        tuple(np.concatenate(arrays) for arrays in zip(*layers, strict=True)) for layers in zip(*states, strict=True)
    )

"""What TensorFlow returns for an empty batch or for no time steps, where there is nothing to compile or to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unrollbench.rnn.settings import Gradients, Settings
from unrollbench.tensors import Array, State

if TYPE_CHECKING:
    from unrollbench.rnn.cell import RNNCell


def results(cell: RNNCell, settings: Settings, steps: int, state: tuple[State, ...] | None) -> tuple[Array, Any]:
    """Outputs of size 0, and the state as it was."""
    return np.zeros(settings.shape(steps, cell.output_size), settings.dtype), _copied(cell, settings, state)


def gradients(cell: RNNCell, settings: Settings, steps: int, d_state: tuple[State, ...] | None) -> Gradients:
    """Zeros for the weights, and the state's gradient as it came."""
    weights = tuple({name: np.zeros_like(w) for name, w in layer.weights.items()} for layer in cell.layers)
    d_inputs = np.zeros(settings.shape(steps, cell.input_size or 0), settings.dtype)
    return Gradients(d_inputs, cell.weights_of(weights), _copied(cell, settings, d_state))


def _copied(cell: RNNCell, settings: Settings, state: tuple[State, ...] | None) -> Any:
    if state is None:
        return cell.zero_state(settings.batch_size, settings.dtype)
    return cell.nest(tuple(array.copy() for array in layer) for layer in state)

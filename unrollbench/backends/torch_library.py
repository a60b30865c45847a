"""torch.nn's fused recurrent layers with TensorFlow's weights in torch's layout, and the way back for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrollbench.case import Case
from unrollbench.tensors import Array, State, Weights

_GATES = {"basic_rnn": (0,), "lstm": (0, 2, 1, 3)}
"""torch's gate order by TensorFlow's: i, f, g, o from i, j, f, o; its own inverse."""


class OwnsLoop(Protocol):
    """An operator for a whole sequence of torch's tensors, with weights, state and gradients in layouts of its own."""

    def parameters(self) -> list[dict[str, Any]]:
        """The tensors that gradients are taken for, by the operator's names."""

    def network(self, weights: Any, inputs: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        """(outputs in the case's layout, state in the operator's)."""

    def stack_state(self, state: Sequence[State]) -> Sequence[Any]:
        """The canonical state as the operator has it."""

    def canonical_state(self, state: Sequence[Any]) -> tuple[State, ...]:
        """What `stack_state` stacked."""

    def canonical_weights(self, modules: Sequence[dict[str, Array]]) -> tuple[Weights, ...]:
        """Gradients of `parameters` as gradients by TensorFlow's names."""

    def source(self) -> str:
        """What the listing shows."""


class Library:
    """nn.RNN or nn.LSTM for the case: one module for all layers, or one per layer where their sizes differ.

    torch's state is, per module, a tuple of arrays (layers, B, units): (h,), or (h, c) for lstm.
    """

    def __init__(self, case: Case, weights: Sequence[Weights]) -> None:
        self._case = case
        one = len(set(case.units)) == 1
        self._groups = (tuple(range(case.num_layers)),) if one else tuple((i,) for i in range(case.num_layers))
        self._modules = [self._module(group) for group in self._groups]
        for module, group in zip(self._modules, self._groups, strict=True):
            named = self._torch_weights(group, weights)
            module.load_state_dict({name: torch.from_numpy(array) for name, array in named.items()})
            module.to(case.device)  # which also lays the weights out as cuDNN wants them
            if case.device == "cuda":
                module.train(case.mode == "train")  # cuDNN keeps what gradients need in training mode only

    def parameters(self) -> list[dict[str, Any]]:
        """Each module's parameters by torch's names (`weight_ih_l0`, ...)."""
        return [dict(module.named_parameters()) for module in self._modules]

    def network(self, weights: Any, inputs: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        """(outputs, state) of the modules in a chain; with lengths, the sequences are packed and padded again.

        The modules have their parameters; `weights` is what other networks are given.
        """
        batch_first, states = not self._case.time_major, []
        x = inputs if lengths is None else pack_padded_sequence(inputs, lengths, batch_first, enforce_sorted=False)
        for module, before in zip(self._modules, state, strict=True):
            initial = before if self._case.cell == "lstm" else before[0]
            x, after = module(x, initial)
            states.append(after if self._case.cell == "lstm" else (after,))
        if lengths is not None:
            x, _ = pad_packed_sequence(x, batch_first, total_length=self._case.sequence_length)
        return x, states

    def stack_state(self, state: Sequence[State]) -> list[tuple[Array, ...]]:
        """The canonical state, (c, h) per layer, as torch has it: (h, c) per module, layers stacked."""
        parts = range(len(state[0]))
        return [
            tuple(np.stack([state[layer][part] for layer in group]) for part in reversed(parts))
            for group in self._groups
        ]

    def canonical_state(self, state: Sequence[Sequence[Array]]) -> tuple[State, ...]:
        """What `stack_state` stacked."""
        return tuple(
            tuple(part[position] for part in reversed(parts))
            for group, parts in zip(self._groups, state, strict=True)
            for position in range(len(group))
        )

    def canonical_weights(self, modules: Sequence[dict[str, Array]]) -> tuple[Weights, ...]:
        """Gradients by torch's names as gradients by TensorFlow's; bias_hh's equals bias_ih's and is left out."""
        layers: list[Weights] = []
        for group, named in zip(self._groups, modules, strict=True):
            for position in range(len(group)):
                kernel = np.concatenate([self._gates(named[f"weight_{kind}_l{position}"]).T for kind in ("ih", "hh")])
                layer = {"kernel": kernel, "bias": self._gates(named[f"bias_ih_l{position}"])}
                if f"weight_hr_l{position}" in named:
                    layer["projection/kernel"] = named[f"weight_hr_l{position}"].T
                layers.append(layer)
        return tuple(layers)

    def source(self) -> str:
        return "\n".join(map(repr, self._modules))

    def _module(self, group: tuple[int, ...]) -> Any:
        case, (inputs, units, _) = self._case, self._case.layer_shapes[group[0]]
        options: dict[str, Any] = {"num_layers": len(group), "batch_first": not case.time_major}
        options["dtype"] = getattr(torch, case.dtype)
        if case.cell == "basic_rnn":
            return torch.nn.RNN(inputs, units, **options)
        return torch.nn.LSTM(inputs, units, proj_size=case.cell_options.num_proj or 0, **options)

    def _torch_weights(self, group: tuple[int, ...], weights: Sequence[Weights]) -> dict[str, Array]:
        named: dict[str, Array] = {}
        for position, layer in enumerate(group):
            inputs = self._case.layer_shapes[layer][0]
            kernel, bias = self._gates(weights[layer]["kernel"].T), self._gates(weights[layer]["bias"])
            if self._case.cell == "lstm":
                units = len(bias) // 4
                bias[units : 2 * units] += self._case.cell_options.forget_bias
            named[f"weight_ih_l{position}"] = kernel[:, :inputs]
            named[f"weight_hh_l{position}"] = kernel[:, inputs:]
            named[f"bias_ih_l{position}"], named[f"bias_hh_l{position}"] = bias, np.zeros_like(bias)
            if "projection/kernel" in weights[layer]:
                named[f"weight_hr_l{position}"] = weights[layer]["projection/kernel"].T
        return named

    def _gates(self, rows: Array) -> Array:
        """A copy with the blocks of rows, one per gate, in the other framework's order."""
        order = _GATES[self._case.cell]
        blocks = rows.reshape(len(order), -1, *rows.shape[1:])
        return np.concatenate([blocks[gate] for gate in order])

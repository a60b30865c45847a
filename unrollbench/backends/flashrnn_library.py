"""FlashRNN's operators with TensorFlow's weights in its kernels' layouts, and the way back for gradients.

FlashRNN (Poeppel, Beck, Hochreiter, arXiv 2412.07752) takes the gates' inputs Wx as (T, B, G, heads, D) and recurrent
weights R as (G, heads, D, P), with g = R h + Wx + b; one head makes R the full matrix of a plain cell. The input
projection is the caller's: a matmul of torch here. Its `lstm` has the gates i, f, z, o and the states h, c; its
`elman` is a tanh of its one gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flashrnn import FlashRNNConfig, flashrnn

from unrollbench.case import Case
from unrollbench.tensors import Array, State, Weights

_FUNCTIONS = {"basic_rnn": "elman", "lstm": "lstm"}
_GATES = {"basic_rnn": [0], "lstm": [0, 2, 1, 3]}
"""FlashRNN's gate order by TensorFlow's: i, f, z, o from i, j, f, o; its own inverse."""
_FORGET = 1


@dataclass(frozen=True)
class Kernel:
    """A set of FlashRNN's kernels, and the layouts that it reads without copying.

    backend: FlashRNN's own name of it. columns: the order of gates G and units D in the gates' inputs and the bias.
    recurrent: the order of gates, units and recurrent inputs P in R. nvcc: it is CUDA, compiled for the case.
    """

    backend: str
    columns: str
    recurrent: str
    nvcc: bool = True


FUSED = Kernel("cuda_fused", columns="DG", recurrent="DGP")
ALTERNATING = Kernel("cuda", columns="GD", recurrent="PGD")
TRITON = Kernel("triton_fused", columns="GD", recurrent="GDP", nvcc=False)


class FlashLibrary:
    """A chain of `flashrnn` calls, one per layer, each behind its input projection.

    FlashRNN's state of a layer is one array (states, 1, B, 1 head, units), h first.
    """

    def __init__(self, case: Case, weights: Sequence[Weights], kernel: Kernel) -> None:
        self._case, self._kernel = case, kernel
        self._order = _GATES[case.cell]
        self._configs = [self._config(units) for units in case.units]
        self._parameters = [self._layer(*given) for given in zip(case.layer_shapes, weights, strict=True)]

    def parameters(self) -> list[dict[str, Any]]:
        """Each layer's `input` (I, G*D), `recurrent` and `bias`, on the case's device."""
        return self._parameters

    def network(self, weights: Any, inputs: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        """(outputs, state) of the layers in a chain; time-major inside, so that batch-major pays for its transposes."""
        x, states = inputs if self._case.time_major else inputs.transpose(0, 1), []
        for config, layer, before in zip(self._configs, weights, state, strict=True):
            gates = self._in_order((x @ layer["input"]).unflatten(-1, self._sizes(config)), self._kernel.columns, "GD")
            recurrent = self._in_order(layer["recurrent"], self._kernel.recurrent, "GDP").unsqueeze(1)
            bias = self._in_order(layer["bias"], self._kernel.columns, "GD").unsqueeze(1)
            every, last = flashrnn(gates.unsqueeze(-2), recurrent, bias, states=before, config=config)
            x = every[0].squeeze(2)
            states.append(last)
        return x if self._case.time_major else x.transpose(0, 1), states

    def stack_state(self, state: Sequence[State]) -> list[Array]:
        return [np.stack(layer[::-1])[:, None, :, None] for layer in state]

    def canonical_state(self, state: Sequence[Array]) -> tuple[State, ...]:
        return tuple(tuple(layer[::-1, 0, :, 0]) for layer in state)

    def canonical_weights(self, modules: Sequence[dict[str, Array]]) -> tuple[Weights, ...]:
        """What `_layer` took apart."""
        layers: list[Weights] = []
        for (inputs, units, _), layer in zip(self._case.layer_shapes, modules, strict=True):
            sizes = [{"G": len(self._order), "D": units}[letter] for letter in self._kernel.columns]
            given = layer["input"].reshape(inputs, *sizes).transpose(_axes("I" + self._kernel.columns, "IGD"))
            recurrent = layer["recurrent"].transpose(_axes(self._kernel.recurrent, "PGD"))
            bias = layer["bias"].transpose(_axes(self._kernel.columns, "GD"))
            kernel = np.concatenate([given, recurrent])[:, self._order]
            layers.append({"kernel": kernel.reshape(len(kernel), -1), "bias": bias[self._order].reshape(-1)})
        return tuple(layers)

    def source(self) -> str:
        return "\n".join(map(repr, self._configs))

    def _config(self, units: int) -> FlashRNNConfig:
        return FlashRNNConfig(
            backend=self._kernel.backend,
            function=_FUNCTIONS[self._case.cell],
            num_heads=1,
            head_dim=units,
            batch_size=self._case.batch_size,
            input_shape="TBGHD",
            output_shape="STBHD",
            dtype=self._case.dtype,
        )

    def _layer(self, shape: tuple[int, int, int], weights: Weights) -> dict[str, Any]:
        inputs, units, _ = shape
        kernel = weights["kernel"].reshape(-1, len(self._order), units)[:, self._order]
        bias = weights["bias"].reshape(-1, units)[self._order]
        if self._case.cell == "lstm":
            bias[_FORGET] += self._case.cell_options.forget_bias
        given = kernel[:inputs].transpose(_axes("IGD", "I" + self._kernel.columns)).reshape(inputs, -1)
        recurrent = kernel[inputs:].transpose(_axes("PGD", self._kernel.recurrent))
        named = {"input": given, "recurrent": recurrent, "bias": bias.transpose(_axes("GD", self._kernel.columns))}
        return {name: self._parameter(array) for name, array in named.items()}

    def _parameter(self, array: Array) -> Any:
        tensor = torch.from_numpy(np.array(array, order="C")).to(self._case.device)
        return tensor.requires_grad_(self._case.mode == "train")

    def _sizes(self, config: FlashRNNConfig) -> tuple[int, ...]:
        return tuple({"G": len(self._order), "D": config.head_dim}[letter] for letter in self._kernel.columns)

    @staticmethod
    def _in_order(tensor: Any, given: str, wanted: str) -> Any:
        """A view with its last axes, which `given` names, in the order of `wanted`."""
        first = tensor.dim() - len(given)
        return tensor.permute(*range(first), *(first + axis for axis in _axes(given, wanted)))


def _axes(given: str, wanted: str) -> tuple[int, ...]:
    """For `transpose`: axes named by letters, from one order to the other."""
    return tuple(given.index(letter) for letter in wanted)

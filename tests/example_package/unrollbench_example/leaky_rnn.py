"""Cell `leaky_rnn`: a basic RNN whose units keep part of their value.

    h' = (1 - a) h + a tanh(x W_x + h W_h + b)        a = 1/2, the leak

Source: Jaeger, The "echo state" approach to analysing and training recurrent neural networks, 2001.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unrollbench.cells import Cell, Stage
from unrollbench.cells.functions import tanh
from unrollbench.definition import CellDefinition

LEAK = 0.5


def weight_shapes(inputs: int, units: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs + units, units), "bias": (units,)}


def equations(dtype: Any) -> Cell:
    """One product and one stage, from which the kernels are made: only `tanh` and + - *, constants of dtype."""
    one, leak = dtype(1), dtype(LEAK)

    def forward(z: Any, h: Any) -> Any:
        z = tanh(z)
        return z, h + leak * (z - h)

    def backward(z: Any, h: Any, h_new: Any, d_h: Any) -> Any:
        return d_h * leak * (one - z * z), d_h * (one - leak)

    stage = Stage(("z",), "h", "kernel", "bias", reads=("h",), writes=("h",), forward=forward, backward=backward)
    return Cell("leaky_rnn", ("h",), (stage,))


class Reference:
    """The same cell for the oracle: whole arrays in float64, the gradient worked out by hand."""

    def __init__(self, weights: Any, input_size: int) -> None:
        self.W_x, self.W_h = np.split(weights["kernel"], [input_size])
        self.b = weights["bias"]
        self.num_units = self.b.size

    def project(self, x: Any) -> Any:
        return x @ self.W_x + self.b

    def step(self, wx: Any, state: Any) -> Any:
        (h,) = state
        z = np.tanh(wx + h @ self.W_h)
        h_new = (1 - LEAK) * h + LEAK * z
        return h_new, (h_new,), (h, z)

    def step_gradient(self, saved: Any, d_output: Any, d_state: Any) -> Any:
        _, z = saved
        d_new = d_output + d_state[0]
        d_pre = d_new * LEAK * (1 - z**2)
        return (d_pre,), ((1 - LEAK) * d_new + d_pre @ self.W_h.T,)

    def weight_gradients(self, x: Any, saved: Any, d_pre: Any) -> Any:
        rows = np.concatenate([x, saved[0]], axis=2)
        return {"kernel": np.einsum("tbi,tbj->ij", rows, d_pre[0]), "bias": d_pre[0].sum(axis=(0, 1))}

    def input_gradient(self, d_pre: Any) -> Any:
        return d_pre[0] @ self.W_x.T


definition = CellDefinition(gates=1, weight_shapes=weight_shapes, equations=equations, reference=Reference)

"""One step of each cell and its gradient, as written in the papers and in TensorFlow 1's `rnn_cell`.

A cell is used in four moves. `project` is the part of the gates' pre-activations that depends on x alone, so it can be
done for all time steps at once. `step` goes from one time step's projection and the old state to the output, the new
state, and what the gradient needs. `step_gradient` goes back: from d_output and d_state to d_pre, the gradients of the
pre-activations, and to the gradient of the old state. `weight_gradients` and `input_gradient` finish with d_pre of all
time steps. `d_x` everywhere is the gradient of the loss with respect to x.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from unrollbench.case import CellOptions
from unrollbench.tensors import Array, State, Weights

Saved = tuple[Array, ...]


class Cell(Protocol):
    """What `network` asks of a cell; arrays are (B, size) in the steps and (T, B, size) elsewhere."""

    def project(self, x: Array) -> Array: ...

    def step(self, wx: Array, state: State) -> tuple[Array, State, Saved]: ...

    def step_gradient(self, saved: Saved, d_output: Array, d_state: State) -> tuple[Saved, State]: ...

    def weight_gradients(self, x: Array, saved: Saved, d_pre: Saved) -> Weights: ...

    def input_gradient(self, d_pre: Saved) -> Array: ...


class BasicRNN:
    """h' = tanh([x, h] W + b); the output is h'. Source: TensorFlow 1, `BasicRNNCell`."""

    def __init__(self, weights: Weights, input_size: int, options: CellOptions) -> None:
        self.W_x, self.W_h = np.split(weights["kernel"], [input_size])
        self.b = weights["bias"]

    def project(self, x: Array) -> Array:
        return x @ self.W_x + self.b

    def step(self, wx: Array, state: State) -> tuple[Array, State, Saved]:
        (h,) = state
        h_new = np.tanh(wx + h @ self.W_h)
        return h_new, (h_new,), (h, h_new)

    def step_gradient(self, saved: Saved, d_output: Array, d_state: State) -> tuple[Saved, State]:
        _, h_new = saved
        d_pre = (d_output + d_state[0]) * (1 - h_new**2)
        return (d_pre,), (d_pre @ self.W_h.T,)

    def weight_gradients(self, x: Array, saved: Saved, d_pre: Saved) -> Weights:
        h, _ = saved
        return {"kernel": _outer(x, h, d_pre[0]), "bias": _sum(d_pre[0])}

    def input_gradient(self, d_pre: Saved) -> Array:
        return d_pre[0] @ self.W_x.T


class GRU:
    """r, u = sigmoid([x, h] W + b); c = tanh([x, r*h] V + a); h' = u*h + (1-u)*c; the output is h'.

    Source: Cho et al. 2014 (arXiv 1406.1078) as TensorFlow 1's `GRUCell` has it: r scales h before the product.
    """

    def __init__(self, weights: Weights, input_size: int, options: CellOptions) -> None:
        self.W_x, self.W_h = np.split(weights["gates/kernel"], [input_size])
        self.V_x, self.V_h = np.split(weights["candidate/kernel"], [input_size])
        self.b, self.a = weights["gates/bias"], weights["candidate/bias"]

    def project(self, x: Array) -> Array:
        return np.concatenate([x @ self.W_x + self.b, x @ self.V_x + self.a], axis=-1)

    def step(self, wx: Array, state: State) -> tuple[Array, State, Saved]:
        (h,) = state
        size = h.shape[-1]
        r, u = np.split(sigmoid(wx[:, : 2 * size] + h @ self.W_h), 2, axis=-1)
        c = np.tanh(wx[:, 2 * size :] + (r * h) @ self.V_h)
        h_new = u * h + (1 - u) * c
        return h_new, (h_new,), (h, r, u, c)

    def step_gradient(self, saved: Saved, d_output: Array, d_state: State) -> tuple[Saved, State]:
        h, r, u, c = saved
        d_h_new = d_output + d_state[0]
        d_c = d_h_new * (1 - u) * (1 - c**2)
        d_u = d_h_new * (h - c) * u * (1 - u)
        d_rh = d_c @ self.V_h.T
        d_r = d_rh * h * r * (1 - r)
        d_gates = np.concatenate([d_r, d_u], axis=-1)
        d_h = d_h_new * u + d_rh * r + d_gates @ self.W_h.T
        return (d_gates, d_c), (d_h,)

    def weight_gradients(self, x: Array, saved: Saved, d_pre: Saved) -> Weights:
        h, r, _, _ = saved
        d_gates, d_c = d_pre
        return {
            "gates/kernel": _outer(x, h, d_gates),
            "gates/bias": _sum(d_gates),
            "candidate/kernel": _outer(x, r * h, d_c),
            "candidate/bias": _sum(d_c),
        }

    def input_gradient(self, d_pre: Saved) -> Array:
        d_gates, d_c = d_pre
        return d_gates @ self.W_x.T + d_c @ self.V_x.T


class LSTM:
    """The long short-term memory with forget bias, peepholes, clipped cell, and clipped projection.

    i, j, f, o = [x, h] W + b
    c' = clip(sigmoid(f + forget_bias + w_f*c) * c + sigmoid(i + w_i*c) * tanh(j))
    m = sigmoid(o + w_o*c') * tanh(c')
    h' = clip(m P), or m without a projection; the output is h'

    Source: Hochreiter & Schmidhuber 1997; Sak et al. 2014 (arXiv 1402.1128); TensorFlow 1's `LSTMCell`. The
    gradient of a clip passes where the value before it is within the bounds, bounds included; `clip_margin` moves them.
    """

    def __init__(self, weights: Weights, input_size: int, options: CellOptions, clip_margin: float = 0.0) -> None:
        self.W_x, self.W_h = np.split(weights["kernel"], [input_size])
        self.b, self.P = weights["bias"], weights.get("projection/kernel")
        none = np.zeros(len(self.b) // 4)
        self.w_i, self.w_f, self.w_o = (weights.get(f"w_{gate}_diag", none) for gate in "ifo")
        self.options, self.clip_margin = options, clip_margin

    def project(self, x: Array) -> Array:
        return x @ self.W_x + self.b

    def step(self, wx: Array, state: State) -> tuple[Array, State, Saved]:
        c, h = state
        pre_i, pre_j, pre_f, pre_o = np.split(wx + h @ self.W_h, 4, axis=-1)
        i, j = sigmoid(pre_i + self.w_i * c), np.tanh(pre_j)
        f = sigmoid(pre_f + self.options.forget_bias + self.w_f * c)
        c_raw = f * c + i * j
        c_new = _clip(c_raw, self.options.cell_clip)
        o = sigmoid(pre_o + self.w_o * c_new)
        m = o * np.tanh(c_new)
        h_raw = m if self.P is None else m @ self.P
        h_new = h_raw if self.P is None else _clip(h_raw, self.options.proj_clip)
        return h_new, (c_new, h_new), (c, h, i, j, f, o, c_raw, c_new, m, h_raw)

    def step_gradient(self, saved: Saved, d_output: Array, d_state: State) -> tuple[Saved, State]:
        c, _, i, j, f, o, c_raw, c_new, _, h_raw = saved
        d_h_raw = d_m = d_output + d_state[1]
        if self.P is not None:
            d_h_raw = d_h_raw * self._passes(h_raw, self.options.proj_clip)
            d_m = d_h_raw @ self.P.T
        tanh_c = np.tanh(c_new)
        d_o = d_m * tanh_c * o * (1 - o)
        d_c = d_state[0] + d_m * o * (1 - tanh_c**2) + d_o * self.w_o
        d_c = d_c * self._passes(c_raw, self.options.cell_clip)
        d_i, d_j, d_f = d_c * j * i * (1 - i), d_c * i * (1 - j**2), d_c * c * f * (1 - f)
        d_gates = np.concatenate([d_i, d_j, d_f, d_o], axis=-1)
        d_c_old = d_c * f + d_i * self.w_i + d_f * self.w_f
        return (d_gates, d_h_raw), (d_c_old, d_gates @ self.W_h.T)

    def weight_gradients(self, x: Array, saved: Saved, d_pre: Saved) -> Weights:
        c, h, _, _, _, _, _, c_new, m, _ = saved
        d_gates, d_h_raw = d_pre
        d_i, _, d_f, d_o = np.split(d_gates, 4, axis=-1)
        gradients = {"kernel": _outer(x, h, d_gates), "bias": _sum(d_gates)}
        if self.options.use_peepholes:
            gradients |= {"w_i_diag": _sum(d_i * c), "w_f_diag": _sum(d_f * c), "w_o_diag": _sum(d_o * c_new)}
        if self.P is not None:
            gradients["projection/kernel"] = _rows(m).T @ _rows(d_h_raw)
        return gradients

    def input_gradient(self, d_pre: Saved) -> Array:
        return d_pre[0] @ self.W_x.T

    def _passes(self, value: Array, bound: float | None) -> Array:
        """1 where the gradient of clip(value, -bound, bound) passes, else 0."""
        if bound is None:
            return np.ones_like(value)
        return np.where(np.abs(value) <= bound + self.clip_margin, 1.0, 0.0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), exact to the last digits at both ends and without overflow."""
    e = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return result


def _clip(value: Array, bound: float | None) -> Array:
    return value if bound is None else np.clip(value, -bound, bound)


def _rows(array: Array) -> Array:
    """(T, B, size) as (T*B, size)."""
    return array.reshape(-1, array.shape[-1])


def _sum(d_pre: Array) -> Array:
    total: Array = _rows(d_pre).sum(axis=0)
    return total


def _outer(x: Array, h: Array, d_pre: Array) -> Array:
    """The gradient of W in [x, h] W: one product over the rows of all time steps."""
    return np.concatenate([_rows(x).T @ _rows(d_pre), _rows(h).T @ _rows(d_pre)])

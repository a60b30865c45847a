"""Long short-term memory, with TensorFlow 1's options.

    i = sigmoid(z_i + w_i c)    j = tanh(z_j)    f = sigmoid(z_f + forget_bias + w_f c)
    c' = clip(f c + i j)        o = sigmoid(z_o + w_o c')        m = o tanh(c')
    h' = m, or clip(m W_p) with a projection

where z = x W_x + h W_h + b. Peepholes w, clipping and projection are left out of the equations where they are off.

Source: Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 (forget gate); Sak, Senior and Beaufays,
arXiv 1402.1128 (peepholes and projection); tf.compat.v1.nn.rnn_cell.LSTMCell and BasicLSTMCell.
"""

from __future__ import annotations

from typing import Any

from unrollbench.case import CellOptions
from unrollbench.cells import Cell, Stage
from unrollbench.cells.functions import clip, clip_gradient, sigmoid, tanh


def cell(options: CellOptions, dtype: Any) -> Cell:
    """The gates' stage and, with num_proj, the projection's."""
    diagonals = ("w_i_diag", "w_f_diag", "w_o_diag") if options.use_peepholes else ()
    output = "h" if options.num_proj is None else "m"
    forward, backward = _gates(options, dtype)
    gates = Stage(
        ("i", "j", "f", "o"), "h", "kernel", "bias", reads=("c",), writes=("c", output), diagonals=diagonals,
        forward=forward, backward=backward,
    )  # fmt: skip
    if options.num_proj is None:
        return Cell("lstm", ("c", "h"), (gates,))
    return Cell("lstm", ("c", "h"), (gates, _projection(options, dtype)), ("m",), frozenset({"h"}))


def _gates(options: CellOptions, dtype: Any) -> tuple[Any, Any]:
    peepholes, clipped = options.use_peepholes, options.cell_clip is not None
    one, forget_bias, bound = dtype(1), dtype(options.forget_bias), dtype(options.cell_clip or 0)

    def forward(i, j, f, o, c, *w):
        if peepholes:
            i, f = i + w[0] * c, f + w[1] * c
        i, j, f = sigmoid(i), tanh(j), sigmoid(f + forget_bias)
        c = f * c + i * j
        if clipped:
            c = clip(c, bound)
        if peepholes:
            o = o + w[2] * c
        o = sigmoid(o)
        return i, j, f, o, c, o * tanh(c)

    def backward(i, j, f, o, c, c_new, m, *rest):
        w, d_c, d_m = rest[:-2], rest[-2], rest[-1]
        tanh_c = tanh(c_new)
        d_o = d_m * tanh_c * (o * (one - o))
        d_c = d_c + d_m * o * (one - tanh_c * tanh_c)
        if peepholes:
            d_c = d_c + d_o * w[2]
        if clipped:
            d_c = clip_gradient(f * c + i * j, bound, d_c)
        d_i, d_j = d_c * j * (i * (one - i)), d_c * i * (one - j * j)
        d_f = d_c * c * (f * (one - f))
        d_c = d_c * f
        if peepholes:
            d_c = d_c + d_i * w[0] + d_f * w[1]
            return d_i, d_j, d_f, d_o, d_c, d_i * c, d_f * c, d_o * c_new
        return d_i, d_j, d_f, d_o, d_c

    return forward, backward


def _projection(options: CellOptions, dtype: Any) -> Stage:
    clipped, bound = options.proj_clip is not None, dtype(options.proj_clip or 0)

    def forward(p):
        if clipped:
            return p, clip(p, bound)
        return p, p

    def backward(p, h, d_h):
        if clipped:
            return (clip_gradient(p, bound, d_h),)
        return (d_h,)

    return Stage(
        ("p",), "m", "projection/kernel", None, writes=("h",), takes_input=False, projects=True,
        forward=forward, backward=backward,
    )  # fmt: skip

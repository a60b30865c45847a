"""The gated recurrent unit as TensorFlow 1 defines it, with the reset gate applied before the candidate's product.

    r = sigmoid(x W_xr + h W_hr + b_r)      u = sigmoid(x W_xu + h W_hu + b_u)
    c = tanh(x W_xc + (r h) W_hc + b_c)     h' = u h + (1 - u) c

Source: Cho et al., arXiv 1406.1078; tf.compat.v1.nn.rnn_cell.GRUCell.
"""

from __future__ import annotations

from typing import Any

from unrollbench.case import CellOptions
from unrollbench.cells import Cell, Stage
from unrollbench.cells.functions import sigmoid, tanh


def cell(options: CellOptions, dtype: Any) -> Cell:
    """Two stages: the gates r and u, then the candidate c from r * h; it has no options."""
    one = dtype(1)

    def forward_gates(r, u, h):
        r, u = sigmoid(r), sigmoid(u)
        return r, u, r * h

    def backward_gates(r, u, h, rh, d_u, d_rh):
        return d_rh * h * (r * (one - r)), d_u * (u * (one - u)), d_rh * r

    def forward_candidate(c, u, h):
        c = tanh(c)
        return c, c + u * (h - c)

    def backward_candidate(c, u, h, h_new, d_h):
        d_c = d_h * (one - u) * (one - c * c)
        return d_c, d_h * (h - c), d_h * u

    gates = Stage(
        ("r", "u"), "h", "gates/kernel", "gates/bias", reads=("h",), writes=("rh",), exposed=("u",),
        forward=forward_gates, backward=backward_gates,
    )  # fmt: skip
    candidate = Stage(
        ("c",), "rh", "candidate/kernel", "candidate/bias", reads=("u", "h"), writes=("h",),
        forward=forward_candidate, backward=backward_candidate,
    )  # fmt: skip
    return Cell("gru", ("h",), (gates, candidate), temporaries=("rh",))

"""The basic recurrent cell: h' = tanh(x W_x + h W_h + b).

Source: Elman, Finding structure in time, 1990; tf.compat.v1.nn.rnn_cell.BasicRNNCell.
"""

from __future__ import annotations

from typing import Any

from unrollbench.case import CellOptions
from unrollbench.cells import Cell, Stage
from unrollbench.cells.functions import tanh


def cell(options: CellOptions, dtype: Any) -> Cell:
    """The cell's one stage; it has no options."""
    one = dtype(1)

    def forward(z):
        h = tanh(z)
        return h, h

    def backward(z, h, d_h):
        return (d_h * (one - h * h),)

    stage = Stage(("z",), "h", "kernel", "bias", writes=("h",), forward=forward, backward=backward)
    return Cell("basic_rnn", ("h",), (stage,))

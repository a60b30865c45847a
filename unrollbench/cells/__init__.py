"""Cells: the equations of one step, forward and gradient, written once for every device.

A cell is a chain of stages. A stage is one recurrent product followed by element-wise equations:

    pre-activations = x . W_x + operand . W_h + bias        (one column per gate and unit)
    gates, writes   = forward(pre-activations, reads, diagonals)

`reads` and `writes` name per-unit arrays: the state (its value before and after the step), temporaries that a later
stage uses, or gates of an earlier stage. The gradient runs the chain backwards; a stage's `backward` maps the gradients
of what it wrote to those of its pre-activations and of what it read. LSTM is one stage (two with a projection), GRU
two, since its candidate multiplies r * h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from unrollbench import definition
from unrollbench.case import CellOptions

BUILT_IN = {
    "basic_rnn": "unrollbench.cells.basic_rnn",
    "gru": "unrollbench.cells.gru",
    "lstm": "unrollbench.cells.lstm",
}
"""Cell name -> module with `cell(options, dtype) -> Cell`."""


@dataclass(frozen=True)
class Stage:
    """One recurrent product and the equations applied to it.

    gates: names of the gates, in the column order of `kernel`. operand: the array that is multiplied by the recurrent
    rows of `kernel`. takes_input: whether x comes first in the rows of `kernel`. projects: the columns are the P
    outputs and not the H units. kernel, bias, diagonals: TensorFlow's weight names (bias None: there is none).

    forward(*gates, *reads, *diagonals) -> (*gates, *writes), all per unit.
    backward(*gates, *reads, *writes, *diagonals, *d_gates, *d_writes) -> (*d_pre, *d_reads, *d_diagonals), where
    `exposed` lists the gates that later stages read, d_gates are their gradients, and d_reads is what this stage adds.
    """

    gates: tuple[str, ...]
    operand: str
    kernel: str
    bias: str | None
    writes: tuple[str, ...]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    takes_input: bool = True
    projects: bool = False
    reads: tuple[str, ...] = ()
    diagonals: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A chain of stages. state: names of the state arrays in TensorFlow's order; the one named "h" is also the output.

    projected: the arrays that have P entries per row; all others have H.
    """

    name: str
    state: tuple[str, ...]
    stages: tuple[Stage, ...]
    temporaries: tuple[str, ...] = ()
    projected: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class LayerSpec:
    """One layer of a stack: a cell, its options and its sizes I (input_size) and H (num_units)."""

    cell: str
    options: CellOptions
    input_size: int
    num_units: int

    @property
    def output_size(self) -> int:
        """P: num_proj where there is a projection, otherwise H."""
        return self.options.num_proj or self.num_units


@cache
def load(name: str, options: CellOptions, dtype: str) -> Cell:
    """The cell's equations with options and constants of `dtype` built in; the same object for the same arguments."""
    number = np.dtype(dtype).type
    built_in = name in BUILT_IN
    cell: Cell = (
        import_module(BUILT_IN[name]).cell(options, number) if built_in else definition.load(name).equations(number)
    )
    return cell


def stage_weights(stage: Stage, spec: LayerSpec, weights: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """A stage's (W_x, W_h, bias) as views of TensorFlow's weights; W_x or bias is None where the stage has none."""
    kernel = weights[stage.kernel]
    inputs = spec.input_size if stage.takes_input else 0
    bias = None if stage.bias is None else weights[stage.bias]
    return (kernel[:inputs] if stage.takes_input else None), kernel[inputs:], bias

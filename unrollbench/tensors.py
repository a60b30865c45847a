"""Seeded weights and inputs of a case, in TensorFlow 1's layouts.

Legend of dimension letters, used in every docstring:
T sequence_length, B batch_size, I input size of a layer, H num_units, P output size (num_proj or H), G gates, L layers.

Weights of one layer, a dict of arrays with TensorFlow's names:
- basic_rnn: `kernel` (I+H, H), `bias` (H,)
- gru: `gates/kernel` (I+H, 2H; r, u), `gates/bias` (2H,), `candidate/kernel` (I+H, H), `candidate/bias` (H,)
- lstm: `kernel` (I+P, 4H; i, j, f, o), `bias` (4H,); with peepholes `w_i_diag` `w_f_diag` `w_o_diag` (H,);
  with num_proj `projection/kernel` (H, P)
Rows of x come first, then those of h. State of one layer: basic_rnn and gru (h,) with h (B, H); lstm (c, h) with
c (B, H), h (B, P).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrollbench import definition
from unrollbench.case import CELLS, Case, CellOptions

Array = npt.NDArray[np.floating]
State = tuple[Array, ...]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Gradients:
    """Gradients of sum(outputs * d_outputs) + sum(state * d_state).

    inputs: shape of the inputs; weights: one dict per layer, names and shapes of the weights; initial_state: one tuple
    per layer, shapes of the state.
    """

    inputs: Array
    weights: tuple[Weights, ...]
    initial_state: tuple[State, ...]


@dataclass(frozen=True)
class Outputs:
    """Results of one run: outputs (T,B,P), or (B,T,P) if not time_major; the final state; gradients in train mode."""

    outputs: Array
    state: tuple[State, ...]
    gradients: Gradients | None = None


@dataclass(frozen=True)
class Tensors:
    """Everything a program consumes, owned by the caller and never written by a program.

    inputs: (T,B,I), or (B,T,I) if not time_major. lengths: int64 (B,), or None for "full". initial_state: one tuple per
    layer. d_outputs, d_state: the fixed cotangents of train mode, shaped as outputs and state (None in forward mode).
    """

    inputs: Array
    lengths: npt.NDArray[np.int64] | None
    initial_state: tuple[State, ...]
    weights: tuple[Weights, ...]
    d_outputs: Array | None = None
    d_state: tuple[State, ...] | None = None


def weight_shapes(cell: str, options: CellOptions, inputs: int, units: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of one layer's weights, in TensorFlow's creation order."""
    outputs = options.num_proj or units
    if cell not in CELLS:
        return dict(definition.load(cell).weight_shapes(inputs, units))
    if cell == "basic_rnn":
        return {"kernel": (inputs + units, units), "bias": (units,)}
    if cell == "gru":
        rows = inputs + units
        return {
            "gates/kernel": (rows, 2 * units),
            "gates/bias": (2 * units,),
            "candidate/kernel": (rows, units),
            "candidate/bias": (units,),
        }
    shapes: dict[str, tuple[int, ...]] = {"kernel": (inputs + outputs, 4 * units), "bias": (4 * units,)}
    if options.use_peepholes:
        shapes |= {f"w_{gate}_diag": (units,) for gate in "ifo"}
    if options.num_proj is not None:
        shapes["projection/kernel"] = (units, outputs)
    return shapes


def state_shapes(cell: str, options: CellOptions, batch: int, units: int) -> tuple[tuple[int, int], ...]:
    """Shapes of one layer's state arrays: (h,) or, for lstm, (c, h)."""
    outputs = options.num_proj or units
    if cell not in CELLS:
        return ((batch, units),) * definition.load(cell).state
    return ((batch, units), (batch, outputs)) if cell == "lstm" else ((batch, units),)


def draw_weights(case: Case) -> tuple[Weights, ...]:
    """Seeded weights per layer: uniform in +-1/sqrt(fan-in), so that gates are active and not saturated."""
    rng = np.random.default_rng((case.seed, 1))
    layers: list[Weights] = []
    for inputs, units, outputs in case.layer_shapes:
        layer: Weights = {}
        for name, shape in weight_shapes(case.cell, case.cell_options, inputs, units).items():
            bound = 1.0 / np.sqrt(shape[0] if name.endswith("kernel") else inputs + outputs)
            layer[name] = rng.uniform(-bound, bound, shape).astype(case.dtype)
        layers.append(layer)
    return tuple(layers)


def draw_lengths(case: Case) -> npt.NDArray[np.int64] | None:
    """Each batch row's own length, int64 (B,), or None for "full"."""
    if case.lengths == "full":
        return None
    if case.lengths == "uniform":
        rng = np.random.default_rng((case.seed, 2))
        return rng.integers(1, case.sequence_length, size=case.batch_size, endpoint=True, dtype=np.int64)
    return np.asarray(case.lengths, dtype=np.int64)


def draw(case: Case) -> Tensors:
    """The case's tensors; equal for equal seeds and shapes, whatever the execution.

    Inputs, initial state and cotangents are standard normal (the state scaled by 0.1): no compiler can fold them away
    and no step is a no-op. A case with time_major false gets the transposed values of the same case with true.
    """
    rng = np.random.default_rng((case.seed, 3))

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float64).astype(case.dtype)

    def states(scale: float) -> tuple[State, ...]:
        shapes = (state_shapes(case.cell, case.cell_options, case.batch_size, units) for units in case.units)
        return tuple(tuple(normal(*shape) * np.asarray(scale, case.dtype) for shape in layer) for layer in shapes)

    def layout(array: Array) -> Array:
        return array if case.time_major else np.ascontiguousarray(array.transpose(1, 0, 2))

    steps, batch = case.sequence_length, case.batch_size
    inputs = layout(normal(steps, batch, case.input_size))
    initial_state = states(0.1)
    train = case.mode == "train"
    d_outputs = layout(normal(steps, batch, case.layer_shapes[-1][2])) if train else None
    d_state = states(1.0) if train else None
    return Tensors(inputs, draw_lengths(case), initial_state, draw_weights(case), d_outputs, d_state)

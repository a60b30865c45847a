"""Where everything lies in device memory: the arrays of each layer, their slots and their fields. Pure data.

Two flat arrays of the program's dtype hold it all: `m`, what depends on the data (activations, state, gradients of
state), and `w`, the weights and their gradients. A field is the first element of an array in one of them; a kernel
reads fields from `f`, so that a program is compiled once and serves any T. Rows are contiguous and unpadded.

A slot is one time step's B rows. An array has a slot per time step where something later reads it ("time"), a slot per
step of the current window ("window"), or one slot that is overwritten in place ("single"). State arrays and windows
have one slot more: slot 0 is the state before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from unrollbench.case import DTYPES
from unrollbench.cells import Cell, LayerSpec, Stage

Slots = Literal["time", "window", "single"]

ALIGNMENT_BYTES = 256
"""Arrays begin at multiples of this: a line of the L2 cache and what cuBLAS wants for its widest loads."""
LIMIT = 0
"""The first field is the longest length, in steps."""


@dataclass(frozen=True)
class ArrayLayout:
    """One per-unit array of `size` units in a row."""

    name: str
    size: int
    slots: Slots
    is_state: bool


@dataclass(frozen=True)
class StageLayout:
    """One stage: its units, the size of its operand and the width of a row of its gates (G x units)."""

    index: int
    stage: Stage
    units: int
    operand_size: int

    @property
    def gates(self) -> int:
        return len(self.stage.gates)

    @property
    def width(self) -> int:
        return self.gates * self.units


@dataclass(frozen=True)
class LayerLayout:
    """Everything about one layer that is fixed at build. swaps: windows of saved activations leave the device."""

    index: int
    spec: LayerSpec
    cell: Cell
    dtype: str
    batch: int
    train: bool
    top: bool
    swaps: bool

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype]

    def size(self, name: str) -> int:
        """Units per row of an array."""
        return self.spec.output_size if name in self.cell.projected else self.spec.num_units

    @cached_property
    def saved(self) -> Slots:
        """The slots of what the backward pass reads."""
        return "window" if self.swaps or not self.train else "time"

    @cached_property
    def arrays(self) -> dict[str, ArrayLayout]:
        """The state and the temporaries."""
        found = {}
        for name in (*self.cell.state, *self.cell.temporaries):
            slots: Slots = self.saved if self.train else "single"
            if name == "h":
                slots = "time" if self.top else self.saved
            found[name] = ArrayLayout(name, self.size(name), slots, name in self.cell.state)
        return found

    @cached_property
    def stages(self) -> tuple[StageLayout, ...]:
        return tuple(
            StageLayout(
                index,
                stage,
                self.spec.output_size if stage.projects else self.spec.num_units,
                self.size(stage.operand),
            )
            for index, stage in enumerate(self.cell.stages)
        )

    def keeps_gates(self, s: StageLayout) -> bool:
        """Whether the stage has a gate buffer: for the input's share, for a later stage, or for the gradient."""
        return self.train or s.stage.takes_input or bool(s.stage.exposed)

    @cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Field of `w` -> shape. W_f: recurrent rows as the forward pass reads them, (units, G, operand size).

        W_x, W_b: the rows of x and the recurrent rows of TensorFlow's kernel as they are.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for s in self.stages:
            if s.stage.takes_input:
                shapes[f"W_x_{s.index}"] = (self.spec.input_size, s.width)
            shapes[f"W_f_{s.index}"] = (s.units, s.gates, s.operand_size)
            if self.train:
                shapes[f"W_b_{s.index}"] = (s.operand_size, s.width)
            if s.stage.bias is not None:
                shapes[f"bias_{s.index}"] = (s.width,)
            shapes |= dict.fromkeys(s.stage.diagonals, (s.units,))
        return shapes

    @cached_property
    def weight_gradients(self) -> dict[str, tuple[int, ...]]:
        """Field of `w` -> shape of the gradients, in TensorFlow's layouts; {} in forward mode."""
        shapes: dict[str, tuple[int, ...]] = {}
        for s in self.stages if self.train else ():
            inputs = self.spec.input_size if s.stage.takes_input else 0
            shapes[f"d_kernel_{s.index}"] = (inputs + s.operand_size, s.width)
            if s.stage.bias is not None:
                shapes[f"d_bias_{s.index}"] = (s.width,)
            shapes |= {f"d_{name}": (s.units,) for name in s.stage.diagonals}
        return shapes

    @cached_property
    def fixed(self) -> dict[str, tuple[int, ...]]:
        """Field of `m` -> shape of the arrays without slots."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, a in self.arrays.items():
            if a.slots == "single":
                shapes[name] = (1, self.batch, a.size)
            if a.is_state:
                shapes[f"initial_{name}"] = (self.batch, a.size)
            if a.is_state and self.swaps:
                shapes[f"final_{name}"] = (self.batch, a.size)
            if a.is_state and self.train:
                shapes[f"given_{name}"] = (self.batch, a.size)
            if self.train:
                shapes[f"d_{name}"] = (self.batch, a.size)
        for s in self.stages if self.train else ():
            shapes |= {f"d_{name}": (self.batch, s.units) for name in s.stage.exposed}
            shapes |= {f"rows_d_{name}": (self.batch, s.units) for name in s.stage.diagonals}
        return shapes

    def timed(self, steps: int, window: int, time_major: bool) -> dict[str, tuple[int, ...]]:
        """Field of `m` -> shape of the arrays that grow with T or with the window, windows not included."""
        batch, inputs, outputs = self.batch, self.spec.input_size, self.spec.output_size
        shapes: dict[str, tuple[int, ...]] = {
            name: (steps + a.is_state, batch, a.size) for name, a in self.arrays.items() if a.slots == "time"
        }
        if self.saved == "time":
            shapes |= {f"gates_{s.index}": (steps, batch, s.width) for s in self.stages if self.keeps_gates(s)}
        if self.index == 0:
            shapes["x"] = (steps, batch, inputs)
        if self.train:
            shapes["d_x"] = (steps if self.index == 0 else window, batch, inputs)
        if self.top and self.train:
            shapes["d_out"] = (steps, batch, outputs)
        if not time_major:
            outer = {"x": self.index == 0, "d_x": self.index == 0 and self.train}
            outer |= {"d_out": self.top and self.train, "out": self.top}
            sizes = {"x": inputs, "d_x": inputs, "d_out": outputs, "out": outputs}
            shapes |= {f"batch_{name}": (batch, steps, sizes[name]) for name, has in outer.items() if has}
        return shapes

    def windowed(self, window: int) -> dict[str, tuple[int, ...]]:
        """Field of `m` -> shape of the arrays that hold one window."""
        shapes: dict[str, tuple[int, ...]] = {
            name: (window + 1, self.batch, a.size) for name, a in self.arrays.items() if a.slots == "window"
        }
        if self.saved == "window":
            shapes |= {
                f"gates_{s.index}": (window + 1, self.batch, s.width) for s in self.stages if self.keeps_gates(s)
            }
        return shapes

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every field of this layer that any T can have."""
        found = {**self.weights, **self.weight_gradients, **self.fixed}
        found |= {**self.timed(1, 1, time_major=False), **self.windowed(1)}
        return tuple(found)


def positions(layouts: Sequence[LayerLayout]) -> dict[tuple[int, str], int]:
    """(layer, field) -> its place in `f`."""
    names = ((layout.index, name) for layout in layouts for name in layout.names)
    return {key: LIMIT + 1 + place for place, key in enumerate(names)}


@dataclass(frozen=True)
class Region:
    """Arrays one after the other, each aligned: (layer, field) -> (first element, shape)."""

    places: dict[tuple[int, str], tuple[int, tuple[int, ...]]]
    elements: int


def region(shapes: Iterator[tuple[tuple[int, str], tuple[int, ...]]], itemsize: int, start: int = 0) -> Region:
    """The shapes laid out from element `start` on."""
    step, places = ALIGNMENT_BYTES // itemsize, {}
    for key, shape in shapes:
        places[key] = (start, shape)
        start += -(-prod(shape) // step) * step
    return Region(places, start)


def weight_region(layouts: Sequence[LayerLayout]) -> Region:
    """What `w` holds."""
    shapes = (
        ((layout.index, name), shape)
        for layout in layouts
        for name, shape in {**layout.weights, **layout.weight_gradients}.items()
    )
    return region(shapes, layouts[0].itemsize)


def data_region(layouts: Sequence[LayerLayout], steps: int, window: int, time_major: bool) -> Region:
    """What `m` holds without its windows, for T = steps."""
    shapes = (
        ((layout.index, name), shape)
        for layout in layouts
        for name, shape in {**layout.fixed, **layout.timed(steps, window, time_major)}.items()
    )
    return region(shapes, layouts[0].itemsize)


def window_region(layouts: Sequence[LayerLayout], window: int, start: int) -> Region:
    """One window of every array that has one, from element `start` of `m` on."""
    shapes = (((layout.index, name), shape) for layout in layouts for name, shape in layout.windowed(window).items())
    return region(shapes, layouts[0].itemsize, start)

"""A network's memory on a device: the arrays `m`, `w`, `f` and `lengths`, and what is put into them and taken out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from unrollbench import cells
from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.layout import (
    LIMIT,
    LayerLayout,
    Region,
    data_region,
    positions,
    weight_region,
    window_region,
)
from unrollbench.kernels.cuda.memory import Allocator
from unrollbench.kernels.cuda.network import Network
from unrollbench.kernels.cuda.swap import PLACES
from unrollbench.tensors import Array, State, Weights

USERS = ("x", "batch_", "d_x", "d_out", "initial_", "given_", "final_")
"""How fields begin that hold what the user gives or gets."""


class Storage:
    """The arrays of one program. What depends on T is laid out by `resize`, and allocated anew where it has to grow.

    steps: the T that they are laid out for, None after a `resize` that found no room. Every array is given back by the
    allocator.
    """

    def __init__(self, network: Network, device: Device, allocator: Allocator, steps: int) -> None:
        self.network, self.device, self._allocator = network, device, allocator
        plan = network.plan
        self._dtype, layouts = plan.spec.dtype, plan.layouts
        self.weights = weight_region(layouts)
        self.w = allocator.allocate(self.weights.elements, self._dtype, "weights")
        self._positions = positions(layouts)
        self.f = allocator.allocate(LIMIT + 1 + len(self._positions), "int64", "fields")
        self.lengths = allocator.allocate(plan.spec.batch_size, "int64", "lengths")
        self.m = self.ones = None
        self._give_back()
        self.resize(steps)
        self.set_lengths(np.full(plan.spec.batch_size, steps, np.int64))

    def resize(self, steps: int) -> None:
        """There is room for T = steps. Weights stay as they are; what `m` held is lost.

        Raises MemoryError if there is no room: all that depends on T is given back, and another T may be asked for.
        """
        if steps == self.steps:
            return
        plan = self.network.plan
        window = min(plan.window, max(steps, 1))
        data = data_region(plan.layouts, steps, window, plan.spec.time_major)
        windows = window_region(plan.layouts, window, data.elements)
        of_one = windows.elements - data.elements
        summed = window if plan.spec.swap_memory else max(steps, 1)  # time steps whose rows are added up at once
        rows = summed * plan.spec.batch_size if plan.spec.train else 0
        self._reserve(data.elements + self._places * of_one, rows)
        self.data, self.window, self.window_elements, self.steps = data, windows, of_one, steps

    def _reserve(self, elements: int, rows: int) -> None:
        """`m` has room for that many elements, and there are ones for as many rows."""
        if self.m is not None and elements <= self._room[0] and rows <= self._room[1]:
            return
        self._give_back()  # before there is anything new, so that both are never there at once
        try:
            self.m = self._allocator.allocate(elements, self._dtype, "activations and inputs")
            self.ones = self._allocator.allocate(rows, self._dtype, "a row of ones")
        except MemoryError:
            self._give_back()
            raise
        self._room = elements, rows
        self.device.upload(self.ones, 0, np.ones(rows, self._dtype))

    def _give_back(self) -> None:
        if self.m is not None:
            self._allocator.free(self.m)
        if self.ones is not None:
            self._allocator.free(self.ones)
        self.m = self.ones = self.steps = None
        self.data = self.window = Region({}, 0)
        self.window_elements = 0

    @property
    def _places(self) -> int:
        """How many windows have a place at a time."""
        return PLACES if self.network.plan.spec.swap_memory else 1

    def _place(self, layer: int, name: str) -> tuple[Any, int, tuple[int, ...]]:
        """(array, first element, shape) of a field."""
        key = (layer, name)
        for found, array in ((self.weights, self.w), (self.data, self.m), (self.window, self.m)):
            if key in found.places:
                return array, *found.places[key]
        raise KeyError(key)

    def first(self, layer: int, name: str) -> int:
        """The first element of a field's array; of a window's, in the first of the alternating places."""
        return self._place(layer, name)[1]

    def set_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        """Each row's length, and the longest."""
        fields = np.zeros(LIMIT + 1 + len(self._positions), np.int64)
        fields[LIMIT] = lengths.max()
        for found in (self.weights, self.data, self.window):
            for key, (first, _) in found.places.items():
                fields[self._positions[key]] = first
        self.device.upload(self.f, 0, fields)
        self.device.upload(self.lengths, 0, np.ascontiguousarray(lengths, np.int64))

    def put(self, layer: int, name: str, values: Array | None) -> None:
        """Copies values to a field's array; None is zero."""
        array, first, shape = self._place(layer, name)
        given = np.zeros(shape, self._dtype) if values is None else np.ascontiguousarray(values, self._dtype)
        if given.size != prod(shape):
            raise ValueError(f"{name} of layer {layer}: got {given.shape}, wanted {shape}")
        self.device.upload(array, first, given)

    def get(self, layer: int, name: str, base: int = 0) -> Array:
        """A copy of a field's array."""
        array, first, shape = self._place(layer, name)
        found: Array = self.device.download(array, first + base, prod(shape)).reshape(shape)
        return found

    def put_states(self, prefix: str, states: Sequence[State] | None) -> None:
        """One array per layer and state; None is zero."""
        for layout in self.network.plan.layouts:
            for place, name in enumerate(layout.cell.state):
                self.put(layout.index, prefix + name, None if states is None else states[layout.index][place])

    def put_weights(self, weights: Sequence[Weights]) -> None:
        """Weights in TensorFlow's names and layouts, one dict per layer."""
        for layout, given in zip(self.network.plan.layouts, weights, strict=True):
            for name, values in _packed(layout, given).items():
                self.put(layout.index, name, values)

    @property
    def weight_bytes(self) -> int:
        """Weights as they are kept here, without their gradients."""
        names = {(layout.index, name) for layout in self.network.plan.layouts for name in layout.weights}
        return self._bytes(self.weights, lambda key: key in names)

    @property
    def saved_bytes(self) -> int:
        """Activations that the backward pass reads, on the device; 0 in forward mode."""
        return self._bytes(self.data, self._is_saved) + self._places * self._bytes(self.window, self._is_saved)

    @property
    def workspace_bytes(self) -> int:
        """Scratch that every run needs: neither saved nor the user's, whose are inputs, outputs and cotangents."""

        def scratch(key: tuple[int, str]) -> bool:
            return not self._is_saved(key) and not key[1].startswith(USERS)

        return self._bytes(self.data, scratch) + self._places * self._bytes(self.window, scratch)

    def _is_saved(self, key: tuple[int, str]) -> bool:
        layout = self.network.plan.layouts[key[0]]
        return layout.train and (key[1] in layout.arrays or key[1].startswith("gates_"))

    def _bytes(self, found: Region, wanted: Callable[[tuple[int, str]], bool]) -> int:
        itemsize = np.dtype(self._dtype).itemsize
        return itemsize * sum(prod(shape) for key, (_, shape) in found.places.items() if wanted(key))


def _packed(layout: LayerLayout, given: Mapping[str, Array]) -> dict[str, Array]:
    """A layer's weights by field."""
    found: dict[str, Array] = {}
    for s in layout.stages:
        w_x, w_h, bias = cells.stage_weights(s.stage, layout.spec, given)
        by_unit = w_h.reshape(s.operand_size, s.gates, s.units).transpose(2, 1, 0)
        found[f"W_f_{s.index}"] = np.ascontiguousarray(by_unit)
        if w_x is not None:
            found[f"W_x_{s.index}"] = w_x
        if layout.train:
            found[f"W_b_{s.index}"] = w_h
        if bias is not None:
            found[f"bias_{s.index}"] = bias
        found |= {name: given[name] for name in s.stage.diagonals}
    return found

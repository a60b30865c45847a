"""The memory of a compiled network: weights, state, activations, gradients, and the frames that point at them."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import gcd, prod

import numpy as np
import numpy.typing as npt

from unrollbench import cells
from unrollbench.kernels import matrix, multiply, pack, pairs, swap
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.network import Network
from unrollbench.kernels.slots import Extent, LayerBuffers, places, whole_pages
from unrollbench.kernels.stages import StageLayout
from unrollbench.kernels.threads import ARRIVAL_BYTES
from unrollbench.kernels.weight_gradient import PANEL_ROWS, panel_bytes
from unrollbench.tensors import Array, State, Weights


class Buffers:
    """All of a network's memory; `frames` (threads, layers, fields) is what the machine code reads."""

    def __init__(self, network: Network) -> None:
        self.network = network
        spec = network.spec
        self.layers = [LayerBuffers(layout) for layout in network.layouts]
        fields = len(self.layers), network.fields_per_layer
        self.frames = pack.on_own_pages(spec.threads, fields, "int64").view(np.int64)
        self.lengths = np.zeros(spec.batch_size, np.int64)
        self.arrivals = pack.aligned((spec.threads, ARRIVAL_BYTES // 8), "int64")
        self.steps: int | None = None
        self._places: npt.NDArray[np.int64] | None = None
        self._given: dict[str, list[Array | None]] = {}
        self._first_rows = np.array([first for first, _ in network.layouts[0].rows.items])
        widest = max(s.columns * layout.width for layout in network.layouts for s in layout.stages)
        widest = max(widest, max(layout.padded(layout.spec.input_size) * layout.itemsize for layout in network.layouts))
        widest += network.layouts[0].width  # for a thread that has a block less than others
        self._zeros = pack.aligned((widest // network.layouts[0].itemsize,), spec.dtype)
        self._ones = np.ones(PANEL_ROWS, spec.dtype)
        itemsize = network.layouts[0].itemsize
        panel = max(panel_bytes(layout, s) for layout in network.layouts for s in layout.stages) if spec.train else 0
        self._panel = pack.on_own_pages(spec.threads, (panel // itemsize,), spec.dtype)
        room = max(room_bytes(layout) for layout in network.layouts)
        self._room = pack.on_own_pages(spec.threads, (room // itemsize,), spec.dtype)
        for buffers in self.layers:
            self._allocate_fixed(buffers)
        self._gradients = self._allocate_gradients() if spec.train else None
        self._partition()
        self._point_fixed()

    # ------------------------------------------------------------ allocation

    def _allocate_fixed(self, buffers: LayerBuffers) -> None:
        layout, dtype = buffers.layout, self.network.spec.dtype
        for name, a in layout.arrays.items():
            width = a.row_bytes // layout.itemsize
            if a.slots == "single":
                buffers.fixed[name] = self._one_slot(width)
            if layout.train:
                buffers.fixed[f"d_{name}"] = self._one_slot(width)
        for s in layout.stages:
            if s.gate_slots == "tile":
                shape = layout.rows.big, s.row_bytes // layout.itemsize
                buffers.fixed[f"gates_{s.index}"] = pack.on_own_pages(layout.threads, shape, dtype)
            for name in s.stage.exposed if layout.train else ():
                buffers.fixed[f"d_{name}"] = self._one_slot(s.gate_bytes // layout.itemsize)
            for name in s.stage.diagonals if layout.train else ():
                buffers.fixed[f"d_{name}"] = pack.on_own_pages(layout.threads, (layout.padded(s.units),), dtype)

    def _allocate_gradients(self) -> Array:
        """A block (1, ...) of every layer's weight gradients, so that one call clears them, or adds them.

        It is (threads, ...) where each may add up its own rows. d_kernel_i, in the first, has the rows of x first, then
        the operand's, then the bias.
        """
        places: list[tuple[LayerBuffers, str, tuple[int, ...]]] = []
        for buffers in self.layers:
            layout = buffers.layout
            for s in layout.stages:
                rows = layout.kernel_rows(s) + (s.stage.bias is not None)
                places.append((buffers, f"d_kernel_{s.index}", (rows, s.row_bytes // layout.itemsize)))
        layout, size = self.layers[0].layout, sum(prod(shape) for _, _, shape in places)
        several = layout.threads if layout.sums_apart else 1
        block = pack.on_own_pages(several, (size,), self.network.spec.dtype)
        start = 0
        for buffers, name, shape in places:
            buffers.fixed[name] = block[0, start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return block

    def resize(self, steps: int) -> None:
        """Arrays with a slot per time step have `steps` (state arrays `steps` + 1) slots.

        Raises MemoryError if there is no room: all of them are given back, and another T may be asked for.
        """
        if steps == self.steps:
            return
        self.steps = None
        try:
            self._allocate_timed(steps)
        except MemoryError:
            for buffers in self.layers:
                buffers.timed.clear()
            raise
        self.steps = steps
        self._point_timed()

    def _allocate_timed(self, steps: int) -> None:
        wanted: list[tuple[LayerBuffers, str, Extent]] = []
        for index, buffers in enumerate(self.layers):
            wanted += [(buffers, name, extent) for name, extent in self._timed(index, steps).items()]
            buffers.timed.clear()
        saved = [each for each in wanted if self._is_saved(each[1])]
        if self.network.spec.swap_memory:
            self._map(saved)
        for buffers, name, extent in wanted:
            if name not in buffers.timed:
                buffers.timed[name] = self._allocated(extent)

    def _timed(self, index: int, steps: int) -> dict[str, Extent]:
        layout, spec = self.layers[index].layout, self.network.spec
        window = min(steps, self.network.schedule.window)
        count = {"time": steps, "window": window, "single": 1, "two": 1}
        found = {}
        for name, a in layout.arrays.items():
            if a.slots != "single":
                width, slots, seen = a.row_bytes // layout.itemsize, count[a.slots], name == "h" and layout.top
                found[name] = Extent(slots + a.is_state, width, 0 if seen else self._block_rows(slots))
        for s in (s for s in layout.stages if s.gate_slots != "tile"):
            slots = count[s.gate_slots]
            own_rows = max(1, slots * layout.batch)  # 0 would say that all threads have the same ones
            block_rows = own_rows if s.own_gates else self._block_rows(slots)
            found[f"gates_{s.index}"] = Extent(slots, s.row_bytes // layout.itemsize, block_rows)
        if spec.train:
            width = layout.padded(layout.spec.input_size)
            found["d_x"] = Extent(window, width, self._block_rows(window)) if index else Extent(steps, width)
        if index == 0 and not spec.time_major:
            found["x"] = Extent(steps, layout.spec.input_size)
        if layout.top and spec.train:
            found["d_out"] = Extent(steps, layout.padded(layout.spec.output_size))
        return found

    def _block_rows(self, slots: int) -> int:
        """Rows from a thread's own slots to the next one's, the same for all arrays of so many slots; else 0.

        With one slot more each, since state arrays have that.
        """
        layout = self.layers[0].layout
        if not layout.own_slots:
            return 0
        sizes = [a.row_bytes for buffers in self.layers for a in buffers.layout.arrays.values()]
        sizes += [s.row_bytes for buffers in self.layers for s in buffers.layout.stages]
        return whole_pages((slots + 1) * layout.slot_rows, gcd(*sizes))

    @staticmethod
    def _is_saved(name: str) -> bool:
        return name not in ("d_x", "x", "d_out")

    def _map(self, saved: Sequence[tuple[LayerBuffers, str, Extent]]) -> None:
        """Puts the saved activations into one unlinked file."""
        dtype = np.dtype(self.network.spec.dtype)
        page = mmap.PAGESIZE  # each array begins on a page of its own, so that whole pages can be released
        shapes = [extent.memory(buffers.layout) for buffers, _, extent in saved]
        sizes = [-(-prod(shape) * dtype.itemsize // page) * page for shape in shapes]
        mapping = swap.backing(max(sum(sizes), page))
        start = 0
        for (buffers, name, _), shape, size in zip(saved, shapes, sizes, strict=True):
            buffers.timed[name] = np.frombuffer(mapping, dtype, prod(shape), start).reshape(shape)
            start += size

    def _allocated(self, extent: Extent) -> Array:
        layout, dtype = self.layers[0].layout, self.network.spec.dtype
        shape = extent.memory(layout)
        own = extent.block_rows > 0
        memory = pack.on_own_pages(shape[0], shape[1:], dtype) if own else pack.aligned(shape, dtype)
        return extent.slots_of(memory, layout)

    def _one_slot(self, width: int) -> Array:
        layout = self.layers[0].layout
        rows = whole_pages(layout.slot_rows, width * layout.itemsize) if layout.own_slots else 0
        return self._allocated(Extent(1, width, rows))

    # ------------------------------------------------------------ frames

    def _set(self, layer: int, name: str, value: int | npt.NDArray[np.int64]) -> None:
        self.frames[:, layer, self.layers[layer].layout.fields[name] // 8] = value

    def set_all(self, name: str, value: int) -> None:
        """Sets a field in the frame of every layer and thread."""
        for layer in range(len(self.layers)):
            self._set(layer, name, value)

    def point(self, layer: int, name: str, array: npt.NDArray[np.generic]) -> None:
        """Points a field of one layer at an array, which must outlive the runs that use it."""
        self._set(layer, name, array.ctypes.data)

    def point_threads(self, layer: int, name: str, array: npt.NDArray[np.generic]) -> None:
        """Points each thread's field at its own part of an array (threads, ...)."""
        self._set(layer, name, array.ctypes.data + np.arange(len(array)) * array.strides[0])

    def point_columns(
        self,
        layer: int,
        s: StageLayout,
        name: str,
        array: npt.NDArray[np.generic],
        column_bytes: int,
        thread_bytes: int,
    ) -> None:
        """Points each thread's field at its own columns of a stage's gates.

        But so far before them that its first unit block has the offset that it has among those of all threads.
        thread_bytes: from one thread's columns in the array to the next one's.
        """
        first = np.array([first for first, _ in s.groups.items])
        self._set(layer, name, array.ctypes.data + np.arange(len(first)) * thread_bytes - first * column_bytes)

    def point_rows(self, layer: int, name: str, array: npt.NDArray[np.generic]) -> None:
        """Points each thread's field at its first row in an array of rows, or in one of numbers (B,)."""
        if array.ndim == 4:
            self.point_threads(layer, name, array)
        else:
            row_bytes = array.strides[max(0, array.ndim - 2)]
            self._set(layer, name, array.ctypes.data + self._first_rows * row_bytes)

    def _partition(self) -> None:
        threads = self.network.spec.threads
        for layer, buffers in enumerate(self.layers):
            layout = buffers.layout
            self._set(layer, "thread", np.arange(threads))
            self._set(layer, "top", int(layout.top))
            self._set_shares(layer, ("row", "row_tiles_big", "row_tiles_small"), layout.rows.shares)
            self._set(layer, "h_slot", layout.outputs_rows * layout.arrays["h"].row_bytes)
            for s in layout.stages:
                if layout.overlaps:
                    self._set_shares(layer, (f"own_at_{s.index}", f"own_{s.index}"), layout.early_units(s))
                for prefix, groups in (("", s.groups), ("operand_", s.operand_groups)):
                    names = tuple(f"{prefix}{kind}_{s.index}" for kind in ("block", "groups_big", "groups_small"))
                    self._set_shares(layer, names, groups.shares)
                last = np.arange(threads) == threads - 1  # no thread has fewer whole blocks
                self._set(layer, f"packed_{s.index}", last if layout.split == "units" else 1)

    def _set_shares(self, layer: int, names: tuple[str, ...], shares: Sequence[tuple[int, ...]]) -> None:
        """One share for all threads, or one each."""
        for position, name in enumerate(names):
            values = np.array([share[position] for share in shares])
            self._set(layer, name, values if len(shares) > 1 else int(values[0]))

    def _point_fixed(self) -> None:
        for layer, buffers in enumerate(self.layers):
            self.point_rows(layer, "lengths", self.lengths)
            self.point(layer, "arrivals", self.arrivals)
            self.point(layer, "zeros", self._zeros)
            self.point(layer, "ones", self._ones)
            self.point_threads(layer, "room", self._room)
            self.point_threads(layer, "panel", self._panel)
            per_thread = {f"d_{n}" for s in buffers.layout.stages for n in s.stage.diagonals}
            per_thread |= {f"gates_{s.index}" for s in buffers.layout.stages if s.gate_slots == "tile"}
            for s in buffers.layout.stages:
                self.point(layer, f"bias_{s.index}", self._zeros)
            for name, array in buffers.fixed.items():
                if name in per_thread:
                    self.point_threads(layer, name, array)
                elif array.ndim > 2:
                    self.point_rows(layer, name, array)
                else:
                    self.point(layer, name, array)
            if self._gradients is not None:
                self.point(layer, "sums", self._gradients)
                self._set(layer, "sums_bytes", self._gradients.strides[0])

    def _point_timed(self) -> None:
        layout, steps = self.layers[0].layout, self.steps
        if layout.own_slots and steps is not None:
            self._places = places(layout, self._block_rows(steps))
        for layer, buffers in enumerate(self.layers):
            own = {f"gates_{s.index}": s for s in buffers.layout.stages if s.own_gates}
            for name, array in buffers.timed.items():
                if name in own:
                    self.point_columns(layer, own[name], name, array, own[name].width, array.strides[0])
                else:
                    self.point_rows(layer, name, array)
            if self._places is not None:
                self.point_threads(layer, "places", self._places)
            if layer:
                self.point_rows(layer, "x", self.layers[layer - 1].timed["h"][..., 1:, :, :])
            if layer and "d_x" in buffers.timed:
                self.point_rows(layer - 1, "d_out", buffers.timed["d_x"])

    # ------------------------------------------------------------ weights and state

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Packs copies of the weights, TensorFlow's layout, one dict per layer."""
        self.count_pairs_anew()
        for layer, (buffers, given) in enumerate(zip(self.layers, weights, strict=True)):
            layout = buffers.layout
            for s in layout.stages:
                i, gates, by_gate = s.index, len(s.stage.gates), order(layout, s)
                by_block = pack.by_block(by_gate, gates, s.whole)
                in_window = pack.by_thread(by_gate, gates, s.whole, s.groups.items) if s.own_columns else by_gate
                w_x, w_h, bias = cells.stage_weights(s.stage, layout.spec, given)
                vectors = {f"W_h_{i}": pack.columns(w_h, by_block)}
                at_once = layout.columns_at_once(*s.group_sizes)
                streams = {f"W_h_{i}": at_once, f"W_hT_{i}": layout.columns_at_once(*s.operand_groups.each)}
                if w_x is not None:
                    vectors[f"W_x_{i}"] = pack.columns(w_x, by_block if layout.fused else in_window)
                    streams |= {f"W_x_{i}": at_once} if layout.fused else {}
                if layout.train:
                    vectors[f"W_hT_{i}"] = pack.transposed(w_h, by_gate)
                    vectors |= {f"W_xT_{i}": pack.transposed(w_x, by_gate)} if w_x is not None else {}
                if layout.on_matrix_unit:
                    packed = {name: pack.split(each) for name, each in vectors.items()}
                else:
                    packed = {n: pack.streamed(v, streams[n]) if n in streams else v for n, v in vectors.items()}
                if layout.pairs:
                    packed |= self._pairs(layer, s, vectors, {"h": w_h} | ({"x": w_x} if w_x is not None else {}))
                if bias is not None:
                    packed[f"bias_{i}"] = pack.row(bias, in_window)
                one_gate = pack.padded(s.units, layout.lanes)
                packed |= {name: pack.row(given[name], one_gate) for name in s.stage.diagonals}
                buffers.fixed |= packed
                for name, array in packed.items():
                    if s.own_columns and name in (f"W_x_{i}", f"bias_{i}", f"products_x_{i}"):
                        column_bytes = array.nbytes // len(in_window)
                        self.point_columns(layer, s, name, array, column_bytes, gates * s.row_blocks * column_bytes)
                    else:
                        self.point(layer, name, array)

    def _pairs(
        self, layer: int, s: StageLayout, vectors: dict[str, Array], weights: dict[str, Array]
    ) -> dict[str, Array]:
        """The own products of the columns of W_x and W_h, and in the frame what rows are scaled to."""
        for name, array in weights.items():
            self._set(layer, f"exponent_{name}_{s.index}", pairs.weights_exponent(array))
        own = {name: pairs.own_products(vectors[f"W_{name}_{s.index}"]) for name in weights}
        return {f"products_{name}_{s.index}": pack.row_of(products) for name, products in own.items()}

    # ------------------------------------------------------------ what surrounds a run

    def point_state(self, prefix: str, states: Sequence[State] | None) -> None:
        """What a pass begins with: "" the initial state, "d_" the final state's gradient, one tuple per layer.

        It is read by every run, unless it has another dtype or order and so is copied now; None is zeros. Raises
        ValueError for an array of another shape, and then changes nothing.
        """
        spec, given = self.network.spec, []
        for layer, buffers in enumerate(self.layers):
            for position, name in enumerate(buffers.layout.cell.state):
                values = None if states is None else np.ascontiguousarray(states[layer][position], spec.dtype)
                wanted = spec.batch_size, buffers.layout.size(name)
                if values is not None and values.shape != wanted:
                    what = "gradient of the final state" if prefix else "initial state"
                    raise ValueError(f"{what}, layer {layer}, {name}: shape {values.shape}, expected {wanted}")
                given.append((layer, f"given_{prefix}{name}", values))
        self._given[prefix] = [values for _, _, values in given]
        for layer, field_name, values in given:
            if values is None:
                self._set(layer, field_name, 0)
            else:
                self.point_rows(layer, field_name, values)

    def clear_gradients(self) -> None:
        """Gradients of weights are zero, as where there is no step, which would replace them."""
        assert self._gradients is not None, "only training programs have a backward pass"
        self._gradients[...] = 0

    @property
    def paired(self) -> tuple[int, int]:
        """How often rows were multiplied in pairs since weights or inputs were set, and how often that could not be."""
        found = np.zeros(2, np.int64)
        for layer, at in self._pair_counts():
            found += self.frames[:, layer, at : at + 2].sum(0)
        return int(found[0]), int(found[1])

    def count_pairs_anew(self) -> None:
        """Sets what `paired` counts to zero."""
        for layer, at in self._pair_counts():
            self.frames[:, layer, at : at + 2] = 0

    def _pair_counts(self) -> list[tuple[int, int]]:
        """Layers that count pairs, and the position of "paired", which "unpaired" follows."""
        fields = ((layer, buffers.layout.fields) for layer, buffers in enumerate(self.layers))
        return [(layer, found["paired"] // 8) for layer, found in fields if "paired" in found]

    @property
    def weight_bytes(self) -> int:
        return sum(a.nbytes for b in self.layers for n, a in b.fixed.items() if n.startswith(("W_", "bias_", "w_")))

    @property
    def saved_bytes(self) -> int:
        """Activations that the backward pass reads; 0 in forward mode."""
        if not self.network.spec.train:
            return 0
        return sum(b.data_bytes(n) for b in self.layers for n in b.timed if self._is_saved(n))

    @property
    def workspace_bytes(self) -> int:
        """Everything else that belongs to the program, results included."""
        total = sum(b.data_bytes(n) for b in self.layers for group in (b.fixed, b.timed) for n in group)
        total += self._panel.nbytes + self._room.nbytes + self._zeros.nbytes + self._ones.nbytes
        total += 0 if self._gradients is None else self._gradients[1:].nbytes
        return total - self.weight_bytes - self.saved_bytes


def room_bytes(layout: LayerLayout) -> int:
    """Bytes that a thread needs for rows that are scaled for pairs, or cut into parts for the matrix unit."""
    if layout.pairs:
        in_step = 0
        if layout.steps_in_pairs:
            of_inputs = pairs.row_bytes(layout.dtype, layout.spec.input_size) if layout.fused else 0
            in_step = layout.scaled_at("x") + layout.most_rows * of_inputs
        projected = multiply.room_bytes(layout.dtype, layout.spec.input_size) if layout.projects_in_pairs else 0
        return max(in_step, projected)
    if not layout.on_matrix_unit:
        return 0
    inputs, operand = layout.spec.input_size, max(s.operand_size for s in layout.stages)
    gates = [s.row_bytes // layout.itemsize for s in layout.stages]
    cut = layout.cut_bytes(operand) + layout.cut_bytes(inputs if layout.fused else 0)
    products = [0 if layout.fused else inputs]
    if layout.train:
        cut, products = max(cut, layout.cut_bytes(max(gates))), [*products, *gates, PANEL_ROWS]
    return max(layout.rows.most_groups * cut, *map(matrix.room_bytes, products))


def order(layout: LayerLayout, s: StageLayout) -> pack.Order:
    """The order of a row of a stage's gate buffer, and of the gradients of its weights."""
    return pack.by_gate(s.units, len(s.stage.gates), layout.lanes, s.packed)

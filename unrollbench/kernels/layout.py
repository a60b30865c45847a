"""Where everything lies in memory: the arrays of each layer, their padding, slots and frame fields. Pure data.

Arrays hold rows of one batch row each, padded to whole vectors (zero beyond the real units). A slot is one time step's
rows: those of the batch in what callers see, elsewhere those of one thread, if threads have rows of their own. An array
has a slot per time step where something later reads it ("time"), a slot per step of the current window ("window"), one
slot that is overwritten in place ("single"), or two in turn ("two"). State arrays have one slot more: slot 0 is the
state before the first step. A gate buffer that nothing reads after its own tile has no slot at all, but each thread has
room for one tile ("tile").

A frame is a row of int64 per layer and thread that tells a kernel where things are; the generated code reads fields of
it by position, so that a program is compiled once and pointed at any buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from unrollbench.case import DTYPES
from unrollbench.cells import Cell, LayerSpec, Stage
from unrollbench.kernels import amx, host, pairs, parts, tile
from unrollbench.kernels.partition import Partition, partition
from unrollbench.kernels.stages import Group, Slots, StageLayout

OWN_MULTIPLIES = 512
"""Vector multiply-adds of the units that a thread computed itself, with which it bridges the wait for the others'."""
UNITS_LEFT, SHARE_LEFT = 32, 4
"""Of those units, how many it leaves until it has waited, and at most one in how many: with them it bridges the time
that the cache lines of the others' units take."""
AHEAD_COLUMNS = tile.COLUMN_TILE
"""Columns of a tile, at most, where steps multiply later inputs. They do it for as many steps, with one column each, or
for a power of 2 times as many, with a part of one each: for each k, as many rows by one column of W_x are as many
multiply-adds as one row by these columns of W_h."""


@dataclass(frozen=True)
class ArrayLayout:
    """One per-unit array: `size` real units in rows of `row_bytes`."""

    name: str
    size: int
    row_bytes: int
    slots: Slots
    is_state: bool


@dataclass(frozen=True)
class LayerLayout:
    """Everything about one layer that is fixed at build."""

    spec: LayerSpec
    cell: Cell
    dtype: str
    batch: int
    threads: int
    train: bool
    top: bool
    split: Literal["rows", "units"]
    fused: bool
    """Whether the step multiplies its inputs by W_x itself: a window has no other step to do that together with."""
    streams: bool
    """Whether a step's weights come from beyond the second-level cache each time."""
    steps_ahead: int
    """Time steps whose inputs as many steps before them multiply, of one row, while they wait for their own weights, or
    0. More of them read W_x less often, but leave more steps of a window whose inputs are multiplied before it."""
    on_matrix_unit: bool
    """Whether products are `matrix`'s, of numbers cut into parts, and not sums of vector multiply-adds."""
    sums_apart: bool
    """Whether threads may each add up the weight gradients of their own rows, before those of all are added."""
    pairs: bool
    """Whether inputs and, where a thread has rows enough, states are multiplied as `pairs` says."""
    own_slots: bool
    """Whether threads with rows of their own have slots of their own, so that no two of them write to one page."""

    @property
    def lanes(self) -> int:
        return host.lanes(self.dtype)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype]

    @property
    def width(self) -> int:
        """Bytes of one vector."""
        return self.lanes * self.itemsize

    @property
    def reads_inputs(self) -> bool:
        """Whether a step multiplies inputs itself, its own or later ones."""
        return self.fused or self.projects_ahead

    @property
    def projects_ahead(self) -> bool:
        """Whether steps multiply the inputs of later ones."""
        return self.steps_ahead > 0

    @property
    def own_steps(self) -> int:
        """Steps of k of a step's own product for each of later inputs', and parts in which these add up a column."""
        return self.steps_ahead // AHEAD_COLUMNS

    @property
    def slot_rows(self) -> int:
        """Rows of a slot of what callers do not see: those of the thread that has most of them, if each has its own."""
        return max(rows for _, rows in self.rows.items) if self.own_slots else self.batch

    @property
    def outputs_rows(self) -> int:
        """Rows of a slot of h: callers see the top layer's."""
        return self.batch if self.top else self.slot_rows

    @property
    def overlaps(self) -> bool:
        """Whether a thread multiplies units of its own while it waits for those of other threads.

        Not where it multiplies in pairs, which takes a row's elements all together.
        """
        return self.split == "units" and not (self.fused or self.on_matrix_unit or self.steps_in_pairs)

    def own_units(self, s: StageLayout) -> list[tuple[int, int]]:
        """Of the operand of a stage, (first, how many) of those that each thread wrote.

        No units where stages write it that are shared out among the threads differently, or where none does.
        """
        writers = {tuple(each.blocks_by_thread) for each in self.stages if s.stage.operand in each.stage.writes}
        if len(writers) != 1:
            return [(0, 0)] * self.threads
        found = []
        for first, count in writers.pop():
            begin, end = (min(s.operand_size, block * self.lanes) for block in (first, first + count))
            found.append((begin, end - begin))
        return found

    def early_units(self, s: StageLayout) -> list[tuple[int, int]]:
        """Of these, those that each thread multiplies before it waits for the other threads."""
        return [(first, count - min(UNITS_LEFT, count // SHARE_LEFT)) for first, count in self.own_units(s)]

    @property
    def keeps_units(self) -> bool:
        """Whether each thread has the same units of all arrays, so that it reads those of others as operands only."""
        return len({tuple(blocks) for s in self.stages for blocks in (s.blocks_by_thread, s.operand_groups.items)}) == 1

    def own_groups(self, s: StageLayout) -> int:
        """How many groups of unit blocks a thread multiplies its own units with before it waits for the others'."""
        own = min((count for _, count in self.early_units(s) if count), default=0)
        if own == 0:
            return 0
        return -(-OWN_MULTIPLIES // (own * self.batch * s.groups.big * len(s.stage.gates)))

    def blocks(self, size: int) -> int:
        """Vectors that hold `size` elements."""
        return -(-size // self.lanes)

    def padded(self, size: int) -> int:
        """`size` rounded up to whole vectors."""
        return self.blocks(size) * self.lanes

    def size(self, name: str) -> int:
        """Real units per row of an array."""
        return self.spec.output_size if name in self.cell.projected else self.spec.num_units

    @cached_property
    def arrays(self) -> dict[str, ArrayLayout]:
        """The state and the temporaries."""
        found = {}
        for name in (*self.cell.state, *self.cell.temporaries):
            size, is_state = self.size(name), name in self.cell.state
            slots: Slots = "time" if self.train else "single"
            if name == "h" and not self.train:
                slots = "time" if self.top else "two" if self.fused else "window"
            found[name] = ArrayLayout(name, size, self.padded(size) * self.itemsize, slots, is_state)
        return found

    @property
    def splits_gates(self) -> bool:
        """Whether threads that share rows have gate buffers of their own, where gates outlast their tile.

        In one that all shared, units of several threads would lie in a page, and a core that fetches lines ahead would
        take those that another writes. Not in training, where products take all gates of a row, nor where threads read
        gates that others wrote.
        """
        whole = {self._packed(stage)[:2] for stage in self.cell.stages}
        shared = any(stage.exposed for stage in self.cell.stages) and len(whole) > 1
        return self.split == "units" and not (self.train or self.on_matrix_unit or shared)

    def _gate_slots(self, stage: Stage) -> Slots:
        if self.train:
            return "time"
        return "window" if not self.fused else "single" if stage.exposed else "tile"

    def asks(self, rows: int, group: Group) -> bool:
        """Whether a tile of so many rows asks for the weights of the next: not one that reads each weight just once.

        The hardware follows that by itself. The packed group has no next one.
        """
        return self.streams and rows > 1 and not group.packed and not self.on_matrix_unit

    @cached_property
    def rows(self) -> Partition:
        """Batch rows over threads, in row tiles."""
        threads = self.threads if self.split == "rows" else 1
        if self.on_matrix_unit:
            found = [partition(self.batch, threads, tiles * amx.ROWS) for tiles in (2, 1)]
            return min(found, key=lambda rows: rows.most_groups * amx.tiles(rows.big))
        if self.steps_in_pairs:
            return partition(self.batch, threads, pairs.row_tile(self.most_rows))
        return partition(self.batch, threads, tile.ROW_TILE)

    def _largest_group(self, gates: int) -> int:
        """Unit blocks that one register tile spans beside `rows.big` rows; one has all gates, at once or in parts."""
        return max(1, self._most_columns // gates)

    @property
    def _most_columns(self) -> int:
        """Columns that are multiplied at once beside `rows.big` rows, at most."""
        if self.on_matrix_unit:
            return amx.most_columns(self.rows.big)
        return pairs.COLUMN_TILE if self.steps_in_pairs else tile.most_columns(self.rows.big)

    @property
    def most_rows(self) -> int:
        """Rows that a thread multiplies in a step, at most."""
        return self.batch if self.split == "units" else -(-self.batch // self.threads)

    @property
    def projects_in_pairs(self) -> bool:
        """Whether the inputs of a window are multiplied as `pairs` says, if there are enough and numbers allow it."""
        return self.pairs and not self.fused and self.spec.input_size >= pairs.LEAST_DEPTH

    @property
    def steps_in_pairs(self) -> bool:
        """Whether some tiles of a step multiply as `pairs` says, if their numbers allow it."""
        depth = min(self.size(stage.operand) for stage in self.cell.stages)
        return self.pairs and self.most_rows >= pairs.LEAST_ROWS and depth >= pairs.LEAST_DEPTH

    def in_pairs(self, rows: int) -> bool:
        """Whether those of so many rows do."""
        return self.steps_in_pairs and rows >= pairs.LEAST_ROWS

    @cached_property
    def stages(self) -> tuple[StageLayout, ...]:
        threads = self.threads if self.split == "units" else 1
        found = []
        for index, stage in enumerate(self.cell.stages):
            gates, operand, slots = len(stage.gates), self.size(stage.operand), self._gate_slots(stage)
            units, packed, packed_columns = self._packed(stage)
            whole = self.blocks(units - packed)
            groups = partition(whole, threads, self._largest_group(gates))
            own, row_blocks = self.splits_gates and slots != "tile", whole
            if own:
                row_blocks = max(count for _, count in groups.items)
            columns = gates * row_blocks + packed_columns
            if slots == "tile":
                row_blocks, columns = groups.big, max(gates * groups.big, packed_columns)
            operand_groups = partition(self.blocks(operand), threads, self._largest_group(1))
            found.append(
                StageLayout(
                    index, stage, units, whole, packed, packed_columns, operand, slots, own, row_blocks,
                    self.width * columns, self.width, groups, operand_groups,
                )
            )  # fmt: skip
        return tuple(found)

    def _packed(self, stage: Stage) -> tuple[int, int, int]:
        """A stage's units, how many have their gates packed, and the vectors that take these.

        None has where a later stage reads them, nor where that would save no vector.
        """
        units = self.spec.output_size if stage.projects else self.spec.num_units
        left, gates = units % self.lanes, len(stage.gates)
        columns = self.blocks(gates * left)
        return (units, left, columns) if columns < gates and not stage.exposed else (units, 0, 0)

    def kernel_rows(self, s: StageLayout) -> int:
        """Rows of a stage's kernel, those of x and those of the operand."""
        return s.operand_size + (self.spec.input_size if s.stage.takes_input else 0)

    def scaled_at(self, name: str) -> int:
        """Where in a thread's room the scaled rows of a step's product begin: those of inputs are behind all others."""
        widest = max(pairs.row_bytes(self.dtype, self.size(stage.operand)) for stage in self.cell.stages)
        return self.most_rows * widest if name == "x" else 0

    def columns_at_once(self, *groups: int) -> tuple[int, ...]:
        """How many columns of groups of so many are multiplied at once, part after part of each."""
        return tuple(part for columns in groups for part in partition(columns, 1, self._most_columns).each)

    def column_bytes(self, depth: int) -> int:
        """Bytes of a column of so many packed weights."""
        return parts.column_bytes(depth) if self.on_matrix_unit else depth * self.width

    def cut_bytes(self, depth: int) -> int:
        """Bytes of a tile's rows of so many numbers, cut into parts."""
        return amx.tiles(self.rows.big) * parts.tile_bytes(depth)

    @cached_property
    def fields(self) -> dict[str, int]:
        """Frame field -> byte offset. Addresses unless said otherwise; those of rows are of the thread's first one.

        limit: the longest length, in steps; top: whether this is the top layer; thread: this thread's number; t: the
        time step, if stepwise; window: steps of the window that ran last, 0 before the first; arrivals: how often each
        thread has arrived at a barrier; x, d_x: the inputs and their gradient; d_out: the outputs' gradient; sums,
        sums_bytes: the weight gradients of all layers that the first thread adds up, and from these to the next
        thread's; zeros, ones: constants; panel: scratch of the weight gradient; room: for rows that are scaled, or cut
        into parts; given_...: the initial state, or the final state's gradient, in rows as callers have them, or 0 if
        it is zero; h_slot: bytes of a slot of h and of d_out; row: the number of this thread's first row in the batch;
        places: of each row of the batch, how many rows past this thread's first it lies in an array with a slot per
        time step, if threads have slots of their own; row_tiles...: this thread's tiles of rows; block...,
        operand_block...: its first unit block and its groups; packed: whether it has the block whose gates are packed;
        own_at..., own...: the first and the number of the units of the operand that this thread wrote and multiplies
        before it waits; products_x..., products_h...: the own products of the columns of W_x and W_h, exponent_...:
        what rows are scaled to (`pairs`); paired, unpaired: how often rows were multiplied in pairs, and how often they
        or weights did not allow it. Where threads have gates of their own, gates..., and W_x..., bias... and
        products_x... of a window, point so far before a thread's own that its first unit block has the offset that it
        has among those of all.
        """
        names = [
            "limit",
            "top",
            "thread",
            "arrivals",
            "lengths",
            "x",
            "d_x",
            "d_out",
            "sums",
            "sums_bytes",
            "zeros",
            "ones",
            "panel",
            "room",
            "t",
            "window",
        ]
        names += ["h_slot", "places", "row", "row_tiles_big", "row_tiles_small"]
        names += ["paired", "unpaired"] if self.pairs else []
        for name in self.arrays:
            names += [name, f"d_{name}"]
        for name in self.cell.state:
            names += [f"given_{name}", f"given_d_{name}"]
        for s in self.stages:
            i = s.index
            names += [f"gates_{i}", f"W_x_{i}", f"W_h_{i}", f"bias_{i}", f"W_xT_{i}", f"W_hT_{i}"]
            names += [f"d_kernel_{i}", f"own_at_{i}", f"own_{i}"]
            names += [f"{kind}_{w}_{i}" for w in ("x", "h") for kind in ("products", "exponent")] if self.pairs else []
            names += [f"{kind}_{i}" for kind in ("block", "groups_big", "groups_small", "packed")]
            names += [f"{kind}_{i}" for kind in ("operand_block", "operand_groups_big", "operand_groups_small")]
            names += [f"{kind}{name}" for name in s.stage.diagonals for kind in ("", "d_")]
            names += [f"d_{name}" for name in s.stage.exposed]
        return {name: 8 * position for position, name in enumerate(names)}


@dataclass(frozen=True)
class Inputs:
    """Where a layer finds its inputs: rows of `row_bytes`, in slots as `slots` says. Field "x" is the first step's.

    own_slots: whether each thread has slots of its own of them.
    """

    row_bytes: int
    slots: Slots
    own_slots: bool = False

    def slot_rows(self, layout: LayerLayout) -> int:
        """Rows of a slot."""
        return layout.slot_rows if self.own_slots else layout.batch

    def address(self, layout: LayerLayout) -> str:
        """An expression for the first row of step t, in the text of a step."""
        step = self.row_bytes * self.slot_rows(layout)
        moved = {"two": f"- (t & 1) * {step}", "window": f"+ s * {step}"}.get(self.slots, f"+ t * {step}")
        return f"peek(f, {layout.fields['x']}) {moved}"


def inputs_of(layouts: tuple[LayerLayout, ...], index: int) -> Inputs:
    """A layer's inputs: the user's rows, or the padded outputs of the layer below."""
    if index == 0:
        return Inputs(layouts[0].spec.input_size * layouts[0].itemsize, "time")
    below = layouts[index - 1]
    return Inputs(below.arrays["h"].row_bytes, below.arrays["h"].slots, below.own_slots)

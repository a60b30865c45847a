"""How work is cut for a device: the block's threads, a thread's tile of the product, and shared memory. Pure data.

A block is lanes x units x groups threads. The lanes of one (unit, group) share a tile of the product, each with every
lanes-th term of its sums; the sums are then added up through shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.case import DTYPES

ACCUMULATORS = {"float32": 32, "float64": 16}
"""Sums that a thread keeps in registers: 32 registers of them, of the 255 / 128 that it may have."""
AT_ONCE = {"float32": 4, "float64": 1}
"""Terms whose operands are in registers at a time; more of them leave no register for a dynamic loop's addresses."""
STATIC_LIMIT_BYTES = 48 * 1024
"""Shared memory of a block that every device grants without being asked."""


@dataclass(frozen=True)
class Block:
    """Threads of a block: x the lanes, y the units, z the groups of rows."""

    lanes: int
    units: int
    groups: int

    @property
    def threads(self) -> int:
        return self.lanes * self.units * self.groups

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.lanes, self.units, self.groups


@dataclass(frozen=True)
class Tile:
    """The product that one block makes at a time, `gates` columns per unit, `rows` rows per group and thread.

    span: units of a thread. deposit: rows of a thread whose sums are added up at once, which needs shared memory for
    `deposit` x span x gates values of every thread. at_once: terms of a sum in a straight line, whose addresses differ
    by constants, which loads take for nothing.
    """

    block: Block
    gates: int
    rows: int
    span: int
    deposit: int
    at_once: int = 4

    @property
    def units(self) -> int:
        """Units of a block's tile."""
        return self.block.units * self.span

    @property
    def batch(self) -> int:
        """Rows of a block's tile."""
        return self.block.groups * self.rows

    @property
    def each(self) -> int:
        """Sums of a thread that are added up at once."""
        return self.span * self.deposit * self.gates

    @property
    def scratch(self) -> int:
        """Elements of shared memory: one deposit, a lane apart from the next bank, and all the sums."""
        warps = self.block.units * self.block.groups
        return warps * self.each * (self.block.lanes + 1) + warps * self.span * self.rows * self.gates


@dataclass(frozen=True)
class ProductTile:
    """A block's tile of a whole matrix product: (rows x down) by (columns x across), depth terms at a time.

    down x across threads compute, each rows x columns values; all of them load.
    """

    down: int
    across: int
    rows: int
    columns: int
    depth: int

    @property
    def height(self) -> int:
        return self.down * self.rows

    @property
    def width(self) -> int:
        return self.across * self.columns

    @property
    def scratch(self) -> int:
        """Elements of shared memory for both operands, a row apart from the next bank."""
        return self.depth * (self.height + 1 + self.width + 1)


@dataclass(frozen=True)
class Limits:
    """What a device grants, and what is chosen where it is not None.

    processors: multiprocessors. shared_bytes: of one block, with leave asked where that is more than the static limit.
    blocks: of a launch along x; every kernel's blocks go on to further tiles where there are fewer blocks than tiles.
    """

    processors: int
    shared_bytes: int = STATIC_LIMIT_BYTES
    blocks: int = 2**31 - 1
    block: Block | None = None
    rows: int | None = None
    span: int | None = None
    product: ProductTile | None = None


def span_for(limits: Limits, dtype: str, gates: int, units: int, batch: int) -> int:
    """Units of a thread: where a row has few columns, more of them share what is loaded of it.

    At most as many as it has rows, so that no operand is loaded for less; as long as registers hold the sums and three
    quarters of the multiprocessors still get units of their own.
    """
    if limits.span is not None:
        return limits.span
    rows, span = _rows(limits, dtype, gates, batch), 1
    widest = min(4, rows)
    while (
        2 * span <= widest
        and 2 * span * rows * gates <= ACCUMULATORS[dtype]
        and 4 * units >= 3 * 2 * span * limits.processors
    ):
        span *= 2
    return span


def _rows(limits: Limits, dtype: str, gates: int, batch: int) -> int:
    """Rows of a thread, a power of two: as many as registers hold and the batch has."""
    rows = 1
    while 2 * rows <= (limits.rows or 8) and 2 * rows * gates <= ACCUMULATORS[dtype] and rows < batch:
        rows *= 2
    return rows


def block_for(limits: Limits, threads_of_units: int, batch: int) -> Block:
    """Eight warps: as many along the units as keeps every multiprocessor busy, the others along the rows."""
    if limits.block is not None:
        return limits.block
    along = 1
    while along < 8 and along * limits.processors < threads_of_units:
        along *= 2
    groups = 1
    while along * groups < 8 and groups * 4 < batch:
        groups *= 2
    return Block(32, along, groups)


def tile_for(limits: Limits, block: Block, dtype: str, gates: int, batch: int, span: int) -> Tile:
    """As many rows as registers hold and the groups leave; deposits in at most a third of shared memory."""
    rows = _rows(limits, dtype, gates, -(-batch // block.groups))
    deposit = rows
    while deposit > 1 and 3 * Tile(block, gates, rows, span, deposit).scratch * DTYPES[dtype] > limits.shared_bytes:
        deposit //= 2
    return Tile(block, gates, rows, span, deposit, AT_ONCE[dtype])


def product_tile_for(limits: Limits, block: Block) -> ProductTile:
    """A square of threads, each with 4 x 4 values."""
    if limits.product is not None:
        return limits.product
    side = 1
    while 4 * side * side <= block.threads:
        side *= 2
    return ProductTile(side, min(block.threads // side, 2 * side), 4, 4, 16)

"""How work is cut for a device: the block's threads, a thread's tile of the product, and shared memory. Pure data.

A block is lanes x units x groups threads. The lanes of one (unit, group) share a tile of the product, each with every
lanes-th vector of terms of its sums; the sums are then added up from lane to lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unrollbench.case import DTYPES

ACCUMULATORS = {"float32": 64, "float64": 16}
"""Sums that a thread keeps in registers, of the 255 that it may have; float64 takes two for each sum and operand."""
ROWS, COLUMNS = 8, 8
"""Rows and columns of a thread at most: with as many of one as of the other the fewest loads serve the sums."""
IN_FLIGHT = 8
"""Vectors of the left operand that a thread waits for at a time: 32 registers."""
THREADS = 256
"""Threads of a block at most, each of which may have 255 registers: two warps for each scheduler."""
LANES = (8, 32)
"""Lanes at least and at most: shared memory serves eight loads of 16 bytes in a clock, and a warp has 32 threads."""
VECTOR_BYTES = 16
"""The widest load of a thread."""
LOADS = 4
"""Elements of an operand that a thread loads for a slice of a whole product: 8 registers, and their places."""
PADDING = 4
"""Elements between the rows of a whole product's operands in shared memory, so that they begin in other banks."""
STATIC_LIMIT_BYTES = 48 * 1024
"""Shared memory of a block that every device grants without being asked."""


@dataclass(frozen=True)
class Block:
    """Threads of a block: x the lanes, y the units, z the groups of rows, each a power of two."""

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
class Product:
    """Sizes of a recurrent product: units, columns per unit, terms of a sum."""

    units: int
    gates: int
    depth: int


@dataclass(frozen=True)
class Tile:
    """The product that one block makes at a time, `gates` columns per unit, `rows` rows per group and thread.

    rows and span, a thread's units, are powers of two. vector: elements of the widest load.
    """

    block: Block
    gates: int
    rows: int
    span: int
    vector: int = 1

    @property
    def units(self) -> int:
        """Units of a block's tile."""
        return self.block.units * self.span

    @property
    def batch(self) -> int:
        """Rows of a block's tile."""
        return self.block.groups * self.rows

    @property
    def pairs(self) -> int:
        """(row, unit) that the lanes of a (unit, group) share."""
        return self.rows * self.span

    @property
    def pairs_of_lane(self) -> int:
        """Those that one lane has in the end."""
        return max(1, self.pairs // self.block.lanes)


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
    def start_of_b(self) -> int:
        """Where the right operand begins in shared memory, behind the left one."""
        return aligned(self.depth * (self.height + PADDING))

    @property
    def scratch(self) -> int:
        """Elements of shared memory for both operands."""
        return aligned(self.start_of_b + self.depth * (self.width + PADDING))


def aligned(elements: int) -> int:
    """The next place in shared memory where a vector of any dtype may begin."""
    return -(-elements // PADDING) * PADDING


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


def cut(limits: Limits, dtype: str, gates: int, units: int, batch: int) -> tuple[int, int]:
    """Rows and units of a thread, powers of two: as many columns as rows, so that few loads serve many sums.

    As long as registers hold the sums and three quarters of all threads still get a tile.
    """

    def fits(rows: int, span: int) -> bool:
        tiles = -(-units // span) * -(-batch // rows)
        busy = limits.rows is not None or 4 * LANES[1] * tiles >= 3 * THREADS * limits.processors
        return busy and rows * span * gates <= ACCUMULATORS[dtype]

    rows, span = 1, limits.span or 1
    while True:
        taller = rows < min(limits.rows or ROWS, batch) and fits(2 * rows, span)
        wider = limits.span is None and 2 * span * gates <= COLUMNS and fits(rows, 2 * span)
        if taller and (rows <= span * gates or not wider):
            rows *= 2
        elif wider:
            span *= 2
        else:
            return rows, span


def block_for(limits: Limits, dtype: str, products: Sequence[Product], batch: int) -> Block:
    """Threads for all of these products: every multiprocessor gets its share of the largest one's tiles.

    A block has as many units as shared memory holds the weights of, and few rows, since those are read anew in every
    step. What is left of its threads become lanes.
    """
    if limits.block is not None:
        return limits.block
    cuts = [(p, *cut(limits, dtype, p.gates, p.units, batch)) for p in products]
    across, down = max(((-(-p.units // span), -(-batch // rows)) for p, rows, span in cuts), key=lambda n: n[0] * n[1])
    tiles = _power_of_two(-(-across * down // limits.processors), THREADS // LANES[0])
    unit_bytes = sum(span * p.gates * p.depth for p, _, span in cuts) * DTYPES[dtype]
    room = limits.shared_bytes - _square(THREADS, dtype, ROWS).scratch * DTYPES[dtype]
    units = _power_of_two(across, tiles)
    while units > 1 and units * unit_bytes > room and tiles // units < down:
        units //= 2
    return Block(min(LANES[1], THREADS // tiles), units, _power_of_two(down, tiles // units))


def _power_of_two(least: int, most: int) -> int:
    """The least power of two that is not less than `least`, or the last one up to `most`."""
    found = 1
    while found < least and 2 * found <= most:
        found *= 2
    return found


def tile_for(limits: Limits, block: Block, dtype: str, gates: int, units: int, batch: int) -> Tile:
    """The tile of one of the block's products; no more rows than the block's groups leave."""
    rows, span = cut(limits, dtype, gates, units, batch)
    return Tile(block, gates, _power_of_two(-(-batch // block.groups), rows), span, VECTOR_BYTES // DTYPES[dtype])


def product_tile_for(limits: Limits, block: Block, dtype: str, rows: int, columns: int) -> ProductTile:
    """A square of threads with as large a tile each as leaves most multiprocessors one of the rows x columns."""
    if limits.product is not None:
        return limits.product
    large, small = (_square(block.threads, dtype, size) for size in (ROWS, ROWS // 2))
    tiles = -(-rows // large.height) * -(-columns // large.width)
    return large if 4 * tiles >= 3 * limits.processors else small


def _square(threads: int, dtype: str, size: int) -> ProductTile:
    """At most so many rows and columns of a thread, and slices that are a few loads of each operand."""
    down = 1
    while 4 * down * down <= threads:
        down *= 2
    across, columns = min(threads // down, 2 * down), min(size, ACCUMULATORS[dtype] // size)
    return ProductTile(down, across, size, columns, max(2, LOADS * threads // max(down * size, across * columns)))

"""Text of one product by tiles: what every stage does first, forward and backward.

    for each tile of (rows, units) of this block:                    slow Python of one tile
        sums[row, unit, gate] = 0
        for k in range(depth):
            sums[row, unit, gate] += a[row, k] * b[unit, gate, k]
        then, for each (row, unit) of the tile: the equations on sums[row, unit, :]

Every sum is made in the same order whatever the grid, so that results do not depend on it: lane x adds the terms x,
x + lanes, ...; then one thread adds the lanes' parts from the first to the last. Shared memory is written by one thread
per element between two barriers of the block; nothing is read from it that was written since the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from unrollbench.kernels.cuda.tiling import Tile


@dataclass(frozen=True)
class Operands:
    """Expressions of the product's operands, all of them first elements.

    a: the left operand in `m`, a row of `depth` elements per batch row. weights: the right operand in `w`, (units,
    gates, depth). resident: where the block's share of it begins in shared memory, or None if it is not there.
    """

    a: str
    depth: int
    weights: str
    resident: int | None = None


def indented(lines: Iterable[str], by: int = 1) -> list[str]:
    return [f"{'    ' * by}{line}" for line in lines]


def prologue(tile: Tile) -> list[str]:
    """The block's shared memory and this thread's place in it."""
    block = tile.block
    return [
        "S = cuda.shared.array(0, DTYPE)",
        "x, y, z = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z",
        f"thread = (z * {block.units} + y) * {block.lanes} + x",
    ]


def over_tiles(tile: Tile, units: int, batch: int, body: Iterable[str]) -> list[str]:
    """Loops over this block's tiles; `tile` numbers those of units, `first` is its first unit, `row` its first row.

    Blocks are numbered along x over units, so that a block comes back to the same units, and along y over rows.
    """
    tiles, chunks = -(-units // tile.units), -(-batch // tile.batch)
    return [
        f"for tile in range(cuda.blockIdx.x, {tiles}, cuda.gridDim.x):",
        f"    first = tile * {tile.units}",
        f"    for chunk in range(cuda.blockIdx.y, {chunks}, cuda.gridDim.y):",
        f"        row = chunk * {tile.batch}",
        *indented(body, 2),
        "        cuda.syncthreads()",
    ]


def product(tile: Tile, operands: Operands, units: int, batch: int) -> list[str]:
    """Leaves all sums of the tile in shared memory, where `sums` finds them; ends with a barrier of the block.

    Rows and units beyond the last are computed from the last one and never used. Reads per tile: rows x depth of `a`,
    units x gates x depth weights; 2 x rows x units x gates x depth flops.
    """
    lines = [f"a_{r} = {operands.a} + min(row + z * {tile.rows} + {r}, {batch - 1}) * {operands.depth}"
             for r in range(tile.rows)]  # fmt: skip
    matrix = "w" if operands.resident is None else "S"
    for u in range(tile.span):
        if operands.resident is None:
            unit = f"min(first + y * {tile.span} + {u}, {units - 1})"
            lines.append(f"b_{u} = {operands.weights} + {unit} * {tile.gates * operands.depth}")
        else:
            own = f"(tile - cuda.blockIdx.x) // cuda.gridDim.x * {tile.units} + y * {tile.span} + {u}"
            lines.append(f"b_{u} = {operands.resident} + ({own}) * {tile.gates * operands.depth}")
    columns = [(u, g) for u in range(tile.span) for g in range(tile.gates)]
    lines += [f"sum_{r}_{u}_{g} = ZERO" for r in range(tile.rows) for u, g in columns]
    lines += ["k = x", *_terms(tile, operands, matrix, columns)]
    for first in range(0, tile.rows, tile.deposit):
        lines += _deposit(tile, first)
    return lines


def _terms(tile: Tile, operands: Operands, matrix: str, columns: Sequence[tuple[int, int]]) -> list[str]:
    """Adds this lane's terms, `at_once` of them in a straight line and then one by one, always in the same order.

    Written as `while`: a `range` of an unknown start keeps four numbers in registers, and this loop has none to spare.
    """
    lanes, depth, lines = tile.block.lanes, operands.depth, []
    whole = (tile.at_once - 1) * lanes
    if depth > whole:
        lines.append(f"while k < {depth - whole}:")
        for copy in range(tile.at_once):
            lines += indented(_term(tile, operands, matrix, columns, copy * lanes))
        lines.append(f"    k += {tile.at_once * lanes}")
    if depth % (tile.at_once * lanes):
        lines += [f"while k < {depth}:", *indented(_term(tile, operands, matrix, columns, 0)), f"    k += {lanes}"]
    return lines


def _term(tile: Tile, operands: Operands, matrix: str, columns: Sequence[tuple[int, int]], ahead: int) -> Iterator[str]:
    for u, g in columns:
        yield f"v_{u}_{g} = {matrix}[at(b_{u} + k + {g * operands.depth + ahead})]"
    for r in range(tile.rows):
        yield f"v = m[at(a_{r} + k + {ahead})]"
        yield from (f"sum_{r}_{u}_{g} += v * v_{u}_{g}" for u, g in columns)


def _deposit(tile: Tile, first: int) -> list[str]:
    """Adds up the lanes' sums of `deposit` rows of each thread, from its row `first` on."""
    block, stride = tile.block, tile.block.lanes + 1
    warps = block.units * block.groups
    lines = [f"own = (z * {block.units} + y) * {tile.each * stride} + x"]
    place = 0
    for u in range(tile.span):
        for r in range(first, first + tile.deposit):
            for g in range(tile.gates):
                lines.append(f"S[at(own + {place * stride})] = sum_{r}_{u}_{g}")
                place += 1
    per_unit = tile.deposit * tile.gates
    return [
        *lines,
        "cuda.syncthreads()",
        f"for q in range(thread, {warps * tile.each}, {block.threads}):",
        "    total = ZERO",
        f"    for lane in range({block.lanes}):",
        f"        total += S[at(q * {stride} + lane)]",
        f"    S[at({_sums(tile)} + q // {per_unit} * {tile.rows * tile.gates} + {first * tile.gates} + q % {per_unit})]"
        " = total",
        "cuda.syncthreads()",
    ]


def _sums(tile: Tile) -> int:
    """Where the sums begin in shared memory, after the lanes' parts."""
    return tile.block.units * tile.block.groups * tile.each * (tile.block.lanes + 1)


def over_pairs(tile: Tile, units: int, batch: int, body: Sequence[str]) -> list[str]:
    """A loop over the tile's (each_row, unit), each by one thread; `sums` is where its gates' sums begin.

    A (row, unit) is always computed by the thread of the same number, so arrays per unit need no barrier.
    """
    return [
        f"for q in range(thread, {tile.batch * tile.units}, {tile.block.threads}):",
        f"    own_unit, own_row = q % {tile.units}, q // {tile.units}",
        "    unit, each_row = first + own_unit, row + own_row",
        f"    warp = own_row // {tile.rows} * {tile.block.units} + own_unit // {tile.span}",
        f"    sums = {_sums(tile)} + ((warp * {tile.span} + own_unit % {tile.span}) * {tile.rows}"
        f" + own_row % {tile.rows}) * {tile.gates}",
        f"    if unit < {units} and each_row < {batch}:",
        *indented(body, 2),
    ]


def load_resident(tile: Tile, operands: Operands, units: int) -> list[str]:
    """Copies this block's share of the weights to shared memory, tile after tile; the caller's barrier ends it."""
    share = tile.units * tile.gates * operands.depth
    tiles = -(-units // tile.units)
    return [
        *prologue(tile),
        f"for tile in range(cuda.blockIdx.x, {tiles}, cuda.gridDim.x):",
        f"    to = {operands.resident} + (tile - cuda.blockIdx.x) // cuda.gridDim.x * {share}",
        f"    first = tile * {share}",
        f"    for e in range(thread, min({share}, {units * tile.gates * operands.depth} - first), "
        f"{tile.block.threads}):",
        f"        S[at(to + e)] = w[at({operands.weights} + first + e)]",
    ]

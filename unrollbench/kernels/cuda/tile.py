"""Text of one product by tiles: what every stage does first, forward and backward.

    for each tile of (rows, units) of this block:                    slow Python of one tile
        sums[row, unit, gate] = 0
        for k in range(depth):
            sums[row, unit, gate] += a[row, k] * b[unit, gate, k]
        then, for each (row, unit) of the tile: the equations on sums[row, unit, :]

A (unit, group) of the block has lanes threads. Lane x adds the terms of the vectors x, x + lanes, ... of `vector`
elements, so that neighbours read neighbours. Then the lanes pass each other sums: with 4 lanes and pairs of (row, unit)
0 to 3, lane x first gives two of them to lane x ^ 2 and takes its two others, then one to lane x ^ 1:

    lane 0   0 1 2 3   ->   0 1   ->   0           each arrow: what it keeps, plus what the other one gives
    lane 1   0 1 2 3        0 1        1
    lane 2   0 1 2 3        2 3        2
    lane 3   0 1 2 3        2 3        3

Every sum is made in the same order whatever the grid, so that results do not depend on it; the order is the lanes'.
Shared memory holds resident weights, which no step writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from unrollbench.kernels.cuda.tiling import IN_FLIGHT, Block, Tile

SHARED = "S = cuda.shared.array(0, DTYPE, ALIGNMENT)"
"""The block's shared memory, which begins where a vector may."""


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


def prologue(block: Block, resident: int | None) -> list[str]:
    """This thread's place in the block, and the block's shared memory where something lies in it.

    The masks change nothing, but tell the compiler that no place is negative or large: then divisions are shifts, and
    what is computed of places needs no upper halves of registers.
    """
    shared = [] if resident is None else [SHARED]
    masks = (f"cuda.threadIdx.{axis} & {size - 1}" for axis, size in zip("xyz", block.shape, strict=True))
    return [*shared, f"x, y, z = {', '.join(masks)}"]


def over_tiles(tile: Tile, units: int, batch: int, body: Iterable[str]) -> list[str]:
    """Loops over this block's tiles; `tile` numbers those of units, `first` is its first unit, `row` its first row.

    Blocks are numbered along x over units, so that a block comes back to the same units, and along y over rows. `turn`
    counts its tiles of units. Written as `while`: a `range` whose step is not known begins with a division.
    """
    tiles, chunks = -(-units // tile.units), -(-batch // tile.batch)
    return [
        "tile, turn = cuda.blockIdx.x, 0",
        f"while tile < {tiles}:",
        f"    first, chunk = tile * {tile.units}, cuda.blockIdx.y",
        f"    while chunk < {chunks}:",
        f"        row = chunk * {tile.batch}",
        *indented(body, 2),
        "        chunk += cuda.gridDim.y",
        "    tile += cuda.gridDim.x",
        "    turn += 1",
    ]


# ---------------------------------------------------------------- the product


def product(tile: Tile, operands: Operands, units: int, batch: int) -> list[str]:
    """Leaves all sums of a lane's pairs in registers: sum_<row>_<unit>_<gate> of the first pairs, see `over_pairs`.

    Rows and units beyond the last are computed from the last one and never used. Reads per tile: rows x depth of `a`,
    units x gates x depth weights; 2 x rows x units x gates x depth flops.
    """
    return [*_multiply(tile, operands, units, batch), *_exchange(tile)]


def zeros(tile: Tile) -> list[str]:
    """The sums before the first term."""
    return [f"{name} = ZERO" for pair in _pairs(tile) for name in _sums(tile, pair)]


def _pairs(tile: Tile) -> list[str]:
    return [f"{r}_{u}" for r in range(tile.rows) for u in range(tile.span)]


def _sums(tile: Tile, pair: str) -> list[str]:
    return [f"sum_{pair}_{g}" for g in range(tile.gates)]


def _multiply(tile: Tile, operands: Operands, units: int, batch: int) -> list[str]:
    """Adds this lane's terms: loads of several vectors of `a` at a time, then each one's products."""
    depth = operands.depth
    width = _width(tile, operands)
    step = tile.block.lanes * width
    at_once = max(1, min(IN_FLIGHT // tile.rows, depth // step))
    looped = depth // (at_once * step) * at_once * step
    lines = [f"own = x * {width}", *_places(tile, operands, units, batch)]
    if looped > at_once * step:
        lines.append(f"for k in range(0, {looped}, {at_once * step}):")
        lines += indented(_terms(tile, operands, width, [f"k + {copy * step}" for copy in range(at_once)]))
    elif looped:
        lines += _terms(tile, operands, width, [f"{copy * step}" for copy in range(at_once)])
    whole = depth // step * step
    if whole > looped:
        lines += _terms(tile, operands, width, [f"{k}" for k in range(looped, whole, step)])
    if depth > whole:
        lines += [f"if own < {depth - whole}:", *indented(_terms(tile, operands, width, [f"{whole}"]))]
    return lines


def _width(tile: Tile, operands: Operands) -> int:
    """Elements of a load: a vector's, unless rows begin between vectors."""
    return 1 if operands.depth % tile.vector else tile.vector


def _places(tile: Tile, operands: Operands, units: int, batch: int) -> list[str]:
    """row_<row> and column_<unit>: this lane's first elements.

    They are at constants from one address where a thread's rows or units end together with all of them: loads take a
    constant for nothing, while every address of its own costs instructions and registers.
    """
    depth, size = operands.depth, tile.gates * operands.depth
    if batch % tile.rows == 0:
        lines = [f"a = own + {operands.a} + min(row + z * {tile.rows}, {batch - tile.rows}) * {depth}"]
        lines += [f"row_{r} = a + {r * depth}" for r in range(tile.rows)]
    else:
        lines = [f"row_{r} = own + {operands.a} + min(row + z * {tile.rows} + {r}, {batch - 1}) * {depth}"
                 for r in range(tile.rows)]  # fmt: skip
    if operands.resident is not None:
        share = f"turn * {tile.units} + y * {tile.span}"
        lines.append(f"b = own + {operands.resident} + ({share}) * {size}")
        return [*lines, *(f"column_{u} = b + {u * size}" for u in range(tile.span))]
    if units % tile.span == 0:
        lines.append(f"b = own + {operands.weights} + min(first + y * {tile.span}, {units - tile.span}) * {size}")
        return [*lines, *(f"column_{u} = b + {u * size}" for u in range(tile.span))]
    return lines + [f"column_{u} = own + {operands.weights} + min(first + y * {tile.span} + {u}, {units - 1}) * {size}"
                    for u in range(tile.span)]  # fmt: skip


def _terms(tile: Tile, operands: Operands, width: int, places: Sequence[str]) -> list[str]:
    """Adds the terms at these places of a row."""
    weights = "w" if operands.resident is None else "S"
    load = "{}[at({})]" if width == 1 else "vector({}, at({}))"
    add = "{0} += {1} * {2}" if width == 1 else "{0} = dot({0}, {1}, {2})"
    lines = [
        f"p_{n}_{r} = {load.format('m', f'row_{r} + {place}')}"
        for n, place in enumerate(places)
        for r in range(tile.rows)
    ]
    for n, place in enumerate(places):
        for u in range(tile.span):
            for g in range(tile.gates):
                lines.append(f"q = {load.format(weights, f'column_{u} + {place} + {g * operands.depth}')}")
                lines += [add.format(f"sum_{r}_{u}_{g}", f"p_{n}_{r}", "q") for r in range(tile.rows)]
    return lines


def _exchange(tile: Tile) -> list[str]:
    """Adds up the lanes' sums: a lane keeps one half of its pairs and gives the other, until it has one pair.

    After that it adds what the other lane has of the same pair, and both have the sum.
    """
    lines, pairs, mask = [], _pairs(tile), tile.block.lanes // 2
    while mask:
        half = len(pairs) // 2
        if half:
            lines.append(f"upper = x & {mask} != 0")
        for low, high in zip(pairs[:half], pairs[half : 2 * half], strict=True):
            for here, there in zip(_sums(tile, low), _sums(tile, high), strict=True):
                lines.append(f"given, kept = choose(upper, {here}, {there}), choose(upper, {there}, {here})")
                lines.append(f"{here} = kept + exchange(given, {mask})")
        if not half:
            lines += [f"{name} += exchange({name}, {mask})" for name in _sums(tile, pairs[0])]
        pairs, mask = pairs[: max(half, 1)], mask // 2
    return lines


# ---------------------------------------------------------------- what is done with the sums


def over_pairs(
    tile: Tile,
    units: int,
    batch: int,
    ahead: Mapping[str, tuple[str, str]],
    product: Sequence[str],
    body: Callable[[Sequence[str]], Sequence[str]],
) -> list[str]:
    """The product between what it makes no difference to and what waits for it, for every (each_row, unit) of a lane.

    ahead: name -> (value of a lane that owns no pair, expression), loaded before the product where a lane has one
    pair, so that both are waited for at once; those of several pairs would take the product's registers. body: the
    equations' text on the names of its gates' sums. A (row, unit) is always computed by the same thread, so arrays per
    unit need no barrier.
    """
    loads = [f"{name} = {other}" for name, (other, _) in ahead.items()]
    if ahead:
        loads += ["if owner:", *indented(f"{name} = {expression}" for name, (_, expression) in ahead.items())]
    product = [*zeros(tile), *product]
    if tile.pairs_of_lane == 1:
        (pair, *_) = _pairs(tile)
        return [*_pair(tile, units, batch, 0), *loads, *product, "if owner:", *indented(body(_sums(tile, pair)))]
    for number, pair in enumerate(_pairs(tile)[: tile.pairs_of_lane]):
        product += [*_pair(tile, units, batch, number), *loads, "if owner:", *indented(body(_sums(tile, pair)))]
    return product


def _pair(tile: Tile, units: int, batch: int, number: int) -> list[str]:
    """The lane's (each_row, unit) of that number, and whether it is this lane's to compute."""
    sharing = tile.block.lanes // tile.pairs
    lines = [f"pair = x // {sharing}" if sharing else f"pair = x * {tile.pairs_of_lane} + {number}"]
    lines.append(f"unit = first + y * {tile.span} + pair % {tile.span}")
    lines.append(f"each_row = row + z * {tile.rows} + pair // {tile.span}")
    first = f"x % {sharing} == 0 and " if sharing > 1 else ""
    return [*lines, f"owner = {first}unit < {units} and each_row < {batch}"]


def load_resident(tile: Tile, operands: Operands, units: int) -> list[str]:
    """Copies this block's share of the weights to shared memory, tile after tile; the caller's barrier ends it."""
    share, block = tile.units * tile.gates * operands.depth, tile.block
    width = _width(tile, operands)
    copy = [f"S[at(to + e)] = w[at({operands.weights} + first + e)]"]
    if width > 1:
        copy = [f"v = vector(w, at({operands.weights} + first + e))"]
        copy += [f"S[at(to + e + {place})] = v[{place}]" for place in range(width)]
    return [
        *prologue(block, operands.resident),
        f"thread = (z * {block.units} + y) * {block.lanes} + x",
        f"tile, to = cuda.blockIdx.x, {operands.resident}",
        f"while tile < {-(-units // tile.units)}:",
        f"    first, e = tile * {share}, thread * {width}",
        f"    elements = min({share}, {units * tile.gates * operands.depth} - first)",
        "    while e < elements:",
        *indented(copy, 2),
        f"        e += {block.threads * width}",
        "    tile += cuda.gridDim.x",
        f"    to += {share}",
    ]

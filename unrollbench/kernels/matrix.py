"""Products of float32 numbers on a matrix unit that multiplies bfloat16, as accurate as in float32.

With numbers cut into three parts, a product is the sum of the six products of parts that are not below the rounding of
float32: a1w1 + (a1w2 + a2w1) + (a1w3 + a2w2 + a3w1); what is left out is at most 2^-24 of it (Henry, Tang and Heinecke,
"Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019). The sums are
float32. Infinite inputs and states are multiplied as they are. Infinite weights, or gradients of pre-activations, may
give NaN where float32 does not; and of numbers below some 1e-31 the smallest parts are lost, so that these have fewer
bits than in float32 (`parts`).
"""

from __future__ import annotations

from functools import cache
from textwrap import indent
from typing import Any

from llvmlite import ir

from unrollbench.kernels import amx
from unrollbench.kernels.amx import REGISTERS, ROWS, SUMS, TILE_BYTES, WIDTH
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.parts import CHUNK, FLAG_BYTES, PARTS_BYTES, chunks, column_bytes, split, tile_bytes
from unrollbench.kernels.tile import Ends
from unrollbench.kernels.words import I64, at, peek, pointer

ORDER = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
"""Which part of a meets which of w, the smallest products first; each pair shares one with the one before."""
BLOCK_TILES, BLOCK_BYTES = 8, 512 * 1024
"""Tiles of rows that are taken through all columns before the next ones, at most, and their bytes if more than two."""


@cache
def block(tiles: int, start: tuple[int, ...], out: tuple[int, ...]) -> Kernel:
    """out = start + a . w + more_a . more_w, of one or two tiles of rows and as many columns as there are offsets.

    start, out: bytes to each column. Arguments: where they lie, and bytes from row to row, 0 where all share one; then
    for each product how many chunks of k, the address of the rows of a, cut by `parts.split`, and that of the columns
    of w; of a single product the second has no chunks. The unit is configured for the rows.
    """
    a, finite = ([f"{name}_{r}" for r in range(tiles)] for name in ("a", "finite"))
    lines = ["load(start, start_row)"]
    for own in ("", "more_"):
        count = f"{own}chunks"
        lines += [f"if {count} > 0:", *(f"    {line}" for line in _first_tiles(tiles, f"{own}a", count))]
        w = [f"{own}w + {c} * {count} * {PARTS_BYTES}" for c in range(len(out))]
        lines += [f"    for _ in range({count}):", f"        multiply_add({', '.join([*a, *finite, *w])})"]
        lines.append(f"        {own}w += {PARTS_BYTES}")
        for r in range(tiles):
            lines += [f"        a_{r} += {PARTS_BYTES}", f"        finite_{r} += step_{r}"]
    lines.append("store(out, out_row)")
    operands = "chunks, a, w, more_chunks, more_a, more_w"
    text = f"def block(start, start_row, out, out_row, {operands}):\n" + indent("\n".join(lines), "    ")
    called = {"load": _each_sum(amx.load, tiles, start), "store": _each_sum(amx.store, tiles, out)}
    return kernel(text, "block", {**called, "multiply_add": _multiply_add(tiles, len(out)), "peek": peek})


def _first_tiles(tiles: int, a: str, count: str) -> list[str]:
    """Lines that say where the parts of each tile of rows begin, and its first parts without infinities.

    These are the same where there are none. count: chunks of a.
    """
    lines = []
    for r in range(tiles):
        lines += [
            f"a_{r} = {a} + {r} * ({count} * {PARTS_BYTES + TILE_BYTES} + {FLAG_BYTES})",
            f"finite_{r}, step_{r} = a_{r}, {PARTS_BYTES}",
            f"if peek(a_{r}, {count} * {PARTS_BYTES + TILE_BYTES}) > 0:",
            f"    finite_{r}, step_{r} = a_{r} + {count} * {PARTS_BYTES}, {TILE_BYTES}",
        ]
    return lines


def _sum(tiles: int, tile: int, column: int) -> int:
    """The register of a tile of sums."""
    return tile * (SUMS // tiles) + column


def _each_sum(move: Any, tiles: int, offsets: tuple[int, ...]) -> Any:
    """An `Emit` (address, stride) that loads or stores all sums: columns at those offsets, row after row."""

    def emit(builder: Any, address: Any, stride: Any) -> None:
        for tile in range(tiles):
            first = builder.add(address, builder.mul(stride, ir.Constant(I64, tile * ROWS)))
            for column, offset in enumerate(offsets):
                move(builder, _sum(tiles, tile, column), at(builder, pointer(builder, first), offset), stride)

    return emit


def _multiply_add(tiles: int, columns: int) -> Any:
    """An `Emit` (a..., finite..., w...) that adds a chunk's products to all sums.

    Addresses: of each tile of rows of a, of its first parts without infinities, and of each column of w. Columns take
    turns in the registers that are left for w.
    """
    first_a, first_w = SUMS, SUMS + tiles

    def emit(builder: Any, *addresses: Any) -> None:
        places = [pointer(builder, address) for address in addresses]
        a, finite, w = places[:tiles], places[tiles : 2 * tiles], places[2 * tiles :]
        held: dict[int, Any] = {}

        def load(register: int, place: Any, part: int) -> None:
            if held.get(register) != (place, part):
                amx.load(builder, register, at(builder, place, part * TILE_BYTES), ir.Constant(I64, WIDTH))
                held[register] = place, part

        for a_part, w_part in ORDER:
            for tile in range(tiles):
                load(first_a + tile, (finite if a_part == 0 and w_part > 0 else a)[tile], a_part)
            for column in range(columns):
                register = first_w + column % (REGISTERS - first_w)
                load(register, w[column], w_part)
                for tile in range(tiles):
                    amx.multiply_add(builder, _sum(tiles, tile, column), first_a + tile, register)

    return emit


@cache
def step_tile(tiles: int, start: Ends, out: Ends, depths: tuple[int, ...], columns_at_once: tuple[int, ...]) -> Kernel:
    """What `tile.step_tile` computes, of rows that `parts.split` has cut and weights that `pack.split` has.

    tiles: one or two, of as many rows as the unit is configured for. depths: of one product or of two. Arguments:
    start, out, and a and w for each product.
    """
    column, lines, blocks = 0, list[str](), dict[str, Kernel]()
    for columns in columns_at_once:
        passed = []
        for index, depth in enumerate(depths):
            passed += [f"{chunks(depth)}", f"a_{index}", f"w_{index} + {column * column_bytes(depth)}"]
        passed += ["0", "0", "0"] * (2 - len(depths))
        (begin, begins), (end, ends) = (_relative(each.offsets[column : column + columns]) for each in (start, out))
        blocks[f"block_{column}"] = block(tiles, begins, ends)
        lines.append(f"block_{column}(start + {begin}, {start.row}, out + {end}, {out.row}, {', '.join(passed)})")
        column += columns
    operands = ", ".join(f"a_{index}, w_{index}" for index in range(len(depths)))
    text = f"def step_tile(start, out, {operands}):\n" + indent("\n".join(lines), "    ")
    return kernel(text, "step_tile", {name: each.call for name, each in blocks.items()}, blocks.values())


def _relative(offsets: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The first offset, and all of them from there: equal columns share their code."""
    return offsets[0], tuple(offset - offsets[0] for offset in offsets)


def rows_at_once(depth: int) -> int:
    """Rows of so many numbers that `multiply` takes through all columns before the next ones."""
    return 2 * ROWS * max(1, min(BLOCK_TILES // 2, BLOCK_BYTES // tile_bytes(depth) // 2))


def room_bytes(depth: int) -> int:
    """Bytes that `multiply` needs for those rows, or for as many of fewer numbers."""
    return rows_at_once(depth) // ROWS * tile_bytes(depth)


@cache
def multiply() -> Kernel:
    """What `multiply.multiply` computes, of any rows of float32 and weights that have been cut into parts.

    Arguments: rows, columns and steps of k; the addresses of a and w; bytes from column to column of w; the address of
    start, and 1 if all rows share that; of out; bytes from row to row of a and of out, how many rows a run has, and the
    gaps of a and out, as there; how many rows to take at once, in pairs of tiles, and room for these, cut into parts.
    No tile has rows of two runs that have a gap between them.
    """
    shapes = [(tiles, columns) for tiles in (1, 2) for columns in (1, 2)]
    text = f"""
def multiply(rows, columns, depth, a, w, w_column, start, shared, out, a_row, out_row, run, a_gap, out_gap, most, room):
    chunks = (depth + {CHUNK - 1}) // {CHUNK}
    tile_bytes, start_row = chunks * {PARTS_BYTES + TILE_BYTES} + {FLAG_BYTES}, out_row * (1 - shared)
    run = rows if a_gap == 0 and out_gap == 0 else run
    while rows > 0:
        of_run = min(run, rows)
        rows -= of_run
        while of_run > 0:
            count, column, configured = min(most, of_run), 0, 0
            split(count, depth, a, a_row, room)
            while column < columns:
                tile, s, o, panel = room, start + column * {WIDTH}, out + column * {WIDTH}, w + column * w_column
                left, wide = count, column + 2 <= columns
                while left > 0:
                    height = min({2 * ROWS}, left)
                    if height != configured:
                        configure(height)
                        configured = height
                    if height > {ROWS} and wide:
                        block_2x2(s, start_row, o, out_row, chunks, tile, panel, 0, 0, 0)
                    elif height > {ROWS}:
                        block_2x1(s, start_row, o, out_row, chunks, tile, panel, 0, 0, 0)
                    elif wide:
                        block_1x2(s, start_row, o, out_row, chunks, tile, panel, 0, 0, 0)
                    else:
                        block_1x1(s, start_row, o, out_row, chunks, tile, panel, 0, 0, 0)
                    s, o = s + height * start_row, o + height * out_row
                    tile, left = tile + 2 * tile_bytes, left - height
                column += 2
            a, start, out, of_run = a + count * a_row, start + count * start_row, out + count * out_row, of_run - count
        a, start, out = a + a_gap, start + out_gap * (1 - shared), out + out_gap
"""
    places = {columns: tuple(WIDTH * c for c in range(columns)) for columns in (1, 2)}
    blocks = {f"block_{tiles}x{columns}": block(tiles, places[columns], places[columns]) for tiles, columns in shapes}
    called = {name: each.call for name, each in blocks.items()}
    return kernel(
        text, "multiply", {**called, "split": split().call, "configure": amx.configure}, [*blocks.values(), split()]
    )


MULTIPLY_ADDS_PER_ROUND = SUMS * ROWS * ROWS * CHUNK
"""Multiply-adds of float32 in a round of `peak`."""


@cache
def peak() -> Kernel:
    """(frame): frame[1] rounds of the products of all parts into all sums, in registers only.

    The numbers are those of the REGISTERS tiles at frame[0]. Nothing that is computed is stored, but no compiler leaves
    an instruction of the unit out.
    """

    def load(builder: Any, address: Any) -> None:
        for register in range(REGISTERS):
            place = at(builder, pointer(builder, address), register * TILE_BYTES)
            amx.load(builder, register, place, ir.Constant(I64, WIDTH))

    def multiply_add(builder: Any) -> None:
        for _ in ORDER:
            for sums in range(SUMS):
                amx.multiply_add(builder, sums, SUMS + sums // 2, SUMS + 2 + sums % 2)

    text = f"""
def peak(f):
    configure({2 * ROWS})
    load(peek(f, 0))
    for _ in range(peek(f, 8)):
        multiply_add()
    release()
"""
    called = {"configure": amx.configure, "release": amx.release, "load": load, "multiply_add": multiply_add}
    return kernel(text, "peak", {**called, "peek": peek})

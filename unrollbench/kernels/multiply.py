"""The product of any numbers of rows and columns, of register tiles (`tile.tile`)."""

from __future__ import annotations

from functools import cache
from textwrap import indent

from unrollbench.case import DTYPES
from unrollbench.kernels import host, pairs, scaling
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.tile import ROW_TILE, most_columns, tile
from unrollbench.kernels.words import peek, put, room

LEAST_ROWS = 4
"""Rows of a tile where these can be chosen. With 4 rows by 4 columns it reads half as many weights and numbers as it
does multiply-adds; by 2, three quarters."""
SINGLE_COLUMNS = 4
"""Columns of a tile of one row, if there are so many: enough sums to hide most of a multiply-add's latency."""
BLOCK_ROWS = 104
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache: a multiple
of pairs.ROW_TILE. With 96 a hundred steps of one row read their weights twice."""
ASKED_BYTES = 6 * 1024 * 1024
"""Bytes of w beyond which its next columns are asked for: a third-level cache that others use, too, may have given them
up since they were read. With 4 MiB it was no help, from 8 MiB on multiplying took 0.92 of the time."""
OFFSETS = 2 * (BLOCK_ROWS + max(ROW_TILE, pairs.ROW_TILE))
"""Words that say where the rows of a block lie."""


def heights(in_pairs: bool = False) -> dict[int, tuple[int, ...]]:
    """Columns of a tile -> the numbers of rows that it may have, beside one; the widest first.

    6 rows x 4 columns, 4 weights and a broadcast take 29 of the 32 registers of AVX-512 and NEON, 6 x 2 take 15 of the
    16 of AVX2. There, and in pairs, which have tiles of 2 columns too, SINGLE_COLUMNS are for single rows only.
    """
    widest = min(SINGLE_COLUMNS, most_columns(ROW_TILE))
    if in_pairs:
        tall = pairs.ROW_TILE, pairs.LEAST_ROWS
        return {SINGLE_COLUMNS: (), pairs.COLUMN_TILE: tall, 1: tall}
    found = {SINGLE_COLUMNS: (), widest: tuple(range(ROW_TILE, LEAST_ROWS - 1, -1))}
    return found | {columns: (ROW_TILE,) for columns in (2, 1) if columns < widest}


def room_bytes(dtype: str, depth: int) -> int:
    """Bytes that `multiply` in pairs needs for scaled rows of so many numbers."""
    return BLOCK_ROWS * pairs.row_bytes(dtype, depth)


@cache
def multiply(dtype: str, depth: int = 0, *, asks: bool = False) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Rows come in runs, as a thread's rows of one time step after the other. Arguments: rows, columns, those of
    `tile.tile` without offsets; then the strides of a and out over r, how many rows a run has, and the gaps of a and
    out, which are the bytes beyond a stride from a run's last row to the next run's first.

    Blocks of rows are as even as they go, and so are their tiles, of 4 to 6 rows. Where that cannot be (1 to 3 or 7
    rows, or columns that are left beside the widest tiles) tiles have ROW_TILE rows or one. If `start` is not `out`,
    the last tile of ROW_TILE then computes some rows a second time: that costs less than to read all of w for each row
    that is left.

    depth: K, to multiply in pairs where a block's rows allow it, or 0. Tiles then have pairs.ROW_TILE rows, or
    pairs.LEAST_ROWS where no more are left; blocks but the last one have whole tiles of the former. The last arguments
    are the columns' own products, what rows are scaled to, where there is room for a block's scaled rows, and two words
    that count the blocks that are paired and those that are not. asks: tiles in pairs then ask for the columns that
    follow, each for its part of them, a line for each pairs.STEPS steps of k, which makes all lines in blocks of twelve
    tiles and more. Those of w must lie one after the other. After the last columns it is what lies behind them.
    """
    sizes = [(rows, columns) for columns, tall in heights(depth > 0).items() for rows in (1, *tall)]
    called = {f"tile_{rows}x{columns}": tile(dtype, rows, columns) for rows, columns in sizes}
    if depth:
        tall = [(rows, columns) for rows, columns in sizes if rows > 1]
        called |= {f"paired_{rows}x{columns}": pairs.tile(dtype, rows, columns, depth) for rows, columns in tall}
        called |= {"scale_row": scaling.scale_row(dtype), "peek": peek}
    written = text(host.lanes(dtype) * DTYPES[dtype], pairs.row_bytes(dtype, depth) if depth else 0, asks=asks)
    return kernel(written, "multiply", {**called, "put": put, "room": room(OFFSETS)})


def text(width: int, scaled_row: int = 0, *, asks: bool = False) -> str:
    """What `multiply` is compiled from, with vectors of `width` bytes, and of scaled rows of so many bytes.

    offsets: where the rows of a block lie in a and in out, two words each, and those of the tile that would follow.
    """
    tallest, sizes = pairs.ROW_TILE if scaled_row else ROW_TILE, heights(scaled_row > 0)
    passed = "panel, w_column, w_k, {}s, shared, o, offsets + (row - first) * 16"

    def call(rows: int, columns: int) -> str:
        multiplied = f"    tile_{rows}x{columns}(count, a, {passed.format('')})"
        if scaled_row and rows > 1:
            numbers = f"scaled + {width} + (row - first) * {scaled_row}"
            own = passed.format(f"products + column * {width}, ")
            part = f"min((row - first + {tallest - 1}) // {tallest}, parts - 1)"
            own += f", following + {part} * each, each_k" if asks else ""
            paired = f"    if paired:\n        paired_{rows}x{columns}({numbers}, {own})\n"
            multiplied = f"{paired}    else:\n    {multiplied}"
        return f"{multiplied}\n    row += {rows}"

    def branch(columns: int) -> str:
        """The call of the tile of so many columns that has the height."""
        if not sizes[columns]:
            return indent(call(1, columns), 16 * " ")
        tall, *lower = sizes[columns]
        lines = [f"if height == {tall}:\n{call(tall, columns)}"]
        lines += [f"elif height == {rows}:\n{call(rows, columns)}" for rows in lower]
        return indent("\n".join([*lines, f"else:\n{call(1, columns)}"]), 20 * " ")

    widest = next(columns for columns, tall in sizes.items() if tall)
    few = {columns: "" if tall else f" and last - first < {LEAST_ROWS}" for columns, tall in sizes.items()}
    chosen = "\n                el".join(f"if wide == {columns}:\n{branch(columns)}" for columns in sizes)
    wide = " else ".join(f"{columns} if left >= {columns}{few[columns]}" for columns in sizes if columns > 1)
    arguments = "rows, columns, count, a, w, w_column, w_k, start, shared, out, a_row, out_row, run, a_gap, out_gap"
    first, last = (f"rows * (block + {more}) // blocks" for more in (0, 1))
    planned = f"""
tiles = (last - first + {ROW_TILE - 1}) // {ROW_TILE}
least = (last - first) // tiles
lower, tall = first + (last - first - tiles * least) * (least + 1), {ROW_TILE}
"""
    height = """
height = tall if row + tall <= last else 1
if height == 1 and start != out and last - first >= tall:
    row, height = last - tall, tall
"""
    if scaled_row:
        first, last = (f"min(rows, ({each} + {tallest - 1}) // {tallest} * {tallest})" for each in (first, last))
        planned = _scaling(scaled_row)
        tall = f"tall = {tallest} if last - row > {LEAST_ROWS} and last - first >= {tallest} else {LEAST_ROWS}"
        height = f"{tall}\n{height.strip()}"
    else:
        even = f"if wide == {widest} and least >= {LEAST_ROWS}:\n    height = least + 1 if row < lower else least\n"
        height = f"{even}else:{indent(height, '    ')}"
    asked = [
        f"parts, following = (last - first + {tallest - 1}) // {tallest}, panel + wide * w_column",
        "each, each_k = wide * w_column // parts, (wide * w_k + parts - 1) // parts",
    ]
    return f"""
def multiply({arguments}{", products, weights_exponent, scaled, counts" if scaled_row else ""}):
    blocks = (rows + {BLOCK_ROWS - 1}) // {BLOCK_ROWS}
    offsets = room()
    for block in range(blocks):
        first, last, column = {first}, {last}, 0
        runs, place = first // run, offsets
        in_run, of_a, of_out = first - runs * run, first * a_row + runs * a_gap, first * out_row + runs * out_gap
        for row in range(first, last + {tallest}):
            put(place, of_a)
            put(place + 8, of_out)
            place, in_run, of_a, of_out = place + 16, in_run + 1, of_a + a_row, of_out + out_row
            if in_run == run:
                in_run, of_a, of_out = 0, of_a + a_gap, of_out + out_gap
        {indent(planned, 8 * " ").strip()}
        while column < columns:
            panel, s, o = w + column * w_column, start + column * {width}, out + column * {width}
            left, row = columns - column, first
            wide = {wide} else 1
            {"; ".join(asked if asks else [])}
            while row < last:
                {indent(height, 16 * " ").strip()}
                {chosen}
            column += wide
"""


def _scaling(scaled_row: int) -> str:
    """Lines that scale the rows of a block, if there are enough for a tile in pairs: whether they are `paired`."""
    exponent = f"weights_exponent if last - first >= {pairs.LEAST_ROWS} else {pairs.NO_PAIRS}"
    rows = pairs.scaling("last - first", "count", "a + peek(offsets, 16 * number)", exponent, "scaled", scaled_row)
    return "\n".join(["unfit = 0", *rows, *pairs.counting("counts")])

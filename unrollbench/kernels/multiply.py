"""The product of any numbers of rows and columns, of register tiles (`tile.tile`)."""

from __future__ import annotations

from functools import cache
from textwrap import indent

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.tile import ROW_TILE, most_columns, tile
from unrollbench.kernels.words import put, room

LEAST_ROWS = 4
"""Rows of a tile where these can be chosen. With 4 rows by 4 columns it reads half as many weights and numbers as it
does multiply-adds; by 2, three quarters."""
SINGLE_COLUMNS = 4
"""Columns of a tile of one row, if there are so many: enough sums to hide most of a multiply-add's latency."""
BLOCK_ROWS = 96
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache."""
OFFSETS = 2 * (BLOCK_ROWS + ROW_TILE)
"""Words that say where the rows of a block lie."""


def heights() -> dict[int, tuple[int, ...]]:
    """Columns of a tile -> the numbers of rows that it may have, beside one; the widest first.

    6 rows x 4 columns, 4 weights and a broadcast take 29 of the 32 registers of AVX-512 and NEON, 6 x 2 take 15 of the
    16 of AVX2. There SINGLE_COLUMNS are for single rows only.
    """
    widest = min(SINGLE_COLUMNS, most_columns(ROW_TILE))
    found = {SINGLE_COLUMNS: (), widest: tuple(range(ROW_TILE, LEAST_ROWS - 1, -1))}
    return found | {columns: (ROW_TILE,) for columns in (2, 1) if columns < widest}


@cache
def multiply(dtype: str) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Rows come in runs, as a thread's rows of one time step after the other. Arguments: rows, columns, those of
    `tile.tile` without offsets; then the strides of a and out over r, how many rows a run has, and the gaps of a and
    out, which are the bytes beyond a stride from a run's last row to the next run's first.

    Blocks of rows are as even as they go, and so are their tiles, of 4 to 6 rows. Where that cannot be (1 to 3 or 7
    rows, or columns that are left beside the widest tiles) tiles have ROW_TILE rows or one. If `start` is not `out`,
    the last tile of ROW_TILE then computes some rows a second time: that costs less than to read all of w for each row
    that is left.
    """
    sizes = [(rows, columns) for columns, tall in heights().items() for rows in (1, *tall)]
    called = {f"tile_{rows}x{columns}": tile(dtype, rows, columns) for rows, columns in sizes}
    return kernel(text(host.lanes(dtype) * DTYPES[dtype]), "multiply", {**called, "put": put, "room": room(OFFSETS)})


def text(width: int) -> str:
    """What `multiply` is compiled from, with vectors of `width` bytes.

    offsets: where the rows of a block lie in a and in out, two words each, and those of the tile that would follow.
    """
    passed = "count, a, panel, w_column, w_k, s, shared, o, offsets + (row - first) * 16"

    def call(rows: int, columns: int) -> str:
        return f"    tile_{rows}x{columns}({passed})\n    row += {rows}"

    def branch(columns: int) -> str:
        """The call of the tile of so many columns that has the height."""
        if not heights()[columns]:
            return indent(call(1, columns), 16 * " ")
        tall, *lower = heights()[columns]
        lines = [f"if height == {tall}:\n{call(tall, columns)}"]
        lines += [f"elif height == {rows}:\n{call(rows, columns)}" for rows in lower]
        return indent("\n".join([*lines, f"else:\n{call(1, columns)}"]), 20 * " ")

    widest = next(columns for columns, tall in heights().items() if tall)
    few = {columns: "" if tall else f" and last - first < {LEAST_ROWS}" for columns, tall in heights().items()}
    chosen = "\n                el".join(f"if wide == {columns}:\n{branch(columns)}" for columns in heights())
    wide = " else ".join(f"{columns} if left >= {columns}{few[columns]}" for columns in heights() if columns > 1)
    arguments = "rows, columns, count, a, w, w_column, w_k, start, shared, out, a_row, out_row, run, a_gap, out_gap"
    return f"""
def multiply({arguments}):
    blocks = (rows + {BLOCK_ROWS - 1}) // {BLOCK_ROWS}
    offsets = room()
    for block in range(blocks):
        first, last, column = rows * block // blocks, rows * (block + 1) // blocks, 0
        runs, place = first // run, offsets
        in_run, of_a, of_out = first - runs * run, first * a_row + runs * a_gap, first * out_row + runs * out_gap
        for row in range(first, last + {ROW_TILE}):
            put(place, of_a)
            put(place + 8, of_out)
            place, in_run, of_a, of_out = place + 16, in_run + 1, of_a + a_row, of_out + out_row
            if in_run == run:
                in_run, of_a, of_out = 0, of_a + a_gap, of_out + out_gap
        tiles = (last - first + {ROW_TILE - 1}) // {ROW_TILE}
        least = (last - first) // tiles
        lower = first + (last - first - tiles * least) * (least + 1)
        while column < columns:
            panel, s, o = w + column * w_column, start + column * {width}, out + column * {width}
            left, row = columns - column, first
            wide = {wide} else 1
            even = wide == {widest} and least >= {LEAST_ROWS}
            while row < last:
                if even:
                    height = least + 1 if row < lower else least
                else:
                    height = {ROW_TILE} if row + {ROW_TILE} <= last else 1
                    if height == 1 and start != out and last - first >= {ROW_TILE}:
                        row, height = last - {ROW_TILE}, {ROW_TILE}
                {chosen}
            column += wide
"""

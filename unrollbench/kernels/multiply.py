"""The product of any numbers of rows and columns, of register tiles (`tile.tile`)."""

from __future__ import annotations

from functools import cache
from textwrap import indent

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.tile import tile
from unrollbench.kernels.words import put, room

ROW_TILE, LEAST_ROWS = 6, 4
"""Rows of a register tile: 6 rows x 4 columns, 4 weights and a broadcast fill the 32 registers of AVX-512 and NEON.
With 4 rows it reads half as many weights and numbers as it does multiply-adds."""
BLOCK_ROWS = 96
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache."""
OFFSETS = 2 * (BLOCK_ROWS + ROW_TILE)
"""Words that say where the rows of a block lie."""
HEIGHTS = {4: tuple(range(ROW_TILE, LEAST_ROWS - 1, -1)), 2: (ROW_TILE,), 1: (ROW_TILE,)}
"""Columns of a tile -> the numbers of rows that it may have, beside one."""


@cache
def multiply(dtype: str) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Rows come in runs, as a thread's rows of one time step after the other. Arguments: rows, columns, those of
    `tile.tile` without offsets; then the strides of a and out over r, how many rows a run has, and the gaps of a and
    out, which are the bytes beyond a stride from a run's last row to the next run's first.

    Blocks of rows are as even as they go, and so are their tiles, of 4 to 6 rows. Where that cannot be (1 to 3 or 7
    rows, or the last 1 to 3 columns) tiles have ROW_TILE rows or one. If `start` is not `out`, the last tile of
    ROW_TILE then computes some rows a second time: that costs less than to read all of w for each row that is left.
    """
    sizes = [(rows, columns) for columns in HEIGHTS for rows in (1, *HEIGHTS[columns])]
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
        tall, *lower = HEIGHTS[columns]
        lines = [f"if height == {tall}:\n{call(tall, columns)}"]
        lines += [f"elif height == {rows}:\n{call(rows, columns)}" for rows in lower]
        return indent("\n".join([*lines, f"else:\n{call(1, columns)}"]), 20 * " ")

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
            wide, left, row = column + 4 <= columns, columns - column, first
            even = wide and least >= {LEAST_ROWS}
            while row < last:
                if even:
                    height = least + 1 if row < lower else least
                else:
                    height = {ROW_TILE} if row + {ROW_TILE} <= last else 1
                    if height == 1 and start != out and last - first >= {ROW_TILE}:
                        row, height = last - {ROW_TILE}, {ROW_TILE}
                if wide:
{branch(4)}
                elif left >= 2:
{branch(2)}
                else:
{branch(1)}
            column += 4 if wide else 2 if left >= 2 else 1
"""

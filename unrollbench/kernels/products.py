"""Matrix products over many rows: the input projection and the gradients of inputs and weights.

All are one register tile (`tile.tile`) with different strides; rows or columns are split over the threads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import Inputs, LayerLayout, StageLayout
from unrollbench.kernels.tile import tile
from unrollbench.kernels.words import copy_bytes, peek, poke

OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cpython_wrapper": True}
"""For functions that kernels inline: no division raises; no fast-math, so NaN and infinities keep their meaning."""
ROW_TILE = 6
"""Rows of a register tile: 6 rows x 4 columns, 4 weights and a broadcast fill the 32 registers of AVX-512 and NEON."""

WIDE_ROWS, DEEP_ROWS, DEEP_PRODUCT = 96, 48, 1024
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache: fewer
where each is long (DEEP_PRODUCT elements and more)."""
PANEL_ROWS = 128
"""Rows of gradients packed into one contiguous panel: 128 rows x 4 vectors x 64 bytes fill a first-level cache."""


@cache
def multiply(dtype: str) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Arguments: rows, columns, then as in `tile.tile`. Where `start` is not `out`, the last tile of rows may compute some
    rows a second time: that costs less than to read all of w for each row that is left over.
    """
    width = host.lanes(dtype) * DTYPES[dtype]
    tile_6x4, tile_1x4 = tile(dtype, ROW_TILE, 4), tile(dtype, 1, 4)
    tile_6x1, tile_1x1 = tile(dtype, ROW_TILE, 1), tile(dtype, 1, 1)

    def product(rows, columns, count, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row):
        block = WIDE_ROWS if count < DEEP_PRODUCT else DEEP_ROWS
        for first in range(0, rows, block):
            last, column = min(rows, first + block), 0
            while column < columns:
                panel, s, o = w + column * w_column, start + column * width, out + column * width
                wide, row = column + 4 <= columns, first
                while row < last:
                    tall = row + ROW_TILE <= last
                    if not tall and start != out and last - first >= ROW_TILE:
                        row, tall = last - ROW_TILE, True
                    at, s_at, o_at = a + row * a_row, s + row * start_row, o + row * out_row
                    if wide and tall:
                        tile_6x4(count, at, a_row, a_k, panel, w_column, w_k, s_at, start_row, o_at, out_row)
                    elif wide:
                        tile_1x4(count, at, a_row, a_k, panel, w_column, w_k, s_at, start_row, o_at, out_row)
                    elif tall:
                        tile_6x1(count, at, a_row, a_k, panel, w_column, w_k, s_at, start_row, o_at, out_row)
                    else:
                        tile_1x1(count, at, a_row, a_k, panel, w_column, w_k, s_at, start_row, o_at, out_row)
                    row += ROW_TILE if tall else 1
                column += 4 if wide else 1

    return Kernel(f"multiply_{dtype}", product, 13)


@cache
def project(layout: LayerLayout, s: StageLayout, inputs: Inputs) -> Kernel:
    """`project(f, t, slot, n)`: gate buffers of n steps from t = x . W_x + bias, or the bias alone without an input.

    The first stage's also carries h from one window to the next, where an array has only a window's slots: the state
    after the last window becomes slot 0.
    """
    x_row, x_by_time = inputs.row_bytes, inputs.slots == "time"
    fields, i, batch, threads = layout.fields, s.index, layout.batch, layout.threads
    depth = layout.spec.input_size if s.stage.takes_input else 0
    columns, row_bytes, itemsize, width = s.columns, s.row_bytes, layout.itemsize, layout.width
    f_gates, f_w, f_bias, f_x, f_h, f_window, f_thread = (
        fields[n] for n in (f"gates_{i}", f"W_x_{i}", f"bias_{i}", "x", "h", "window", "thread")
    )
    h, gates_by_time = layout.arrays["h"], s.gate_slots == "time"
    state_bytes, carries = batch * h.row_bytes, i == 0 and h.slots == "window"
    multiplier = multiply(layout.dtype)
    product = multiplier.call

    def run(f, t, slot, n):
        thread = peek(f, f_thread)
        if carries:
            before, own, end = peek(f, f_window), state_bytes * thread // threads, state_bytes * (thread + 1) // threads
            if before > 0:
                state = peek(f, f_h) + own
                copy_bytes(state, state + before * state_bytes, end - own)
            poke(f + f_window, n)
        rows = n * batch
        first, last = share(rows, threads, thread)
        x = peek(f, f_x) + ((t if x_by_time else slot) * batch + first) * x_row
        gates = peek(f, f_gates) + ((t if gates_by_time else slot) * batch + first) * row_bytes
        product(
            last - first, columns, depth, x, x_row, itemsize, peek(f, f_w), depth * width, width,
            peek(f, f_bias), 0, gates, row_bytes,
        )  # fmt: skip

    return Kernel("project", run, 4, [multiplier])


@njit(**OPTIONS)
def share(rows, threads, thread):
    """(first, last) row of a thread's share, in whole tiles of rows."""
    per_thread = ((rows + threads - 1) // threads + ROW_TILE - 1) // ROW_TILE * ROW_TILE
    return min(rows, thread * per_thread), min(rows, (thread + 1) * per_thread)


@cache
def input_gradient(layout: LayerLayout, d_x_row: int, by_time: bool) -> Kernel:
    """`input_gradient(f, t, slot, n)`: d_x of n steps from t = sum over stages of d_pre . W_x^T."""
    fields, batch, threads, itemsize, width = layout.fields, layout.batch, layout.threads, layout.itemsize, layout.width
    columns = d_x_row // width
    stages = tuple(s for s in layout.stages if s.stage.takes_input)
    f_gates = tuple(fields[f"gates_{s.index}"] for s in stages)
    f_w = tuple(fields[f"W_xT_{s.index}"] for s in stages)
    row_bytes = tuple(s.row_bytes for s in stages)
    f_d_x, f_zeros, f_thread = fields["d_x"], fields["zeros"], fields["thread"]
    multiplier = multiply(layout.dtype)
    product = multiplier.call

    def run(f, t, slot, n):
        first, last = share(n * batch, threads, peek(f, f_thread))
        out = peek(f, f_d_x) + ((t if by_time else slot) * batch + first) * d_x_row
        start, start_row = peek(f, f_zeros), 0
        for i in range(len(f_gates)):
            depth = row_bytes[i] // itemsize
            gates = peek(f, f_gates[i]) + (t * batch + first) * row_bytes[i]
            product(
                last - first, columns, depth, gates, row_bytes[i], itemsize, peek(f, f_w[i]), depth * width, width,
                start, start_row, out, d_x_row,
            )  # fmt: skip
            start, start_row = out, d_x_row

    return Kernel("d_inputs", run, 4, [multiplier])


@cache
def weight_gradient(layout: LayerLayout, s: StageLayout, x_row: int) -> Kernel:
    """`weight_gradient(f, t, slot, n)`: adds x^T . d_pre, operand^T . d_pre and column sums of n steps from t.

    The steps that end at the longest length come first: their sums replace what was there.
    """
    fields, i, batch, threads = layout.fields, s.index, layout.batch, layout.threads
    itemsize, width = layout.itemsize, layout.width
    operand = layout.arrays[s.stage.operand]
    inputs = layout.spec.input_size if s.stage.takes_input else 0
    has_bias = s.stage.bias is not None
    operand_size, operand_row, columns, row_bytes = s.operand_size, operand.row_bytes, s.columns, s.row_bytes
    f_x, f_operand, f_gates, f_one, f_zeros, f_panel, f_thread, f_limit = (
        fields[n] for n in ("x", s.stage.operand, f"gates_{i}", "one", "zeros", "panel", "thread", "limit")
    )
    f_d_x, f_d_h, f_d_b = (fields[f"d_{n}_{i}"] for n in ("W_x", "W_h", "bias"))
    multiplier = multiply(layout.dtype)
    product = multiplier.call

    panel_bytes = PANEL_ROWS * 4 * width

    def run(f, t, slot, n):
        thread, rows = peek(f, f_thread), n * batch
        panel, one = peek(f, f_panel) + thread * panel_bytes, peek(f, f_one)
        gates = peek(f, f_gates) + t * batch * row_bytes
        x = peek(f, f_x) + t * batch * x_row
        h = peek(f, f_operand) + t * batch * operand_row
        groups = (columns + 3) // 4
        latest = t + n == peek(f, f_limit)
        for first in range(0, rows, PANEL_ROWS):
            depth = min(PANEL_ROWS, rows - first)
            replaces = latest and first == 0
            start_row = 0 if replaces else row_bytes
            for group in range(groups * thread // threads, groups * (thread + 1) // threads):
                count, offset = min(4, columns - group * 4), group * 4 * width
                for r in range(depth):
                    copy_bytes(panel + r * 4 * width, gates + (first + r) * row_bytes + offset, count * width)
                out, a = peek(f, f_d_x) + offset, x + first * x_row
                start = peek(f, f_zeros) if replaces else out
                product(
                    inputs, count, depth, a, itemsize, x_row, panel, width, 4 * width, start, start_row, out, row_bytes
                )
                out, a = peek(f, f_d_h) + offset, h + first * operand_row
                start = peek(f, f_zeros) if replaces else out
                product(
                    operand_size, count, depth, a, itemsize, operand_row, panel, width, 4 * width,
                    start, start_row, out, row_bytes,
                )  # fmt: skip
                if has_bias:
                    out = peek(f, f_d_b) + offset
                    start = peek(f, f_zeros) if replaces else out
                    product(1, count, depth, one, 0, 0, panel, width, 4 * width, start, start_row, out, row_bytes)

    return Kernel("d_weights", run, 4, [multiplier])

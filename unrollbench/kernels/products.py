"""Matrix products over many rows: the input projection and the gradients of inputs and weights.

All are one register tile (`tile.tile`) with different strides; rows or columns are split over the threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from textwrap import indent

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import AHEAD_STEPS, Inputs, LayerLayout, StageLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.source import field, function
from unrollbench.kernels.tile import copy_vectors, tile
from unrollbench.kernels.transpose import transpose
from unrollbench.kernels.words import Emit, copy_bytes, peek, poke

ROW_TILE = 6
"""Rows of a register tile: 6 rows x 4 columns, 4 weights and a broadcast fill the 32 registers of AVX-512 and NEON."""

WIDE_ROWS, DEEP_ROWS, DEEP_PRODUCT = 96, 48, 1024
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache: fewer
where each is long (DEEP_PRODUCT elements and more)."""
PANEL_ROWS = 256
"""Rows of gradients packed into contiguous panels, of which the second-level cache keeps the one that is multiplied."""


@cache
def multiply(dtype: str) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Arguments: rows, columns, then as in `tile.tile`. Blocks of rows are as even as they go, and of tiles with ROW_TILE
    rows or one less. Where that does not come out even (with less than 20 rows, or few columns) and `start` is not
    `out`, the last tile may compute some rows a second time: that costs less than to read all of w for each row that
    is left over.
    """
    width = host.lanes(dtype) * DTYPES[dtype]
    passed = "count, at, a_row, a_k, panel, w_column, w_k, s_at, start_row, o_at, out_row"
    smaller = ROW_TILE - 1
    sizes = ((ROW_TILE, 4), (smaller, 4), (1, 4), (ROW_TILE, 2), (1, 2), (ROW_TILE, 1), (1, 1))

    def call(rows: int, columns: int) -> str:
        return f"    tile_{rows}x{columns}({passed})\n    row += {rows}"

    def tiles(columns: int) -> list[str]:
        """The branch for a tile of so many columns."""
        fitting = [f"elif exact:\n{call(smaller, columns)}"] if (smaller, columns) in sizes else []
        return [f"if tall:\n{call(ROW_TILE, columns)}", *fitting, f"else:\n{call(1, columns)}"]

    def branch(columns: int) -> str:
        return indent("\n".join(tiles(columns)), 20 * " ")

    text = f"""
def multiply(rows, columns, count, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row):
    most = {WIDE_ROWS} if count < {DEEP_PRODUCT} else {DEEP_ROWS}
    blocks = (rows + most - 1) // most
    for block in range(blocks):
        first, last, column = rows * block // blocks, rows * (block + 1) // blocks, 0
        tiles = (last - first + {ROW_TILE - 1}) // {ROW_TILE}
        smaller = tiles * {ROW_TILE} - (last - first)
        while column < columns:
            panel, s, o = w + column * w_column, start + column * {width}, out + column * {width}
            wide, left, row = column + 4 <= columns, columns - column, first
            exact = wide and smaller <= tiles
            end = last - smaller * {ROW_TILE - 1} if exact else last
            while row < last:
                tall = row + {ROW_TILE} <= end
                if tall == 0 and exact == 0 and start != out and last - first >= {ROW_TILE}:
                    row, tall = last - {ROW_TILE}, 1
                at, s_at, o_at = a + row * a_row, s + row * start_row, o + row * out_row
                if wide:
{branch(4)}
                elif left >= 2:
{branch(2)}
                else:
{branch(1)}
            column += 4 if wide else 2 if left >= 2 else 1
"""
    return kernel(text, "multiply", {f"tile_{rows}x{columns}": tile(dtype, rows, columns) for rows, columns in sizes})


def share(rows: str, threads: int) -> list[str]:
    """Lines that set `first` and `last` to a thread's share of the rows, in whole tiles."""
    return [
        f"each = (({rows} + {threads - 1}) // {threads} + {ROW_TILE - 1}) // {ROW_TILE} * {ROW_TILE}",
        f"first, last = min({rows}, thread * each), min({rows}, (thread + 1) * each)",
    ]


@cache
def project(layout: LayerLayout, s: StageLayout, inputs: Inputs) -> Kernel:
    """`project(f, t, slot, n)`: gate buffers of n steps from t = x . W_x + bias, or the bias alone without an input.

    Where steps project ahead, only the first AHEAD_STEPS of the n and those that are left beside whole AHEAD_STEPS.

    The first stage's also carries h from one window to the next, where an array has only a window's slots: the state
    after the last window becomes slot 0.
    """
    i, batch, threads, width = s.index, layout.batch, layout.threads, layout.width
    depth = layout.spec.input_size if s.stage.takes_input else 0
    x_slot, gates_slot = ("t" if slots == "time" else "slot" for slots in (inputs.slots, s.gate_slots))
    h = layout.arrays["h"]
    at = partial(field, layout)
    lines = [f"thread, rows = {at('thread')}, n * {batch}"]
    if i == 0 and h.slots == "window":
        state_bytes = batch * h.row_bytes
        lines += [
            f"before, own = {at('window')}, {state_bytes} * thread // {threads}",
            "if before > 0:",
            f"    state = {at('h')} + own",
            f"    copy_bytes(state, state + before * {state_bytes}, {state_bytes} * (thread + 1) // {threads} - own)",
        ]
    if i == 0 and (h.slots == "window" or layout.projects_ahead):
        lines.append(f"poke(f + {layout.fields['window']}, n)")
    multiplied = [
        *share("rows", threads),
        f"x = {at('x')} + (({x_slot} + done) * {batch} + first) * {inputs.row_bytes}",
        f"gates = {at(f'gates_{i}')} + (({gates_slot} + done) * {batch} + first) * {s.row_bytes}",
        f"multiply(last - first, {s.columns}, {depth}, x, {inputs.row_bytes}, {layout.itemsize}, "
        f"{at(f'W_x_{i}')}, {depth * width}, {width}, {at(f'bias_{i}')}, 0, gates, {s.row_bytes})",
    ]
    if layout.projects_ahead and depth:
        lines += ["done = 0", "while done < n:", f"    rows = min({AHEAD_STEPS}, n - done) * {batch}"]
        lines += [f"    {line}" for line in multiplied]
        lines.append(f"    done += {AHEAD_STEPS} if n < {2 * AHEAD_STEPS} else n // {AHEAD_STEPS} * {AHEAD_STEPS}")
    else:
        lines += ["done = 0", *multiplied]
    return _kernel("project", layout, lines)


@cache
def input_gradient(layout: LayerLayout, d_x_row: int, by_time: bool) -> Kernel:
    """`d_inputs(f, t, slot, n)`: d_x of n steps from t = sum over stages of d_pre . W_x^T."""
    batch, itemsize, width = layout.batch, layout.itemsize, layout.width
    at = partial(field, layout)
    lines = [f"thread, rows = {at('thread')}, n * {batch}", *share("rows", layout.threads)]
    lines.append(f"out = {at('d_x')} + ({'t' if by_time else 'slot'} * {batch} + first) * {d_x_row}")
    start = f"{at('zeros')}, 0"
    for s in (s for s in layout.stages if s.stage.takes_input):
        depth = s.row_bytes // itemsize
        lines += [
            f"gates = {at(f'gates_{s.index}')} + (t * {batch} + first) * {s.row_bytes}",
            f"multiply(last - first, {d_x_row // width}, {depth}, gates, {s.row_bytes}, {itemsize}, "
            f"{at(f'W_xT_{s.index}')}, {depth * width}, {width}, {start}, out, {d_x_row})",
        ]
        start = f"out, {d_x_row}"
    return _kernel("d_inputs", layout, lines)


@cache
def weight_gradient(layout: LayerLayout, s: StageLayout, x_row: int) -> Kernel:
    """`d_weights(f, t, slot, n)`: adds [x, operand, 1]^T . d_pre of n steps from t to the gradients of kernel and bias.

    They are one array, so that is one product. The steps that end at the longest length come first: their
    sums replace what was there. PANEL_ROWS rows at a time are added to all of a thread's columns; both operands are
    packed for that in the order in which tiles read them, x and the operand once.
    """
    i, batch, itemsize, width = s.index, layout.batch, layout.itemsize, layout.width
    operand_row = layout.arrays[s.stage.operand].row_bytes
    groups, panel_row, panel_bytes = (s.columns + 3) // 4, 4 * width, PANEL_ROWS * 4 * width
    at = partial(field, layout)
    inputs = layout.spec.input_size if s.stage.takes_input else 0
    depth_bytes, bias = PANEL_ROWS * itemsize, int(s.stage.bias is not None)
    lines = [
        f"thread, rows, latest = {at('thread')}, n * {batch}, t + n == {at('limit')}",
        f"panels, packed = {at('panel')}, {at('panel')} + {layout.panels(s) * panel_bytes}",
        f"gates = {at(f'gates_{i}')} + t * {batch * s.row_bytes}",
        f"x, operand = {at('x')} + t * {batch * x_row}, {at(s.stage.operand)} + t * {batch * operand_row}",
        f"copy_bytes(packed + {layout.kernel_rows(s) * depth_bytes}, {at('ones')}, {depth_bytes})",
        f"first_group, last_group = {groups} * thread // {layout.threads}, {groups} * (thread + 1) // {layout.threads}",
        "if first_group == last_group:",
        "    return",
        f"for first in range(0, rows, {PANEL_ROWS}):",
        f"    depth, replaces = min({PANEL_ROWS}, rows - first), latest and first == 0",
        f"    start_row, group = 0 if replaces else {s.row_bytes}, first_group",
        f"    transpose(depth, {inputs}, x + first * {x_row}, {x_row}, packed, {depth_bytes})",
        f"    transpose(depth, {s.operand_size}, operand + first * {operand_row}, {operand_row}, "
        f"packed + {inputs * depth_bytes}, {depth_bytes})",
        "    while group < last_group:",
        f"        end = min(last_group, group + {layout.panels(s)})",
        "        for r in range(depth):",
        f"            row, panel = gates + (first + r) * {s.row_bytes}, panels + r * {panel_row}",
        "            for one in range(group, end):",
        f"                if one * 4 + 4 <= {s.columns}:",
        f"                    copy_4(panel, row + one * {panel_row})",
        "                else:",
        f"                    copy_bytes(panel, row + one * {panel_row}, ({s.columns} - one * 4) * {width})",
        f"                panel += {panel_bytes}",
        "        panel = panels",
        "        for one in range(group, end):",
        f"            count, offset = min(4, {s.columns} - one * 4), one * {panel_row}",
        f"            out = {at(f'd_kernel_{i}')} + offset",
        f"            multiply({layout.kernel_rows(s) + bias}, count, depth, packed, {depth_bytes}, {itemsize}, "
        f"panel, {width}, {panel_row}, {at('zeros')} if replaces else out, start_row, out, {s.row_bytes})",
        f"            panel += {panel_bytes}",
        "        group = end",
    ]
    transposer = transpose(layout.dtype)
    packing = {"copy_4": copy_vectors(layout.dtype, 4), "transpose": transposer.call}
    return _kernel("d_weights", layout, lines, packing, [transposer])


def _kernel(
    name: str,
    layout: LayerLayout,
    lines: list[str],
    others: Mapping[str, Emit] | None = None,
    uses: Iterable[Kernel] = (),
) -> Kernel:
    """The kernel (f, t, slot, n) of those lines, which may call `others` too, among them the kernels `uses`."""
    multiplier = multiply(layout.dtype)
    called = {"peek": peek, "poke": poke, "copy_bytes": copy_bytes, "multiply": multiplier.call, **(others or {})}
    return kernel(function(name, "f, t, slot, n", lines), name, called, [multiplier, *uses])

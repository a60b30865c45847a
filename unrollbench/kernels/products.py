"""Matrix products over many rows: the input projection and the gradients of inputs and weights.

All are one register tile (`tile.tile`) with different strides. Where threads have batch rows of their own, each
multiplies those of all time steps, so that it reads what it wrote itself and waits for nobody.
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
from unrollbench.kernels.source import field, function, share
from unrollbench.kernels.tile import copy_vectors, tile
from unrollbench.kernels.transpose import transpose
from unrollbench.kernels.words import Emit, copy_bytes, peek, poke, put, room

ROW_TILE, LEAST_ROWS = 6, 4
"""Rows of a register tile: 6 rows x 4 columns, 4 weights and a broadcast fill the 32 registers of AVX-512 and NEON.
With 4 rows it reads half as many weights and numbers as it does multiply-adds."""

WIDE_ROWS, DEEP_ROWS, DEEP_PRODUCT = 96, 48, 1024
"""Rows that are taken through all columns before the next ones, so that they stay in the second-level cache: fewer
where each is long (DEEP_PRODUCT elements and more)."""
PANEL_ROWS = 256
"""Rows of gradients packed into contiguous panels, of which the second-level cache keeps the one that is multiplied."""


@cache
def multiply(dtype: str) -> Kernel:
    """out[r, c] = start[r, c] + sum over k of a[r, k] * w[c, k], for any numbers of rows and vector columns.

    Rows come in runs, as a thread's rows of one time step after the other. Arguments: rows, columns, those of
    `tile.tile`, but offsets, the strides of a and out over r, how many rows a run has, and the gaps of a and out, which
    are the bytes beyond a stride from a run's last row to the next run's first.

    Blocks of rows are as even as they go, and so are their tiles, of which none has less than LEAST_ROWS rows. Where
    that cannot be (with less than 8 rows, or few columns) and `start` is not `out`, the last tile may compute some rows
    a second time: that costs less than to read all of w for each row that is left over.
    """
    width = host.lanes(dtype) * DTYPES[dtype]
    passed = "count, a, panel, w_column, w_k, s, shared, o, offsets + (row - first) * 16"
    heights = {4: range(LEAST_ROWS, ROW_TILE + 1), 2: (ROW_TILE,), 1: (ROW_TILE,)}
    sizes = [(rows, columns) for columns, several in heights.items() for rows in (1, *several)]

    def call(rows: int, columns: int) -> str:
        return f"    tile_{rows}x{columns}({passed})\n    row += {rows}"

    def tiles(columns: int) -> list[str]:
        """The branches for tiles of so many columns."""
        several = [f"elif height == {rows}:\n{call(rows, columns)}" for rows in heights[columns] if rows < ROW_TILE]
        return [f"if height == {ROW_TILE}:\n{call(ROW_TILE, columns)}", *several, f"else:\n{call(1, columns)}"]

    def branch(columns: int) -> str:
        return indent("\n".join(tiles(columns)), 20 * " ")

    arguments = "rows, columns, count, a, w, w_column, w_k, start, shared, out, a_row, out_row, run, a_gap, out_gap"
    text = f"""
def multiply({arguments}):
    most = {WIDE_ROWS} if count < {DEEP_PRODUCT} else {DEEP_ROWS}
    blocks = (rows + most - 1) // most
    offsets, in_run, of_a, of_out = room(), 0, 0, 0
    for block in range(blocks):
        first, last, column = rows * block // blocks, rows * (block + 1) // blocks, 0
        place = offsets
        for row in range(first, last + {ROW_TILE}):
            if row == last:
                next_run, next_a, next_out = in_run, of_a, of_out
            put(place, of_a)
            put(place + 8, of_out)
            place, in_run, of_a, of_out = place + 16, in_run + 1, of_a + a_row, of_out + out_row
            if in_run == run:
                in_run, of_a, of_out = 0, of_a + a_gap, of_out + out_gap
        in_run, of_a, of_out = next_run, next_a, next_out
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
    called = {f"tile_{rows}x{columns}": tile(dtype, rows, columns) for rows, columns in sizes}
    return kernel(text, "multiply", {**called, "put": put, "room": room(2 * (WIDE_ROWS + ROW_TILE))})


def shared_rows(rows: str, threads: int) -> list[str]:
    """Lines that set `first` and `last` to a thread's share of the rows, in whole tiles."""
    return [
        f"each = (({rows} + {threads - 1}) // {threads} + {ROW_TILE - 1}) // {ROW_TILE} * {ROW_TILE}",
        f"first, last = min({rows}, thread * each), min({rows}, (thread + 1) * each)",
    ]


def _own_rows(layout: LayerLayout) -> list[str]:
    """Lines that say which rows of n steps this thread takes: of each step `own` from `first` on, but not `others`."""
    first, own, *_ = share(layout, layout.stages[0])
    return [f"first, own = {first}, {own}", f"rows, others = n * own, {layout.batch} - own"]


@cache
def project(layout: LayerLayout, s: StageLayout, inputs: Inputs) -> Kernel:
    """`project(f, t, slot, n)`: gate buffers of n steps from t = x . W_x + bias, or the bias alone without an input.

    A thread does that for the rows and units that are its own in the steps. Where these project ahead, only the first
    AHEAD_STEPS of the n and those that are left beside whole AHEAD_STEPS.

    The first stage's also carries h from one window to the next, where an array has only a window's slots: the state
    after the last window becomes slot 0.
    """
    i, batch, width, h = s.index, layout.batch, layout.width, layout.arrays["h"]
    depth = layout.spec.input_size if s.stage.takes_input else 0
    x_slot, gates_slot = ("t" if slots == "time" else "slot" for slots in (inputs.slots, s.gate_slots))
    at = partial(field, layout)
    lines = _own_rows(layout)
    if i == 0 and h.slots == "window":
        lines += _carry(layout, h.row_bytes)
    if i == 0 and (h.slots == "window" or layout.projects_ahead):
        lines.append(f"poke(f + {layout.fields['window']}, n)")

    def multiplied(count: int | str) -> str:
        """The call for so many columns from `column` on."""
        return (
            f"multiply(rows, {count}, {depth}, x, W_x + column * {depth * width}, {depth * width}, "
            f"{width}, bias + column * {width}, 1, gates + column * {width}, {inputs.row_bytes}, {s.row_bytes}, own, "
            f"others * {inputs.row_bytes}, others * {s.row_bytes})"
        )

    products = [
        f"x = {at('x')} + (({x_slot} + done) * {batch} + first) * {inputs.row_bytes}",
        f"gates = {at(f'gates_{i}')} + (({gates_slot} + done) * {batch} + first) * {s.row_bytes}",
        f"W_x, bias, column = {at(f'W_x_{i}')}, {at(f'bias_{i}')}, 0",
    ]
    if layout.split == "rows":
        products.append(multiplied(s.columns))
    else:
        _, _, block, blocks = share(layout, s)
        products += [f"column, blocks = {block}, {blocks}", f"for _ in range({len(s.stage.gates)}):"]
        products += [f"    {multiplied('blocks')}", f"    column += {s.whole}"]
        if s.packed:
            products += [f"column = {len(s.stage.gates) * s.whole}", f"if {at(f'packed_{i}')}:"]
            products.append(f"    {multiplied(s.packed_columns)}")
    if layout.projects_ahead and depth:
        lines += ["done = 0", "while done < n:", f"    rows = min({AHEAD_STEPS}, n - done) * {batch}"]
        lines += [f"    {line}" for line in products]
        lines.append(f"    done += {AHEAD_STEPS} if n < {2 * AHEAD_STEPS} else n // {AHEAD_STEPS} * {AHEAD_STEPS}")
    else:
        lines += ["done = 0", *products]
    return _kernel("project", layout, lines)


def _carry(layout: LayerLayout, row_bytes: int) -> list[str]:
    """Lines that copy this thread's part of the state after the last window to slot 0, of rows of so many bytes."""
    state_bytes = layout.batch * row_bytes
    begin, end = f"first * {row_bytes}", f"(first + own) * {row_bytes}"
    if layout.split == "units":
        thread = field(layout, "thread")
        begin, end = (f"{state_bytes} * ({thread} + {more}) // {layout.threads}" for more in (0, 1))
    return [
        f"before, begin, end = {field(layout, 'window')}, {begin}, {end}",
        "if before > 0:",
        f"    state = {field(layout, 'h')} + begin",
        f"    copy_bytes(state, state + before * {state_bytes}, end - begin)",
    ]


@cache
def input_gradient(layout: LayerLayout, d_x_row: int, by_time: bool) -> Kernel:
    """`d_inputs(f, t, slot, n)`: d_x of n steps from t = sum over stages of d_pre . W_x^T.

    Threads that share rows split the columns of d_x, or the rows of all steps, whichever comes out even.
    """
    batch, itemsize, width, threads = layout.batch, layout.itemsize, layout.width, layout.threads
    columns = d_x_row // width
    groups, at = -(-columns // 4), partial(field, layout)
    lines = [*_own_rows(layout), f"column, count, thread = 0, {columns}, {at('thread')}"]
    if layout.split == "units" and groups % threads == 0:
        each = groups // threads * 4
        lines.append(f"column, count = thread * {each}, min({each}, {columns} - thread * {each})")
    elif layout.split == "units":
        lines += [*shared_rows("rows", threads), "rows = last - first"]
    lines.append(f"out = {at('d_x')} + ({'t' if by_time else 'slot'} * {batch} + first) * {d_x_row} + column * {width}")
    start = f"{at('zeros')}, 1"
    for s in (s for s in layout.stages if s.stage.takes_input):
        depth = s.row_bytes // itemsize
        lines += [
            f"gates = {at(f'gates_{s.index}')} + (t * {batch} + first) * {s.row_bytes}",
            f"multiply(rows, count, {depth}, gates, "
            f"{at(f'W_xT_{s.index}')} + column * {depth * width}, {depth * width}, {width}, {start}, "
            f"out, {s.row_bytes}, {d_x_row}, own, others * {s.row_bytes}, others * {d_x_row})",
        ]
        start = "out, 0"
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
    depth_bytes, rows = PANEL_ROWS * itemsize, layout.kernel_rows(s) + (s.stage.bias is not None)
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
        "    group = first_group",
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
        f"            multiply({rows}, count, depth, packed, panel, {width}, {panel_row}, "
        f"{at('zeros')} if replaces else out, replaces, out, {depth_bytes}, {s.row_bytes}, {rows}, 0, 0)",
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

"""Matrix products over many rows: the input projection and the gradient of inputs.

Both are one kernel (`multiply.multiply`, or on a matrix unit `matrix.multiply`) with different strides, as is the
gradient of weights (`weight_gradient`). Where threads have batch rows of their own, each multiplies those of all time
steps, so that it reads what it wrote itself and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial

from unrollbench.kernels import matrix
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import Inputs, LayerLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.multiply import ASKED_BYTES, multiply
from unrollbench.kernels.source import field, function, own_rows
from unrollbench.kernels.stages import StageLayout
from unrollbench.kernels.tile import ROW_TILE
from unrollbench.kernels.words import Emit, copy_bytes, peek, put


def part_of_rows(threads: int) -> list[str]:
    """Lines that take of `rows` a thread's part, in whole tiles: `first` is the first row, `rows` are so many."""
    return [
        f"each = ((rows + {threads - 1}) // {threads} + {ROW_TILE - 1}) // {ROW_TILE} * {ROW_TILE}",
        "first = min(rows, thread * each)",
        "rows = min(each, rows - first)",
    ]


def part_of(count: int | str, threads: int) -> str:
    """The first of `count` items, a number or a name, that a thread takes, and one past the last."""
    return f"{count} * thread // {threads}, {count} * (thread + 1) // {threads}"


def _part(layout: LayerLayout, columns: int, *, few_rows: bool = False) -> list[str]:
    """Lines that say which part of a product over n steps this thread takes.

    That is `rows` rows from `first` on, of each step `own`, and `count` columns from `column` on. Threads that share
    rows split the columns where these come out even in groups of 4 or rows are few, and otherwise the rows of all
    steps, in whole tiles.
    """
    lines = [f"first, own = 0, {own_rows(layout)}", f"rows, column, count = n * own, 0, {columns}"]
    if layout.split == "rows":
        return lines
    threads, groups = layout.threads, -(-columns // 4)
    lines.append(f"thread = {field(layout, 'thread')}")
    if groups % threads and not few_rows:
        return lines + part_of_rows(threads)
    lines += [f"first_group, last_group = {part_of(groups, threads)}", "column = first_group * 4"]
    return [*lines, f"count = min({columns}, last_group * 4) - column"]


def _own_columns(layout: LayerLayout, s: StageLayout) -> list[str]:
    """The same, where threads have gate buffers of their own: the columns of these, of all rows."""
    of_packed = f" + {s.packed_columns} * {field(layout, f'packed_{s.index}')}" if s.packed else ""
    return [
        f"first, own = 0, {own_rows(layout)}",
        f"rows, column = n * own, {field(layout, f'block_{s.index}')}",
        f"count = {len(s.stage.gates) * s.row_blocks}{of_packed}",
    ]


def _gap(slot_rows: int, row_bytes: int) -> str:
    """The bytes of a slot's rows that are not this thread's."""
    return f"({slot_rows} - own) * {row_bytes}"


def _weights(layout: LayerLayout, depth: int) -> str:
    """The arguments of `multiply` that say how packed weights lie."""
    strides = [layout.column_bytes(depth), *([] if layout.on_matrix_unit else [layout.width])]
    return ", ".join(map(str, strides))


def room_argument(layout: LayerLayout, depth: int) -> str:
    """The last arguments of the matrix unit's `multiply`, of rows of so many numbers or fewer."""
    return f", {matrix.rows_at_once(depth)}, {field(layout, 'room')}" if layout.on_matrix_unit else ""


def _pairs_arguments(layout: LayerLayout, s: StageLayout) -> str:
    """The last arguments of `multiply` in pairs, of the columns from `column` on."""
    products, exponent, room = (
        field(layout, name) for name in (f"products_x_{s.index}", f"exponent_x_{s.index}", "room")
    )
    return f", {products} + column * {layout.width}, {exponent}, {room}, f + {layout.fields['paired']}"


@cache
def project(layout: LayerLayout, s: StageLayout, inputs: Inputs) -> Kernel:
    """`project(f, t, slot, n)`: gate buffers of n steps from t = x . W_x + bias, or the bias alone without an input.

    Where steps project ahead, only those of the first of these batches of steps, and before them those that fill none.

    The first stage's also carries h from one window to the next, where an array has only a window's slots: the state
    after the last window becomes slot 0.
    """
    i, width, h = s.index, layout.width, layout.arrays["h"]
    depth = layout.spec.input_size if s.stage.takes_input else 0
    x_slot, gates_slot = ("t" if slots == "time" else "slot" for slots in (inputs.slots, s.gate_slots))
    at = partial(field, layout)
    in_pairs = layout.projects_in_pairs and depth > 0
    lines = _own_columns(layout, s) if s.own_gates else _part(layout, s.columns, few_rows=layout.projects_ahead)
    if i == 0 and h.slots == "window":
        lines += _carry(layout, h.row_bytes)
    if i == 0 and (h.slots == "window" or layout.projects_ahead):
        lines.append(f"put(f + {layout.fields['window']}, n)")
    x_rows, rows = inputs.slot_rows(layout), layout.slot_rows
    products = [
        f"x = {at('x')} + ({x_slot} * {x_rows} + first) * {inputs.row_bytes}",
        f"gates = {at(f'gates_{i}')} + ({gates_slot} * {rows} + first) * {s.row_bytes} + column * {width}",
        f"W_x, bias = {at(f'W_x_{i}')} + column * {layout.column_bytes(depth)}, {at(f'bias_{i}')} + column * {width}",
        f"multiply(rows, count, {depth}, x, W_x, {_weights(layout, depth)}, bias, 1, gates, {inputs.row_bytes}, "
        f"{s.row_bytes}, own, {_gap(x_rows, inputs.row_bytes)}, {_gap(rows, s.row_bytes)}"
        f"{room_argument(layout, depth)}{_pairs_arguments(layout, s) if in_pairs else ''})",
    ]
    if layout.projects_ahead and depth:
        lines.append(f"rows = min(rows, {layout.steps_ahead} + n % {layout.steps_ahead})")
    asks = in_pairs and s.columns * layout.column_bytes(depth) > ASKED_BYTES
    return product_kernel("project", layout, [*lines, *products], pairs_of=depth if in_pairs else 0, asks=asks)


def _carry(layout: LayerLayout, row_bytes: int) -> list[str]:
    """Lines that copy this thread's part of the state after the last window to slot 0, of rows of so many bytes."""
    state_bytes = layout.slot_rows * row_bytes
    begin, end = "0", f"own * {row_bytes}"
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
    """`d_inputs(f, t, slot, n)`: d_x of n steps from t = sum over stages of d_pre . W_x^T."""
    itemsize, width, at = layout.itemsize, layout.width, partial(field, layout)
    slot, d_x_rows = ("t", layout.batch) if by_time else ("slot", layout.slot_rows)
    lines = _part(layout, d_x_row // width)
    lines.append(f"out = {at('d_x')} + ({slot} * {d_x_rows} + first) * {d_x_row} + column * {width}")
    start = f"{at('zeros')}, 1"
    for s in (s for s in layout.stages if s.stage.takes_input):
        depth = s.row_bytes // itemsize
        lines += [
            f"gates = {at(f'gates_{s.index}')} + (t * {layout.slot_rows} + first) * {s.row_bytes}",
            f"multiply(rows, count, {depth}, gates, "
            f"{at(f'W_xT_{s.index}')} + column * {layout.column_bytes(depth)}, {_weights(layout, depth)}, {start}, "
            f"out, {s.row_bytes}, {d_x_row}, own, {_gap(layout.slot_rows, s.row_bytes)}, {_gap(d_x_rows, d_x_row)}"
            f"{room_argument(layout, depth)})",
        ]
        start = "out, 0"
    return product_kernel("d_inputs", layout, lines)


def product_kernel(
    name: str,
    layout: LayerLayout,
    lines: list[str],
    others: Mapping[str, Emit] | None = None,
    uses: Iterable[Kernel] = (),
    pairs_of: int = 0,
    asks: bool = False,
) -> Kernel:
    """The kernel (f, t, slot, n) of those lines, which may call `others` too, among them the kernels `uses`.

    pairs_of: the depth of products that `multiply` makes in pairs, or 0; asks: whether it asks for weights meanwhile.
    """
    multiplier = matrix.multiply() if layout.on_matrix_unit else multiply(layout.dtype, pairs_of, asks=asks)
    called = {"peek": peek, "put": put, "copy_bytes": copy_bytes, "multiply": multiplier.call, **(others or {})}
    return kernel(function(name, "f, t, slot, n", lines), name, called, [multiplier, *uses])

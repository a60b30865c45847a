"""The gradient of a stage's weights: one product, whose depth are all rows of all time steps.

Some of these at a time are added to all of a thread's part; both operands are packed for that in the order in which
tiles read them. Threads with batch rows of their own add up the gradient of those, if they are many and weights are
few, and read nothing that another one wrote; at the end of a backward pass these are added. Otherwise threads have rows
of the gradient of their own, since columns of a narrow layer come out uneven, and pack of x and the operand what these
need. On a matrix unit, whose tiles are larger, they have columns.
"""

from __future__ import annotations

from functools import cache, partial

from unrollbench.kernels import parts
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import Inputs, LayerLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.products import part_of, product_kernel, room_argument
from unrollbench.kernels.source import array, field, function, gates, own_rows
from unrollbench.kernels.stages import StageLayout
from unrollbench.kernels.tile import add_vector, copy_vectors
from unrollbench.kernels.transpose import transpose
from unrollbench.kernels.words import LINE_BYTES, peek, room

PANEL_ROWS = 256
"""Rows of gradients packed into contiguous panels, of which the second-level cache keeps the one that is multiplied."""
PANELS = 16
"""Groups of 4 columns that are packed together: what is read of a row is long enough then."""
ROWS_APART = 2 * PANEL_ROWS
"""Rows per thread, in all time steps, from which on it pays that each adds up its own, where that may be."""


def panel_bytes(layout: LayerLayout, s: StageLayout) -> int:
    """Bytes that a thread needs for both packed operands."""
    panels = min(PANELS, _groups(s)) * _each_bytes(layout)
    if layout.on_matrix_unit:
        panels = -(-_groups(s) // layout.threads) * 4 * parts.column_bytes(PANEL_ROWS)
    return panels + _packed_bytes(layout, s)


def _packed_bytes(layout: LayerLayout, s: StageLayout) -> int:
    """Bytes of one of them: x, the operand and a row of ones, which is there even where no bias is."""
    return (layout.kernel_rows(s) + 1) * _packed_row_bytes(layout)


def _packed_row_bytes(layout: LayerLayout) -> int:
    """Bytes from one of its rows to the next: no power of 2, by which lines would share a set of a cache."""
    return PANEL_ROWS * layout.itemsize + LINE_BYTES


def _each_bytes(layout: LayerLayout) -> int:
    """Bytes from one packed group of 4 columns to the next, which are no power of 2 either."""
    return (PANEL_ROWS + 1) * 4 * layout.width


def _groups(s: StageLayout) -> int:
    """The groups of 4 columns that there are; the last may have fewer."""
    return -(-s.columns // 4)


@cache
def weight_gradient(layout: LayerLayout, s: StageLayout, x_at: Inputs) -> Kernel:
    """`d_weights(f, t, slot, n)`: adds [x, operand, 1]^T . d_pre of n steps from t to the gradients of kernel and bias.

    They are one array, so that is one product. Each thread that adds up its own rows has such an array. The steps that
    end at the longest length come first: their sums replace what was there.
    """
    itemsize, x_row, x_slot = layout.itemsize, x_at.row_bytes, x_at.slot_rows(layout) * x_at.row_bytes
    operand_row, depth_bytes = layout.arrays[s.stage.operand].row_bytes, _packed_row_bytes(layout)
    inputs = layout.spec.input_size if s.stage.takes_input else 0
    kernel_rows, at = layout.kernel_rows(s), partial(field, layout)
    rows = kernel_rows + (s.stage.bias is not None)
    lines = [
        f"thread, latest = {at('thread')}, t + n == {at('limit')}",
        f"panels, packed = {at('panel')}, {at('panel')} + {panel_bytes(layout, s) - _packed_bytes(layout, s)}",
        f"gates, x, operand = {gates(layout, s)}, {at('x')} + t * {x_slot}, {array(layout, s.stage.operand)}",
        f"copy_bytes(packed + {kernel_rows * depth_bytes}, {at('ones')}, {PANEL_ROWS * itemsize})",
        *_share(layout, s, rows),
        f"of_x, past_x = min(first_row, {inputs}), min(last_row, {inputs})",
        f"of_operand, past_operand = first_row - of_x, min(last_row, {kernel_rows}) - past_x",
        *_lists(layout, s, x_at),
        f"for first in range(0, n * own, {PANEL_ROWS}):",
        f"    depth, replaces = min({PANEL_ROWS}, n * own - first), latest and first == 0",
        *_numbered(layout),
        f"    transpose(depth, past_x - of_x, x + of_x * {itemsize}, {x_row}, of_x_rows, "
        f"packed + of_x * {depth_bytes}, {depth_bytes})",
        f"    transpose(depth, past_operand - of_operand, operand + of_operand * {itemsize}, {operand_row}, "
        f"of_operand_rows, packed + ({inputs} + of_operand) * {depth_bytes}, {depth_bytes})",
    ]
    transposer = transpose(layout.dtype)
    lists = room(_listed(layout) * (1 + layout.own_slots))
    called, uses = {"transpose": transposer.call, "numbered": lists}, [transposer]
    if layout.on_matrix_unit:
        lines += _on_matrix_unit(layout, s, rows)
        called, uses = called | {"split_columns": parts.split_columns().call}, [*uses, parts.split_columns()]
    else:
        lines += _on_vector_unit(layout, s)
        called |= {"copy_4": copy_vectors(layout.dtype, 4)}
    return product_kernel("d_weights", layout, lines, called, uses)


def _share(layout: LayerLayout, s: StageLayout, rows: int) -> list[str]:
    """Lines that say what a thread adds up, and return where that is nothing.

    first_row, last_row: of the gradient; first_group, last_group: of its columns, on a matrix unit; own_at, own: the
    first of the batch rows that it adds up, and how many; sums: where the gradient of all rows begins, or of its own.
    """
    at, part = partial(field, layout), part_of(rows, layout.threads)
    lines = [f"own_at, own, sums = 0, {layout.batch}, {at(f'd_kernel_{s.index}')}"]
    if layout.on_matrix_unit:
        part = part_of(_groups(s), layout.threads)
        lines.append(f"first_row, last_row, first_group, last_group = 0, {rows}, {part}")
        return [*lines, "if first_group == last_group:", "    return"]
    lines.append(f"first_row, last_row = {part}")
    if layout.sums_apart:
        lines += [
            f"if {apart(layout, at('limit'))}:",
            f"    own_at, own, first_row, last_row = {at('row')}, {own_rows(layout)}, 0, {rows}",
            f"    sums += thread * {at('sums_bytes')}",
        ]
    return [*lines, "if first_row == last_row:", "    return"]


def apart(layout: LayerLayout, limit: str) -> str:
    """The condition that there are rows enough in all time steps for threads to add up their own."""
    return f"{limit} * {layout.batch} >= {ROWS_APART * layout.threads}"


def _listed(layout: LayerLayout) -> int:
    """Rows that a list has room for: those that are added up at once, and those to ask for."""
    return PANEL_ROWS + layout.lanes


def _lists(layout: LayerLayout, s: StageLayout, x_at: Inputs) -> list[str]:
    """Lines that name two lists of rows, and which of them x and the operand have.

    Rows are counted from this thread's first one on: `numbers` in what callers see, `own_numbers` in the rest, which is
    the same where threads have no slots of their own.
    """
    lines = [f"numbers, mine = numbered(), {field(layout, 'row')}"]
    if not layout.own_slots:
        return [*lines, "own_numbers, of_x_rows, of_operand_rows = numbers, numbers, numbers"]
    lines += [
        f"own_numbers, places = numbers + {8 * _listed(layout)}, {field(layout, 'places')}",
        f"of_x_rows, of_operand_rows = {'own_numbers' if x_at.own_slots else 'numbers'}, own_numbers",
    ]
    if s.stage.operand == "h":
        lines += [f"if {field(layout, 'top')}:", "    of_operand_rows = numbers"]
    return lines


def _numbered(layout: LayerLayout) -> list[str]:
    """Lines that list `depth` of the rows from the `first` on, and those to ask for, over all time steps."""
    own = f"        put(own_numbers + at, step * {layout.slot_rows} + peek(places, 8 * row))"
    return [
        "    step, row = first // own, own_at + first % own",
        f"    for at in range(0, 8 * (depth + {layout.lanes}), 8):",
        f"        put(numbers + at, step * {layout.batch} + row - mine)",
        *([own] if layout.own_slots else []),
        "        row += 1",
        "        if row == own_at + own:",
        "            step, row = step + 1, own_at",
    ]


@cache
def sum_gradients(layout: LayerLayout) -> Kernel:
    """`sum_gradients(f)`: adds to the first thread's weight gradients those of the other threads, of all layers."""
    at, width = partial(field, layout), layout.width
    lines = [
        f"thread, sums, sums_bytes = {at('thread')}, {at('sums')}, {at('sums_bytes')}",
        f"vectors = sums_bytes // {width}",
        f"first, last = {part_of('vectors', layout.threads)}",
        f"for other in range(1, {layout.threads}):",
        f"    for at in range(sums + first * {width}, sums + last * {width}, {width}):",
        "        add(at, at + other * sums_bytes)",
    ]
    called = {"peek": peek, "add": add_vector(layout.dtype)}
    return kernel(function("sum_gradients", "f", lines), "sum_gradients", called)


def _on_vector_unit(layout: LayerLayout, s: StageLayout) -> list[str]:
    """Lines that add `depth` rows from `first` on to a thread's rows, and pack some columns at a time."""
    width, at, depth_bytes = layout.width, partial(field, layout), _packed_row_bytes(layout)
    panel_row, each_bytes = 4 * width, _each_bytes(layout)
    return [
        f"    for group in range(0, {_groups(s)}, {PANELS}):",
        f"        end = min({_groups(s)}, group + {PANELS})",
        "        for r in range(depth):",
        f"            row, panel = gates + peek(own_numbers, 8 * r) * {s.row_bytes}, panels + r * {panel_row}",
        "            for one in range(group, end):",
        f"                if one * 4 + 4 <= {s.columns}:",
        f"                    copy_4(panel, row + one * {panel_row})",
        "                else:",
        f"                    copy_bytes(panel, row + one * {panel_row}, ({s.columns} - one * 4) * {width})",
        f"                panel += {each_bytes}",
        "        panel = panels",
        "        for one in range(group, end):",
        f"            count = min(4, {s.columns} - one * 4)",
        f"            out = sums + first_row * {s.row_bytes} + one * {panel_row}",
        f"            multiply(last_row - first_row, count, depth, packed + first_row * {depth_bytes}, panel, {width}, "
        f"{panel_row}, {at('zeros')} if replaces else out, replaces, out, {depth_bytes}, {s.row_bytes}, "
        "last_row - first_row, 0, 0)",
        f"            panel += {each_bytes}",
    ]


def _on_matrix_unit(layout: LayerLayout, s: StageLayout, rows: int) -> list[str]:
    """The same of a thread's columns of all rows, all of them at once."""
    width, at, depth_bytes = layout.width, partial(field, layout), _packed_row_bytes(layout)
    return [
        f"    column, out = first_group * 4, sums + first_group * {4 * width}",
        f"    count = min({s.columns}, last_group * 4) - column",
        f"    split_columns(depth, count, gates + (first - {at('row')}) * {s.row_bytes} + column * {width}, "
        f"{s.row_bytes}, {at('zeros')}, panels)",
        f"    multiply({rows}, count, depth, packed, panels, (depth + {parts.CHUNK - 1}) // {parts.CHUNK} * "
        f"{parts.column_bytes(1)}, {at('zeros')} if replaces else out, replaces, out, {depth_bytes}, "
        f"{s.row_bytes}, {rows}, 0, 0{room_argument(layout, PANEL_ROWS)})",
    ]

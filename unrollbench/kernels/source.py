"""Generated program text: pieces that kernels share, and turning text into Python functions.

The text of such a function is registered with `linecache`, so that tracebacks and `inspect.getsource` show it.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable
from textwrap import indent
from typing import Any

from unrollbench.kernels import pairs
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.partition import Partition
from unrollbench.kernels.stages import Group, StageLayout
from unrollbench.kernels.tile import Product

_numbers = itertools.count()


def define(text: str, name: str, namespace: dict[str, Any]) -> Any:
    """The Python function `name` of `text`, which may use what `namespace` holds."""
    filename = f"<unrollbench {name} {next(_numbers)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope = dict(namespace)
    exec(compile(text, filename, "exec"), scope)
    return scope[name]


def function(name: str, arguments: str, lines: Iterable[str]) -> str:
    """The text of a function."""
    return f"def {name}({arguments}):\n" + indent("\n".join(lines), "    ") + "\n"


def field(layout: LayerLayout, name: str) -> str:
    """An expression for a frame field."""
    return f"peek(f, {layout.fields[name]})"


def slot(slots: str, slot_bytes: int | str, after: bool = False) -> str:
    """What to add to a buffer's address to get the slot of this step, or with `after` the one after it."""
    index = {"time": "t", "window": "s", "two": "t"}.get(slots)
    if index is None:
        return ""
    index = f"({index} + 1)" if after else index
    return f" + {f'({index} & 1)' if slots == 'two' else index} * {slot_bytes}"


def array(layout: LayerLayout, name: str, after: bool = False) -> str:
    """The address of an array at this step: the state before it, or with `after` past it; temporaries have but one.

    A slot of h has other sizes in the top layer, which shares its kernels with those below, so the frame tells it.
    """
    a = layout.arrays[name]
    slot_bytes = field(layout, "h_slot") if name == "h" else layout.slot_rows * a.row_bytes
    return field(layout, name) + slot(a.slots, slot_bytes, after and a.is_state)


def gates(layout: LayerLayout, s: StageLayout) -> str:
    """The address of a stage's gate buffer at this step."""
    return field(layout, f"gates_{s.index}") + slot(s.gate_slots, layout.slot_rows * s.row_bytes)


def head(layout: LayerLayout) -> list[str]:
    """A step's first lines: nothing is computed past the longest length."""
    lengths, top = field(layout, "lengths"), field(layout, "top")
    return [f"if t >= {field(layout, 'limit')}:", "    return", f"lengths, top = {lengths}, {top}"]


def assigned(s: StageLayout, addresses: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Lines that compute a stage's addresses once per step, and address -> the name to pass it on by."""
    names = {name: f"{name}_{s.index}" for name in addresses}
    return [f"{names[name]} = {value}" for name, value in addresses.items()], names


def tiles(
    layout: LayerLayout,
    prefix: str,
    index: int,
    groups: Partition,
    body: Callable[[int, Group], list[str]],
    each_group: Iterable[str] = (),
    most: str = "",
) -> list[str]:
    """Loops over this thread's groups of unit blocks and, inside, its tiles of rows; body(rows, group) is one tile.

    block and row are the tile's first unit block and row, which is counted from this thread's first one. Groups are
    walked to and fro from one time step to the next (turn is 1 or -1): the weights that were read last are read first,
    while a cache that cannot hold all of them still has them. each_group: lines for each group; most: a variable that
    says how many groups to take, and is then less by those.
    """
    lines = [f"first_block = {field(layout, f'{prefix}block_{index}')}", "turn = 1 - 2 * (t & 1)"]
    for size, kind in groups.sizes:
        lines.append(f"groups = {field(layout, f'{prefix}groups_{kind}_{index}')}")
        lines.append("block = first_block if turn > 0 else first_block + (groups - 1) * " + str(size))
        count = f"min(groups, {most})" if most else "groups"
        lines += [f"for _ in range({count}):", *(f"    {line}" for line in each_group)]
        lines += [*_row_tiles(layout, Group(size), body), f"    block += turn * {size}"]
        lines.append(f"first_block += groups * {size}")
        lines += [f"{most} = {most} - {count}"] if most else []
    return lines


def packed_tiles(layout: LayerLayout, s: StageLayout, body: Callable[[int, Group], list[str]]) -> list[str]:
    """A loop over the tiles of rows of the block whose gates are packed, if there is one and this thread has it."""
    if not s.packed:
        return []
    lines = [f"if {field(layout, f'packed_{s.index}')}:", f"    block = {s.whole}"]
    return lines + _row_tiles(layout, Group(1, packed=True), body)


def _row_tiles(layout: LayerLayout, group: Group, body: Callable[[int, Group], list[str]]) -> list[str]:
    """The body of a loop or condition: this thread's tiles of rows."""
    lines = ["    row = 0", *(["    tile = 0"] if layout.on_matrix_unit else [])]
    for rows, row_kind in layout.rows.sizes:
        if layout.on_matrix_unit:
            lines.append(f"    configure({rows})")
        lines.append(f"    for _ in range({field(layout, f'row_tiles_{row_kind}')}):")
        lines += [f"        {line}" for line in body(rows, group)]
        lines.append(f"        row += {rows}")
        lines += ["        tile += 1"] if layout.on_matrix_unit else []
    return lines


def cut(layout: LayerLayout, rows: str, row_bytes: int, depth: int, offset: int = 0) -> list[str]:
    """Lines that cut this thread's rows of so many numbers into parts for the matrix unit, if there is one.

    They lie `offset` bytes into this thread's room, tile after tile; `cut_tile` says where.
    """
    if not layout.on_matrix_unit:
        return []
    lines = [f"row, room = 0, {field(layout, 'room')}", f"place = room + {offset}"]
    for size, kind in layout.rows.sizes:
        lines += [
            f"for _ in range({field(layout, f'row_tiles_{kind}')}):",
            f"    split({size}, {depth}, {rows} + row * {row_bytes}, {row_bytes}, place)",
            f"    row, place = row + {size}, place + {layout.cut_bytes(depth)}",
        ]
    return lines


def pair(layout: LayerLayout, s: StageLayout, products: Iterable[tuple[str, str, Product]]) -> list[str]:
    """Lines that scale this thread's rows of what a stage multiplies in pairs, in its room.

    products: name, address of the operand, and product. paired: whether all rows allow it.
    """
    if not layout.steps_in_pairs:
        return []
    lines = ["unfit = 0"]
    for name, operand, product in products:
        if product.depth >= pairs.LEAST_DEPTH:
            row, row_bytes = f"{operand} + number * {product.a_row}", pairs.row_bytes(layout.dtype, product.depth)
            place = f"{field(layout, 'room')} + {layout.scaled_at(name)}"
            exponent = (
                f"{field(layout, f'exponent_{name}_{s.index}')} if end >= {pairs.LEAST_ROWS} else {pairs.NO_PAIRS}"
            )
            lines += pairs.scaling("end", product.depth, row, exponent, place, row_bytes)
    return lines + pairs.counting(f"f + {layout.fields['paired']}")


def cut_tile(layout: LayerLayout, depth: int, offset: int = 0) -> str:
    """Where the rows of a tile lie that `cut` has cut."""
    return f"room + {offset} + tile * {layout.cut_bytes(depth)}"


def following_weights(
    layout: LayerLayout, weights: str, rows: int, group: Group, columns: int, column_bytes: int
) -> list[str]:
    """A tile's two arguments that say which weights of the next group of blocks it asks for meanwhile, if it does.

    Each tile of rows asks for one column, or an even part of one if there are tiles enough: what is asked for too fast
    keeps the core from what it needs at once. Then the stride is 0 and it asks for nothing new.
    """
    if not layout.asks(rows, group):
        return []
    tiles = min(sum(share[1:]) for share in layout.rows.shares)
    parts = 1 << (max(1, tiles // columns).bit_length() - 1)
    index = f"row // {rows}"
    start = f"{weights} + (block + turn * {group.blocks}) * {columns // group.blocks * column_bytes}"
    return [
        f"{start} + {index} * {column_bytes // parts}",
        f"{layout.width // parts} * ({index} < {columns * parts})",
    ]


def share(layout: LayerLayout, s: StageLayout) -> list[str]:
    """Expressions for all of this thread's part of a stage: rows, first unit block, whole unit blocks."""
    blocks = _sum(layout, s.groups, f"groups_{{}}_{s.index}")
    return [own_rows(layout), field(layout, f"block_{s.index}"), blocks]


def own_rows(layout: LayerLayout) -> str:
    """An expression for how many rows this thread has."""
    return _sum(layout, layout.rows, "row_tiles_{}")


def _sum(layout: LayerLayout, groups: Partition, name: str) -> str:
    return " + ".join(f"{size} * {field(layout, name.format(kind))}" for size, kind in groups.sizes) or "0"


def arrive(layout: LayerLayout) -> str:
    """A line that tells the other threads that this one has come there; `meet` waits for all of them."""
    return f"arrive({field(layout, 'arrivals')}, {field(layout, 'thread')})"


def meet(layout: LayerLayout) -> str:
    """A line that waits until all threads have arrived as often as this one."""
    return f"meet({field(layout, 'arrivals')}, {field(layout, 'thread')}, {layout.threads})"


def barrier(layout: LayerLayout) -> list[str]:
    """A wait for the other threads, where they share rows."""
    return [wait(layout)] if layout.split == "units" else []


def wait(layout: LayerLayout) -> str:
    """A line that waits until all threads have come there."""
    return f"barrier({field(layout, 'arrivals')}, {field(layout, 'thread')}, {layout.threads})"

"""Generated program text: pieces that kernels share, and turning text into functions.

Text is registered with `linecache`, so that tracebacks and `inspect.getsource` show it.
"""

from __future__ import annotations

import itertools
import linecache
import re
from collections.abc import Callable, Iterable
from textwrap import indent
from typing import Any

from unrollbench.kernels.layout import LayerLayout, Partition, StageLayout

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


def slot(layout: LayerLayout, slots: str, row_bytes: int, after: bool = False) -> str:
    """What to add to a buffer's address to get the slot of this step, or with `after` the one after it."""
    index = {"time": "t", "window": "s", "single": ""}[slots]
    if not index:
        return ""
    return f" + ({index} + 1) * {layout.batch * row_bytes}" if after else f" + {index} * {layout.batch * row_bytes}"


def array(layout: LayerLayout, name: str, after: bool = False) -> str:
    """The address of an array at this step: the state before it, or with `after` past it; temporaries have but one."""
    a = layout.arrays[name]
    return field(layout, name) + slot(layout, a.slots, a.row_bytes, after and a.is_state)


def row_of(layout: LayerLayout, name: str) -> str:
    """Where the unit of an array lies, in the equations' loop: its offset, and the stride to the next row's."""
    row_bytes = layout.arrays[name].row_bytes
    return f"each_row * {row_bytes} + unit_at, {row_bytes}"


def gates(layout: LayerLayout, s: StageLayout) -> str:
    """The address of a stage's gate buffer at this step."""
    return field(layout, f"gates_{s.index}") + slot(layout, layout.gate_slots, s.row_bytes)


def begin(layout: LayerLayout) -> list[str]:
    """A step's first lines: nothing is computed past the longest length."""
    return [f"if t >= {field(layout, 'limit')}:", "    return", f"lengths = {field(layout, 'lengths')}"]


def assigned(s: StageLayout, addresses: dict[str, str]) -> tuple[list[str], str]:
    """Lines that compute a stage's addresses once per step, and the names to pass them on by."""
    names = {name: f"{name}_{s.index}" for name in addresses}
    return [f"{names[name]} = {value}" for name, value in addresses.items()], ", ".join(names.values())


def tiles(
    layout: LayerLayout, prefix: str, index: int, groups: Partition, body: Callable[[int, int], list[str]]
) -> list[str]:
    """Loops over this thread's groups of unit blocks and, inside, its tiles of rows; body(rows, blocks) is one tile.

    block and row are the tile's first unit block and row, first_row is this thread's first. Groups are walked to and
    fro from one time step to the next (turn is 1 or -1): the weights that were read last are read first, while a cache
    that cannot hold all of them still has them.
    """
    lines = [f"first_block, first_row = {field(layout, f'{prefix}block_{index}')}, {field(layout, 'row')}"]
    lines.append("turn = 1 - 2 * (t & 1)")
    for size, kind in groups.sizes:
        lines.append(f"groups = {field(layout, f'{prefix}groups_{kind}_{index}')}")
        lines.append("block = first_block if turn > 0 else first_block + (groups - 1) * " + str(size))
        lines += ["for _ in range(groups):", "    row = first_row"]
        for rows, row_kind in layout.rows.sizes:
            lines.append(f"    for _ in range({field(layout, f'row_tiles_{row_kind}')}):")
            lines += [f"        {line}" for line in body(rows, size)]
            lines.append(f"        row += {rows}")
        lines += [f"    block += turn * {size}", f"first_block += groups * {size}"]
    return lines


def following_weights(layout: LayerLayout, rows: int, blocks: int, columns: int, column_bytes: int) -> list[str]:
    """A tile's two arguments that say which weights of the next group of blocks it asks for meanwhile.

    Each tile of rows asks for one column, until all are asked for; then the stride is 0 and it asks for nothing new.
    """
    index = f"(row - first_row) // {rows}"
    start = f"W + (block + turn * {blocks}) * {columns // blocks * column_bytes}"
    return [f"{start} + {index} * {column_bytes}", f"{layout.width} * ({index} < {columns})"]


def share(layout: LayerLayout, s: StageLayout) -> list[str]:
    """Expressions for all of this thread's part of a stage: first row, rows, first unit block, unit blocks."""
    rows = _sum(layout, layout.rows, "row_tiles_{}")
    blocks = _sum(layout, s.groups, f"groups_{{}}_{s.index}")
    return [field(layout, "row"), rows, field(layout, f"block_{s.index}"), blocks]


def _sum(layout: LayerLayout, groups: Partition, name: str) -> str:
    return " + ".join(f"{size} * {field(layout, name.format(kind))}" for size, kind in groups.sizes)


def barrier(layout: LayerLayout) -> list[str]:
    """A wait for the other threads, where they share rows."""
    return [f"barrier(f, {layout.threads})"] if layout.split == "units" else []


class Gates:
    """Which arrays of a stage are gates of an earlier stage, and where they are read."""

    def __init__(self, layout: LayerLayout) -> None:
        self.owners = {name: s for s in layout.stages for name in s.stage.exposed}

    def addresses(self, layout: LayerLayout, s: StageLayout) -> dict[str, str]:
        """Argument name -> address expression of the gate buffers that the stage reads from."""
        return {f"gates_of_{n}": gates(layout, self.owners[n]) for n in s.stage.reads if n in self.owners}

    def read(self, name: str) -> str:
        """Where one unit of an earlier gate lies, in the equations' loop, and the stride to the next row."""
        owner = self.owners[name]
        offset = owner.stage.gates.index(name) * owner.gate_bytes
        return f"gates_of_{name} + each_row * {owner.row_bytes} + {offset} + unit_at, {owner.row_bytes}"


LIVE_CYCLES = {1: 110, 2: 150, 3: 204, 4: 268}
"""Cycles that the equations of so many rows take as one value, measured with an LSTM. Each function is a chain of some
20 instructions that wait for each other, and a core looks about 100 ahead: it must find several chains side by side."""


def rows_at_once(layout: LayerLayout) -> int:
    """How many rows of a tile the equations treat as one value: what suits the sizes of this layer's tiles."""
    tiles = [sum(share[1] for share in layout.rows.shares), sum(share[2] for share in layout.rows.shares)]
    sizes = (layout.rows.big, layout.rows.big - 1)

    def cycles(at_once: int) -> int:
        return sum(
            n * (size // at_once * LIVE_CYCLES[at_once] + size % at_once * LIVE_CYCLES[1])
            for n, size in zip(tiles, sizes, strict=True)
        )

    return min((count for count in LIVE_CYCLES if count <= layout.rows.big), key=cycles)


def over_tile(layout: LayerLayout, s: StageLayout, live: list[str], finished: list[str], at_once: int = 1) -> list[str]:
    """Loops over the rows and unit blocks of a tile: `live` for rows within their length, `finished` for the others.

    `live` is text for one row, with `load`, `store` and `zero`; the same text serves `at_once` live rows by the
    functions of those names and a "s" at the end, so long as it adds nothing up over rows.
    """
    all_live = " and ".join(f"t < peek(lengths, 8 * (each_row + {index}))" for index in range(at_once))
    several = [re.sub(r"\b(load|store|zero)\(", r"\1s(", line) for line in live]
    lines = ["each_row = row"]
    if at_once > 1:
        lines.append(f"while each_row + {at_once} <= row + rows and {all_live}:")
        lines += [*_over_blocks(layout, s, several, "    "), f"    each_row += {at_once}"]
    lines += ["while each_row < row + rows:"]
    lines += ["    if t < peek(lengths, 8 * each_row):", *_over_blocks(layout, s, live, "        ")]
    if finished:
        lines += ["    else:", *_over_blocks(layout, s, finished, "        ")]
    return [*lines, "    each_row += 1"]


def _over_blocks(layout: LayerLayout, s: StageLayout, lines: list[str], margin: str) -> list[str]:
    """A loop over the unit blocks of the rows from each_row on."""
    found = [f"unit_at = block * {layout.width}", f"gate_at = gates + each_row * {s.row_bytes} + unit_at"]
    found += ["for _ in range(blocks):"]
    found += [f"    {line}" for line in (*lines, f"unit_at += {layout.width}", f"gate_at += {layout.width}")]
    return [margin + line for line in found]

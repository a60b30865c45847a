"""Generated program text: pieces that kernels share, and turning text into functions.

Text is registered with `linecache`, so that tracebacks and `inspect.getsource` show it.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable
from textwrap import indent
from typing import Any

from unrollbench.kernels.layout import LayerLayout, StageLayout

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


def gates(layout: LayerLayout, s: StageLayout) -> str:
    """The address of a stage's gate buffer at this step."""
    return field(layout, f"gates_{s.index}") + slot(layout, layout.gate_slots, s.row_bytes)


def tiles(layout: LayerLayout, prefix: str, index: int, big: int, body: Callable[[int, int], list[str]]) -> list[str]:
    """Loops over this thread's groups of unit blocks and, inside, its tiles of rows; body(rows, blocks) is one tile.

    block and row are the tile's first unit block and row.
    """
    lines = [f"block = {field(layout, f'{prefix}block_{index}')}"]
    for size, kind in _sizes(big):
        lines.append(f"for _ in range({field(layout, f'{prefix}groups_{kind}_{index}')}):")
        lines.append(f"    row = {field(layout, 'row')}")
        for rows, row_kind in _sizes(layout.rows.big):
            lines.append(f"    for _ in range({field(layout, f'row_tiles_{row_kind}')}):")
            lines += [f"        {line}" for line in body(rows, size)]
            lines.append(f"        row += {rows}")
        lines.append(f"    block += {size}")
    return lines


def _sizes(big: int) -> list[tuple[int, str]]:
    return [(size, kind) for size, kind in ((big, "big"), (big - 1, "small")) if size]


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
        """The address of one unit of an earlier gate, in the equations' loop."""
        owner = self.owners[name]
        offset = owner.stage.gates.index(name) * owner.gate_bytes
        return f"gates_of_{name} + each_row * {owner.row_bytes} + {offset} + unit_at"


def over_tile(layout: LayerLayout, s: StageLayout, live: list[str], finished: list[str]) -> list[str]:
    """Loops over the rows and unit blocks of a tile: `live` for rows within their length, `finished` for the others."""
    advance = [f"unit_at += {layout.width}", f"gate_at += {layout.width}"]
    lines = ["for each_row in range(row, row + rows):", f"    unit_at = block * {layout.width}"]
    lines += [f"    gate_at = gates + each_row * {s.row_bytes} + unit_at"]
    lines += ["    if t < peek(lengths, 8 * each_row):", "        for _ in range(blocks):"]
    lines += [f"            {line}" for line in (*live, *advance)]
    if finished:
        lines += ["    else:", "        for _ in range(blocks):"]
        lines += [f"            {line}" for line in (*finished, *advance)]
    return lines

"""What a pass begins with: the state before the first step, or the gradients before the last one.

Each thread writes the rows that it has, or its part of them where threads share rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.products import part_of
from unrollbench.kernels.source import field, function, own_rows
from unrollbench.kernels.words import clear_bytes, copy_bytes, peek, put


@cache
def begin(layout: LayerLayout) -> Kernel:
    """`begin(f)`: slot 0 of every state array has the initial state, or zeros, and no window has run."""
    lines = [*_rows(layout), f"put(f + {layout.fields['window']}, 0)"]
    for name in layout.cell.state:
        lines += _given(layout, name, name)
    return _kernel("begin", lines)


@cache
def begin_backward(layout: LayerLayout) -> Kernel:
    """`begin_backward(f)`: gradients of the state are the final state's, or zero, and so is all that is added up in.

    Those are the gradients of temporaries, of gates that later stages read, and of diagonals.
    """
    lines = _rows(layout)
    for name in layout.cell.state:
        lines += _given(layout, f"d_{name}", name)
    widths = {f"d_{name}": layout.arrays[name].row_bytes for name in layout.cell.temporaries}
    widths |= {f"d_{name}": s.gate_bytes for s in layout.stages for name in s.stage.exposed}
    lines += [f"clear_bytes({field(layout, name)} + first * {width}, own * {width})" for name, width in widths.items()]
    for s in layout.stages:
        row_bytes = layout.padded(s.units) * layout.itemsize
        lines += [f"clear_bytes({field(layout, f'd_{name}')}, {row_bytes})" for name in s.stage.diagonals]
    return _kernel("begin_backward", lines)


def _rows(layout: LayerLayout) -> list[str]:
    """Lines that say which rows this thread writes: `own` from `first` on."""
    if layout.split == "rows":
        return [f"first, own = 0, {own_rows(layout)}"]
    part = part_of(layout.batch, layout.threads)
    return [f"thread = {field(layout, 'thread')}", f"first, past = {part}", "own = past - first"]


def _given(layout: LayerLayout, target: str, name: str) -> list[str]:
    """Lines that write to the field `target` what field `given_...` points at, rows of the size of the array `name`."""
    row_bytes, size_bytes = layout.arrays[name].row_bytes, layout.size(name) * layout.itemsize
    return [
        f"target, given = {field(layout, target)} + first * {row_bytes}, {field(layout, f'given_{target}')}",
        "if given == 0:",
        f"    clear_bytes(target, own * {row_bytes})",
        "else:",
        f"    given += first * {size_bytes}",
        "    for _ in range(own):",
        f"        copy_bytes(target, given, {size_bytes})",
        f"        clear_bytes(target + {size_bytes}, {row_bytes - size_bytes})",
        f"        target, given = target + {row_bytes}, given + {size_bytes}",
    ]


def _kernel(name: str, lines: Iterable[str]) -> Kernel:
    called = {"peek": peek, "put": put, "copy_bytes": copy_bytes, "clear_bytes": clear_bytes}
    return kernel(function(name, "f", lines), name, called)

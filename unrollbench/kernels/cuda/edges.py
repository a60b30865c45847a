"""Text of what surrounds a pass: initial state, transposes of batch-major arrays, zeros past the longest length.

Each is one launch over as many threads as there are; no element is touched by two threads, or read by one that another
writes. It moves each element once and computes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from unrollbench.kernels.cuda.text import ARGUMENTS, Places, limit
from unrollbench.kernels.cuda.tile import indented
from unrollbench.kernels.cuda.tiling import Block
from unrollbench.kernels.source import function


def _function(name: str, block: Block, lines: Sequence[str]) -> str:
    thread = f"(cuda.threadIdx.z * {block.units} + cuda.threadIdx.y) * {block.lanes} + cuda.threadIdx.x"
    prologue = [
        f"place = (cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x) * {block.threads} + {thread}",
        f"stride = cuda.gridDim.x * cuda.gridDim.y * {block.threads}",
    ]
    return function(name, ARGUMENTS, [*prologue, *lines])


def _fill(to: str, elements: int, source: str | None) -> list[str]:
    """to[0:elements] = source[0:elements], or zero."""
    value = "ZERO" if source is None else "m[at(source + e)]"
    addresses = [f"to = {to}"] + ([] if source is None else [f"source = {source}"])
    return [*addresses, f"for e in range(place, {elements}, stride):", f"    m[at(to + e)] = {value}"]


def _transpose(to: str, source: str, size: int, batch: int, to_batch_major: bool) -> list[str]:
    """Between (t, batch, size) and (batch, t, size), where t is the number of steps; zero past the longest length."""
    by_time, by_row = f"(step * {batch} + own_row) * {size} + unit", f"(own_row * t + step) * {size} + unit"
    first, second = (by_row, by_time) if to_batch_major else (by_time, by_row)
    # Neighbouring threads write neighbouring elements, and read neighbours within a row.
    split = [f"unit, own_row, step = e % {size}, e // {size} % {batch}, e // {size * batch}"]
    if to_batch_major:
        split = [f"unit, step, own_row = e % {size}, e // {size} % t, e // ({size} * t)"]
    return [
        f"to, source = {to}, {source}",
        f"for e in range(place, t * {batch * size}, stride):",
        *indented(split),
        "    value = ZERO",
        f"    if step < {limit()}:",
        f"        value = m[at(source + {second})]",
        f"    m[at(to + {first})] = value",
    ]


def _zero_past_limit(to: str, elements: int, after: int) -> list[str]:
    """Slots from the longest length (plus `after`) to t (plus `after`) are zero."""
    return [
        f"to = {to}",
        f"for e in range(({limit()} + {after}) * {elements} + place, (t + {after}) * {elements}, stride):",
        "    m[at(to + e)] = ZERO",
    ]


def begin_forward(layers: Sequence[Places], block: Block, time_major: bool) -> str:
    """`begin_forward`: slot 0 of every state array is the initial state; batch-major inputs are transposed. t is T."""
    lines = []
    for places in layers:
        for name in places.layout.cell.state:
            a = places.layout.arrays[name]
            to = places.field(name) + (" + base" if a.slots == "window" else "")
            lines += _fill(to, places.layout.batch * a.size, places.field(f"initial_{name}"))
    if not time_major:
        bottom = layers[0]
        size, batch = bottom.layout.spec.input_size, bottom.layout.batch
        lines += _transpose(bottom.field("x"), bottom.field("batch_x"), size, batch, False)
    return _function("begin_forward", block, lines)


def end_forward(layers: Sequence[Places], block: Block, time_major: bool) -> str:
    """`end_forward`: outputs past the longest length are zero; batch-major ones are made. t is T."""
    top = layers[-1]
    size, batch = top.layout.spec.output_size, top.layout.batch
    if time_major:
        return _function("end_forward", block, _zero_past_limit(top.field("h"), batch * size, 1))
    source = f"{top.field('h')} + {batch * size}"
    return _function("end_forward", block, _transpose(top.field("batch_out"), source, size, batch, True))


def begin_backward(layers: Sequence[Places], block: Block, time_major: bool) -> str:
    """`begin_backward`: gradients of the state are the final state's, those of temporaries zero. t is T."""
    lines = []
    for places in layers:
        layout = places.layout
        for name, a in layout.arrays.items():
            given = places.field(f"given_{name}") if a.is_state else None
            lines += _fill(places.field(f"d_{name}"), layout.batch * a.size, given)
        for s in layout.stages:
            rows = (*(f"d_{name}" for name in s.stage.exposed), *(f"rows_d_{name}" for name in s.stage.diagonals))
            for name in rows:
                lines += _fill(places.field(name), layout.batch * s.units, None)
    if not time_major:
        top = layers[-1]
        size, batch = top.layout.spec.output_size, top.layout.batch
        lines += _transpose(top.field("d_out"), top.field("batch_d_out"), size, batch, False)
    return _function("begin_backward", block, lines)


def end_backward(layers: Sequence[Places], block: Block, time_major: bool) -> str:
    """`end_backward`: gradients of inputs past the longest length are zero; batch-major ones are made. t is T."""
    bottom = layers[0]
    size, batch = bottom.layout.spec.input_size, bottom.layout.batch
    if time_major:
        return _function("end_backward", block, _zero_past_limit(bottom.field("d_x"), batch * size, 0))
    return _function(
        "end_backward", block, _transpose(bottom.field("batch_d_x"), bottom.field("d_x"), size, batch, True)
    )


def carry(places: Places, block: Block) -> str | None:
    """`carry_<layer>`: slot 0 of every state array with windows is slot s of the window at base n; None without any."""
    lines = _windowed(places, lambda name: f"{places.field(name)} + base", "n")
    return _function(f"carry_{places.layout.index}", block, lines) if lines else None


def keep_state(layers: Sequence[Places], block: Block) -> str:
    """`keep_state`: the state in slot s of the window at base n, kept where no later window overwrites it."""
    lines = []
    for places in layers:
        lines += _windowed(places, lambda name, places=places: places.field(f"final_{name}"), "n")
    return _function("keep_state", block, lines)


def _windowed(places: Places, to, base: str) -> list[str]:
    lines = []
    for name in places.layout.cell.state:
        a = places.layout.arrays[name]
        if a.slots == "window":
            elements = places.layout.batch * a.size
            lines += _fill(to(name), elements, f"{places.field(name)} + {base} + s * {elements}")
    return lines

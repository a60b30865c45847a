"""Text of one layer's backward step: for each stage, last first, the equations' gradient and then the product's.

A buffer d_X per array X holds the gradient of the state after the step when the step begins and that of the state
before it when the step ends; between stages it collects the gradients of temporaries. A row past its length leaves its
buffers as they are, so the final state's gradient waits there until the row's last real step.
"""

from __future__ import annotations

from unrollbench.kernels.equations import Equations, Place, Touched
from unrollbench.kernels.expression import Expression, uses
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.places import Places, exposed
from unrollbench.kernels.source import (
    array,
    assigned,
    barrier,
    cut,
    cut_tile,
    field,
    following_weights,
    function,
    gates,
    head,
    share,
    tiles,
)
from unrollbench.kernels.stages import Group, StageLayout
from unrollbench.kernels.walk import MOST_ROWS, Walk


def step(layout: LayerLayout) -> str:
    """`step(f, t, s)`: gate buffers of step t become gradients of pre-activations, d_ buffers those of step t - 1."""
    lines = head(layout)
    for s in reversed(layout.stages):
        known = addresses(layout, s)
        named, passed = assigned(s, {name: known[name] for name in gradients(layout, s).addresses})
        lines += [*named, f"rows, block, blocks = {', '.join(share(layout, s))}"]
        arguments = f"{', '.join(passed.values())})"
        if s.whole:
            lines.append(f"gradients_{s.index}(t, lengths, 0, rows, block, blocks, {arguments}")
        if s.packed:
            lines.append(f"if {field(layout, f'packed_{s.index}')}:")
            lines.append(f"    gradients_{s.index}_packed(t, lengths, 0, rows, {s.whole}, 1, {arguments}")
        lines += barrier(layout)
        lines += [*_product(layout, s), *([] if layout.keeps_units else barrier(layout))]
    return function("step", "f, t, s", lines)


def _product(layout: LayerLayout, s: StageLayout) -> list[str]:
    """d_operand += d_pre . W_h^T, over all gates at once."""
    row_bytes = layout.arrays[s.stage.operand].row_bytes
    depth = s.row_bytes // layout.itemsize
    panel = layout.column_bytes(depth)

    def tile(rows: int, group: Group) -> list[str]:
        out = f"d_operand + row * {row_bytes} + block * {layout.width}"
        operand = cut_tile(layout, depth) if layout.on_matrix_unit else f"gates_{s.index} + row * {s.row_bytes}"
        passed = [out, out, operand, f"W + block * {panel}"]
        passed += following_weights(layout, "W", rows, group, group.blocks, panel)
        return [f"tile_T{s.index}_{rows}x{group.name}({', '.join(passed)})"]

    lines = [f"d_operand, W = {field(layout, f'd_{s.stage.operand}')}, {field(layout, f'W_hT_{s.index}')}"]
    lines += cut(layout, f"gates_{s.index}", s.row_bytes, depth)
    return lines + tiles(layout, "operand_", s.index, s.operand_groups, tile)


def _is_output(s: StageLayout) -> bool:
    return "h" in s.stage.writes


def addresses(layout: LayerLayout, s: StageLayout) -> dict[str, str]:
    """Argument name -> address expression of everything the stage's gradient touches."""
    found = {"gates": gates(layout, s), **exposed(layout, s)}
    found |= {f"{n}_old": array(layout, n) for n in s.stage.reads if n in layout.arrays}
    found |= {f"{n}_new": array(layout, n, after=True) for n in s.stage.writes}
    found |= {n: field(layout, n) for n in s.stage.diagonals}
    found |= {
        f"d_{n}": field(layout, f"d_{n}")
        for n in (*s.stage.reads, *s.stage.writes, *s.stage.exposed, *s.stage.diagonals)
    }
    if _is_output(s):
        found["d_out"] = f"{field(layout, 'd_out')} + (t if top else s) * {field(layout, 'h_slot')}"
    return found


def rows_at_once(layout: LayerLayout, s: StageLayout) -> int:
    """How many rows the gradient of the equations takes at once: one where it adds something up over rows."""
    return 1 if s.stage.diagonals else min(MOST_ROWS, layout.batch)


def gradients(layout: LayerLayout, s: StageLayout, *, packed: bool = False) -> Walk:
    """`gradients_i`: the gradient of `forward.equations`. Gates become gradients of pre-activations."""
    stage, places = s.stage, Places(layout, s, packed=packed)
    loaded: dict[Place, Expression] = {}

    def load(place: Place) -> Expression:
        return loaded.setdefault(place, Expression())

    def gradient_of(name: str) -> Expression:
        value = load(places.gradient(name))
        return value + load(places.of("d_out", "h")) if name == "h" and _is_output(s) else value

    inputs = [load(place) for place in (*places.gates, *map(places.read, stage.reads))]
    inputs += [load(places.of(f"{name}_new", name)) for name in stage.writes]
    saved = [*loaded, *([places.of("d_out", "h")] if _is_output(s) else [])]
    inputs += [load(place) for place in places.diagonals]
    inputs += [gradient_of(name) for name in (*stage.exposed, *stage.writes)]
    names = (*stage.gates, *stage.reads, *stage.diagonals)
    results = dict(zip(names, stage.backward(*inputs), strict=True))
    stores = [(results[gate], place) for gate, place in zip(stage.gates, places.gates, strict=True)]
    replaced = {*stage.writes, *stage.exposed}
    for name in dict.fromkeys((*stage.reads, *stage.writes, *stage.exposed)):
        place = places.gradient(name)
        value = results[name] if name in stage.reads else 0
        stores.append((value if name in replaced else load(place) + value, place))
    for name in stage.diagonals:
        stores.append((load(places.gradient(name)) + results[name], places.gradient(name)))
    finished = Equations((), tuple((0, place) for place in places.gates))
    live = Equations(tuple((value, place) for place, value in loaded.items()), tuple(stores))
    used = uses(result for result, _ in stores)
    return Walk(
        layout, live, finished, touched=tuple(Touched(place, False) for place in saved if loaded[place] in used)
    )

"""Text of one stage of a forward step: the recurrent product of a tile, then the equations on that tile.

Per step and stage it reads the weights (from shared memory where they are resident), B x operand size of the operand,
B x G x units of the input's share, and writes B x units per array; 2 x B x units x G x operand size flops.
"""

from __future__ import annotations

from collections.abc import Sequence

from unrollbench.kernels.cuda import tile as tiles
from unrollbench.kernels.cuda.layout import LayerLayout, StageLayout
from unrollbench.kernels.cuda.text import ARGUMENTS, Places, limit
from unrollbench.kernels.cuda.tiling import Tile
from unrollbench.kernels.source import function


def operands(places: Places, s: StageLayout, resident: int | None) -> tiles.Operands:
    """The recurrent product of a stage."""
    return tiles.Operands(places.array(s.stage.operand), s.operand_size, places.field(f"W_f_{s.index}"), resident)


def stage(places: Places, s: StageLayout, tile: Tile, resident: int | None = None) -> str:
    """`forward_<layer>_<stage>`: gates and written arrays of time step t; nothing past the longest length."""
    layout = places.layout
    product = tiles.product(tile, operands(places, s, resident), s.units, layout.batch)
    pairs = tiles.over_pairs(
        tile, s.units, layout.batch, _ahead(layout, s), product, lambda sums: _row(layout, s, sums)
    )
    lines = tiles.prologue(tile.block, resident)
    lines.append(f"if t < {limit()}:")
    lines += tiles.indented(_addresses(places, s))
    lines += tiles.indented(tiles.over_tiles(tile, s.units, layout.batch, pairs))
    return function(f"forward_{layout.index}_{s.index}", ARGUMENTS, lines)


def _addresses(places: Places, s: StageLayout) -> list[str]:
    """First elements of all that the equations touch."""
    layout, stage = places.layout, s.stage
    owners = gate_owners(layout)
    found = {"gates": places.gates(s)} if layout.keeps_gates(s) else {}
    found |= {f"gates_of_{name}": places.gates(owners[name]) for name in stage.reads if name in owners}
    for name in dict.fromkeys((*stage.reads, *stage.writes)):
        if name in layout.arrays:
            found[f"{name}_old"] = places.array(name)
    found |= {f"{name}_new": places.array(name, after=True) for name in stage.writes}
    found |= {f"{name}_at": places.field(name) for name in stage.diagonals}
    if stage.bias is not None:
        found["bias"] = places.field(f"bias_{s.index}")
    return [f"{name} = {expression}" for name, expression in found.items()]


def gate_owners(layout: LayerLayout) -> dict[str, StageLayout]:
    """Gates that later stages read -> the stage that computes them."""
    return {name: s for s in layout.stages for name in s.stage.exposed}


def read(layout: LayerLayout, name: str) -> str:
    """One unit of an array that a stage reads: a gate of an earlier stage, or an array before the step."""
    owner = gate_owners(layout).get(name)
    if owner is None:
        return f"m[at({name}_old + each_row * {layout.arrays[name].size} + unit)]"
    offset = owner.stage.gates.index(name) * owner.units
    return f"m[at(gates_of_{name} + each_row * {owner.width} + {offset} + unit)]"


def _ahead(layout: LayerLayout, s: StageLayout) -> dict[str, tuple[str, str]]:
    """What one (row, unit) reads beside sums and diagonals: whether it is live, the input's share, biases, states."""
    stage = s.stage
    found = {"live": ("False", "t < lengths[at(each_row)]")}
    for index, name in enumerate(stage.gates):
        if stage.takes_input:
            found[f"{name}_x"] = ("ZERO", f"m[at(gates + each_row * {s.width} + {index * s.units} + unit)]")
        if stage.bias is not None:
            found[f"{name}_b"] = ("ZERO", f"w[at(bias + {index * s.units} + unit)]")
    return found | {f"{name}_0": ("ZERO", read(layout, name)) for name in stage.reads}


def _row(layout: LayerLayout, s: StageLayout, sums: Sequence[str]) -> list[str]:
    """What one (row, unit) does: the equations, or past the row's length the old state again."""
    past = _finished(layout, s)
    return [
        "if live:",
        *tiles.indented(_equations(layout, s, sums)),
        *(["else:", *tiles.indented(past)] if past else []),
    ]


def _equations(layout: LayerLayout, s: StageLayout, sums: Sequence[str]) -> list[str]:
    stage, lines = s.stage, []
    if layout.keeps_gates(s):
        lines.append(f"gate = gates + each_row * {s.width} + unit")
    for name, total in zip(stage.gates, sums, strict=True):
        terms = [total, *([f"{name}_x"] if stage.takes_input else []), *([f"{name}_b"] if stage.bias else [])]
        lines.append(f"{name}_p = {' + '.join(terms)}")
    lines += [f"{name}_w = w[at({name}_at + unit)]" for name in stage.diagonals]
    passed = (*(f"{n}_p" for n in stage.gates), *(f"{n}_0" for n in stage.reads), *(f"{n}_w" for n in stage.diagonals))
    results = [*(f"{name}_1" for name in stage.gates), *(f"{name}_2" for name in stage.writes)]
    lines.append(f"{', '.join(results)} = equations_{layout.index}_{s.index}({', '.join(passed)})")
    lines += [
        f"m[at(gate + {index * s.units})] = {name}_1"
        for index, name in enumerate(stage.gates)
        if layout.train or name in stage.exposed
    ]
    return lines + [f"m[at({n}_new + each_row * {layout.arrays[n].size} + unit)] = {n}_2" for n in stage.writes]


def _finished(layout: LayerLayout, s: StageLayout) -> list[str]:
    """For a row past its length: the old state again, a zero output at the top, zero temporaries for the gradient."""
    lines = []
    for name in s.stage.writes:
        a = layout.arrays[name]
        at = f"each_row * {a.size} + unit"
        if a.is_state and a.slots != "single":
            value = "ZERO" if layout.top and name == "h" else f"m[at({name}_old + {at})]"
            lines.append(f"m[at({name}_new + {at})] = {value}")
        elif not a.is_state and layout.train:
            lines.append(f"m[at({name}_new + {at})] = ZERO")
    return lines

"""Text of one stage of a backward step: the product that the next stage's gradients owe, then the equations' gradient.

A buffer d_X per array X holds the gradient of the state after the step when the step begins and that of the state
before it when the step ends; between stages it collects the gradients of temporaries. A row past its length leaves its
buffers as they are, so the final state's gradient waits there until the row's last real step.

The product of a stage's d_pre with W_h^T is made where it is next needed: with the gradient of the stage before it in
the chain, which of the first stage is the last one of time step t - 1. So a step needs one barrier of the grid per
stage. At a window's end `finish` makes the one that is left over.

Per step and stage it reads the weights, B x G x units of d_pre, and the saved activations, and writes d_pre; 2 x B x
units x G x operand size flops, as forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from unrollbench.errors import CaseError
from unrollbench.kernels.cuda import forward
from unrollbench.kernels.cuda import tile as tiles
from unrollbench.kernels.cuda.layout import LayerLayout, StageLayout
from unrollbench.kernels.cuda.text import ARGUMENTS, Places, limit
from unrollbench.kernels.cuda.tiling import Tile
from unrollbench.kernels.source import function


def successor(layout: LayerLayout, s: StageLayout) -> StageLayout:
    """The stage whose product this stage's gradient makes: the next one, or the first one of the next time step."""
    return layout.stages[(s.index + 1) % len(layout.stages)]


def operands(places: Places, source: StageLayout, later: bool, resident: int | None) -> tiles.Operands:
    """d_pre . W_h^T of a stage at this time step, or with `later` at the next one."""
    return tiles.Operands(places.gates(source, later), source.width, places.field(f"W_b_{source.index}"), resident)


def stage(places: Places, s: StageLayout, tile: Tile, resident: int | None = None) -> str:
    """`backward_<layer>_<stage>`: gates of step t become gradients of pre-activations, d_ buffers go a stage back.

    count: how many later steps this window has; with none, the next time step's product is not owed.
    """
    layout = places.layout
    source, last = successor(layout, s), s.index == len(layout.stages) - 1
    if source.operand_size != s.units:
        raise CaseError(
            f"cell {layout.cell.name!r}: stage {source.index} multiplies {source.stage.operand!r} of "
            f"{source.operand_size} units, but the stage before it has {s.units}: on a GPU both are one tile"
        )
    product = tiles.product(tile, operands(places, source, last, resident), s.units, layout.batch)
    owes = ["if count > 0:"] if last else []
    if last:
        product = [*owes, *tiles.indented(product)]
    pairs = tiles.over_pairs(
        tile, s.units, layout.batch, _ahead(layout, s), product, lambda sums: _row(layout, s, source, owes, sums[0])
    )
    body = [*_addresses(places, s, source), *tiles.over_tiles(tile, s.units, layout.batch, pairs)]
    lines = [*tiles.prologue(tile.block, resident), f"if t < {limit()}:", *tiles.indented(body)]
    return function(f"backward_{layout.index}_{s.index}", ARGUMENTS, lines)


def finish(places: Places, tile: Tile, resident: int | None = None) -> str:
    """`finish_<layer>`: the product of the first stage at step t, which no step of this window makes."""
    layout = places.layout
    source = layout.stages[0]
    units, batch = source.operand_size, layout.batch
    product = tiles.product(tile, operands(places, source, False, resident), units, batch)
    pairs = tiles.over_pairs(tile, units, batch, {}, product, lambda sums: [_owed(source, sums[0])])
    body = [f"d_operand = {places.field(f'd_{source.stage.operand}')}", *tiles.over_tiles(tile, units, batch, pairs)]
    lines = [*tiles.prologue(tile.block, resident), f"if t < {limit()}:", *tiles.indented(body)]
    return function(f"finish_{layout.index}", ARGUMENTS, lines)


def _owed(source: StageLayout, total: str) -> str:
    """d_operand += d_pre . W_h^T of the source stage, for one (row, unit)."""
    return f"m[at(d_operand + each_row * {source.operand_size} + unit)] += {total}"


def _addresses(places: Places, s: StageLayout, source: StageLayout) -> list[str]:
    """First elements of all that the gradient touches."""
    layout, stage = places.layout, s.stage
    owners = forward.gate_owners(layout)
    found = {"gates": places.gates(s), "d_operand": places.field(f"d_{source.stage.operand}")}
    found |= {f"gates_of_{n}": places.gates(owners[n]) for n in stage.reads if n in owners}
    found |= {f"{n}_old": places.array(n) for n in stage.reads if n not in owners}
    found |= {f"{n}_new": places.array(n, after=True) for n in stage.writes}
    found |= {f"{n}_at": places.field(n) for n in stage.diagonals}
    found |= {f"rows_d_{n}": places.field(f"rows_d_{n}") for n in stage.diagonals}
    buffers = dict.fromkeys((*stage.reads, *stage.writes, *stage.exposed))
    found |= {f"d_{n}": places.field(f"d_{n}") for n in buffers}
    if "h" in stage.writes:
        found["d_out"] = d_out(places)
    return [f"{name} = {expression}" for name, expression in found.items()]


def d_out(places: Places) -> str:
    """The gradient of this step's output: the user's at the top, below that of the layer above's input."""
    layout = places.layout
    elements = layout.batch * layout.spec.output_size
    if layout.top:
        return f"{places.field('d_out')} + t * {elements}"
    return f"f[{places.positions[layout.index + 1, 'd_x']}] + s * {elements}"


def _ahead(layout: LayerLayout, s: StageLayout) -> dict[str, tuple[str, str]]:
    """What one (row, unit) reads beside its sum: all but the buffers that the gradient only adds to."""
    stage = s.stage
    found = {"live": ("False", "t < lengths[at(each_row)]")}

    def zero_or(name: str, expression: str) -> None:
        found[name] = ("ZERO", expression)

    for index, name in enumerate(stage.gates):
        zero_or(f"{name}_p", f"m[at(gates + each_row * {s.width} + {index * s.units} + unit)]")
    for name in stage.reads:
        zero_or(f"{name}_0", forward.read(layout, name))
    for name in stage.writes:
        zero_or(f"{name}_1", f"m[at({name}_new + {_unit(layout, name)})]")
    for name in stage.diagonals:
        zero_or(f"{name}_w", f"w[at({name}_at + unit)]")
    for name in (*stage.exposed, *stage.writes):
        zero_or(f"{name}_d", f"m[at(d_{name} + {_unit(layout, name)})]")
    if "h" in stage.writes:
        zero_or("out_d", f"m[at(d_out + {_unit(layout, 'h')})]")
    return found


def _unit(layout: LayerLayout, name: str) -> str:
    """The place of a (row, unit) in an array, or in the gradients of an exposed gate."""
    size = layout.arrays[name].size if name in layout.arrays else forward.gate_owners(layout)[name].units
    return f"each_row * {size} + unit"


def _row(layout: LayerLayout, s: StageLayout, source: StageLayout, owes: Sequence[str], total: str) -> list[str]:
    """What one (row, unit) does. Past the row's length nothing is owed, since the d_pre of such a step are zero."""
    stage, operand = s.stage, source.stage.operand
    zero = [f"m[at(gates + each_row * {s.width} + {index * s.units} + unit)] = ZERO" for index in range(s.gates)]
    owed = f"{operand}_d += {total}" if operand in (*stage.exposed, *stage.writes) else _owed(source, total)
    return [
        "if live:",
        *tiles.indented([*owes, *tiles.indented([owed], len(owes))]),
        *tiles.indented(_gradient(layout, s)),
        "else:",
        *tiles.indented(zero),
    ]


def _gradient(layout: LayerLayout, s: StageLayout) -> list[str]:
    stage = s.stage
    lines = ["h_d += out_d"] if "h" in stage.writes else []
    passed = (*(f"{n}_p" for n in stage.gates), *(f"{n}_0" for n in stage.reads), *(f"{n}_1" for n in stage.writes))
    passed += (*(f"{n}_w" for n in stage.diagonals), *(f"{n}_d" for n in (*stage.exposed, *stage.writes)))
    results = [f"{n}_3" for n in (*stage.gates, *stage.reads, *stage.diagonals)]
    call = f"gradients_{layout.index}_{s.index}({', '.join(passed)})"
    lines.append(f"{', '.join(results)}{',' * (len(results) == 1)} = {call}")
    lines.append(f"gate = gates + each_row * {s.width} + unit")
    lines += [f"m[at(gate + {index * s.units})] = {name}_3" for index, name in enumerate(stage.gates)]
    for n in dict.fromkeys((*stage.reads, *stage.writes, *stage.exposed)):
        replaced = n in stage.writes or n in stage.exposed
        if n in stage.reads:
            lines.append(f"m[at(d_{n} + {_unit(layout, n)})] {'=' if replaced else '+='} {n}_3")
        else:
            lines.append(f"m[at(d_{n} + {_unit(layout, n)})] = ZERO")
    return lines + [f"m[at(rows_d_{n} + each_row * {s.units} + unit)] += {n}_3" for n in stage.diagonals]

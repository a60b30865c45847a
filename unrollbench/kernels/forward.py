"""Text of one layer's forward step: for each stage the recurrent product of a tile, then the equations on that tile."""

from __future__ import annotations

from functools import partial

from unrollbench.kernels.layout import LayerLayout, StageLayout
from unrollbench.kernels.source import (
    Gates,
    array,
    assigned,
    barrier,
    begin,
    field,
    following_weights,
    function,
    gates,
    over_tile,
    row_of,
    rows_at_once,
    tiles,
)  # fmt: skip


def step(layout: LayerLayout) -> str:
    """`step(f, t, s)`: all stages of time step t, whose gate buffer lies in slot s of the window."""
    lines = begin(layout)
    for s in layout.stages:
        named, passed = assigned(s, _addresses(layout, s))
        lines += named
        lines += [f"operand, W = {array(layout, s.stage.operand)}, {field(layout, f'W_h_{s.index}')}"]

        def tile(rows: int, blocks: int, s: StageLayout = s, passed: str = passed) -> list[str]:
            return [
                _tile(layout, s, rows, blocks),
                f"equations_{s.index}(t, lengths, row, {rows}, block, {blocks}, {passed})",
            ]

        lines += [*tiles(layout, "", s.index, s.groups, tile), *barrier(layout)]
    return function("step", "f, t, s", lines)


def _tile(layout: LayerLayout, s: StageLayout, rows: int, blocks: int) -> str:
    """The call of a tile's product."""
    panel = s.operand_size * layout.width  # bytes of one column of weights
    w_block = panel * len(s.stage.gates)
    place = f"row * {{}} + block * {layout.width}"
    passed = [
        f"operand + row * {layout.arrays[s.stage.operand].row_bytes}",
        f"W + block * {w_block}",
        f"gates_{s.index} + {place.format(s.row_bytes)}",
        *following_weights(layout, rows, blocks, blocks * len(s.stage.gates), panel),
    ]
    return f"tile_{s.index}_{rows}x{blocks}({', '.join(passed)})"


def _addresses(layout: LayerLayout, s: StageLayout) -> dict[str, str]:
    """Argument name -> address expression of everything the stage's equations touch."""
    sources = Gates(layout)
    found = {"gates": gates(layout, s), **sources.addresses(layout, s)}
    for name in dict.fromkeys((*s.stage.reads, *s.stage.writes)):
        if name in layout.arrays and layout.arrays[name].is_state:
            found[f"{name}_old"] = array(layout, name)
    found |= {f"{name}_new": array(layout, name, after=True) for name in s.stage.writes}
    return found | {name: field(layout, name) for name in s.stage.diagonals}


def equations(layout: LayerLayout, s: StageLayout) -> str:
    """`equations_i(t, lengths, row, rows, block, blocks, ...)`: pre-activations become gates and state."""
    stage, sources = s.stage, Gates(layout)
    unit = partial(row_of, layout)
    live = [f"{gate} = load(gate_at + {index * s.gate_bytes}, {s.row_bytes})" for index, gate in enumerate(stage.gates)]
    live += [f"{n} = load({sources.read(n) if n in sources.owners else f'{n}_old + {unit(n)}'})" for n in stage.reads]
    live += [f"{n}_ = load({n} + unit_at, 0)" for n in stage.diagonals]
    results = [f"{gate}_1" for gate in stage.gates] + [f"{name}_2" for name in stage.writes]
    passed = (*stage.gates, *stage.reads, *(f"{n}_" for n in stage.diagonals))
    live.append(f"{', '.join(results)} = forward_{s.index}({', '.join(passed)})")
    live += [
        f"store(gate_at + {index * s.gate_bytes}, {s.row_bytes}, {gate}_1)"
        for index, gate in enumerate(stage.gates)
        if layout.train or gate in stage.exposed
    ]
    live += [f"store({name}_new + {unit(name)}, {name}_2)" for name in stage.writes]
    arguments = ["t", "lengths", "row", "rows", "block", "blocks", *_addresses(layout, s)]
    return function(
        f"equations_{s.index}",
        ", ".join(arguments),
        over_tile(layout, s, live, _finished(layout, s), rows_at_once(layout)),
    )


def _finished(layout: LayerLayout, s: StageLayout) -> list[str]:
    """For a row past its length: the old state again, a zero output at the top, zero temporaries for the gradient."""
    lines = []
    for name in s.stage.writes:
        a = layout.arrays[name]
        unit = row_of(layout, name)
        if a.is_state and a.slots != "single":
            value = "zero()" if layout.top and name == "h" else f"load({name}_old + {unit})"
            lines.append(f"store({name}_new + {unit}, {value})")
        elif not a.is_state and layout.train:
            lines.append(f"store({name}_new + {unit}, zero())")
    return lines

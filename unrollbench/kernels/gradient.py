"""Text of one layer's backward step: for each stage, last first, the equations' gradient and then the product's.

A buffer d_X per array X holds the gradient of the state after the step when the step begins and that of the state
before it when the step ends; between stages it collects the gradients of temporaries. A row past its length leaves its
buffers as they are, so the final state's gradient waits there until the row's last real step.
"""

from __future__ import annotations

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
    share,
    slot,
    tiles,
)  # fmt: skip


def step(layout: LayerLayout) -> str:
    """`step(f, t, s)`: gate buffers of step t become gradients of pre-activations, d_ buffers those of step t - 1."""
    lines = begin(layout)
    for s in reversed(layout.stages):
        named, passed = assigned(s, _addresses(layout, s))
        lines += [*named, f"row, rows, block, blocks = {', '.join(share(layout, s))}"]
        lines += [f"gradients_{s.index}(t, lengths, row, rows, block, blocks, {passed})", *barrier(layout)]
        lines += [*_product(layout, s), *barrier(layout)]
    return function("step", "f, t, s", lines)


def _product(layout: LayerLayout, s: StageLayout) -> list[str]:
    """d_operand += d_pre . W_h^T, over all gates at once."""
    row_bytes = layout.arrays[s.stage.operand].row_bytes
    panel = s.row_bytes // layout.itemsize * layout.width  # bytes of one column of weights

    def tile(rows: int, blocks: int) -> list[str]:
        out = f"d_operand + row * {row_bytes} + block * {layout.width}"
        passed = [f"gates_{s.index} + row * {s.row_bytes}", f"W + block * {panel}", out]
        passed += following_weights(layout, rows, blocks, blocks, panel)
        return [f"tile_T{s.index}_{rows}x{blocks}({', '.join(passed)})"]

    lines = [f"d_operand, W = {field(layout, f'd_{s.stage.operand}')}, {field(layout, f'W_hT_{s.index}')}"]
    return lines + tiles(layout, "operand_", s.index, s.operand_groups, tile)


def _is_output(s: StageLayout) -> bool:
    return "h" in s.stage.writes


def _addresses(layout: LayerLayout, s: StageLayout) -> dict[str, str]:
    """Argument name -> address expression of everything the stage's gradient touches."""
    sources = Gates(layout)
    found = {"gates": gates(layout, s), **sources.addresses(layout, s)}
    found |= {f"{n}_old": array(layout, n) for n in s.stage.reads if n not in sources.owners}
    found |= {f"{n}_new": array(layout, n, after=True) for n in s.stage.writes}
    found |= {n: field(layout, n) for n in s.stage.diagonals}
    found |= {
        f"d_{n}": field(layout, f"d_{n}")
        for n in (*s.stage.reads, *s.stage.writes, *s.stage.exposed, *s.stage.diagonals)
    }
    if _is_output(s):
        slots = "time" if layout.top else "window"
        found["d_out"] = field(layout, "d_out") + slot(layout, slots, layout.arrays["h"].row_bytes)
    return found


def gradients(layout: LayerLayout, s: StageLayout) -> str:
    """`gradients_i(t, lengths, row, rows, block, blocks, ...)`: the gradient of `forward.equations`."""
    stage, sources = s.stage, Gates(layout)
    width = s.blocks * layout.width  # bytes of a row of exposed gates' gradients

    def unit(name: str) -> str:
        return row_of(layout, name) if name in layout.arrays else f"each_row * {width} + unit_at, {width}"

    live = [f"{gate} = load(gate_at + {index * s.gate_bytes}, {s.row_bytes})" for index, gate in enumerate(stage.gates)]
    live += [f"{n} = load({sources.read(n) if n in sources.owners else f'{n}_old + {unit(n)}'})" for n in stage.reads]
    live += [f"{n}_1 = load({n}_new + {unit(n)})" for n in stage.writes]
    live += [f"{n}_ = load({n} + unit_at, 0)" for n in stage.diagonals]
    live += [f"{n}_d = load(d_{n} + {unit(n)})" for n in (*stage.exposed, *stage.writes)]
    if _is_output(s):
        live.append(f"h_d = h_d + load(d_out + {unit('h')})")
    passed = (*stage.gates, *stage.reads, *(f"{n}_1" for n in stage.writes), *(f"{n}_" for n in stage.diagonals))
    passed += tuple(f"{n}_d" for n in (*stage.exposed, *stage.writes))
    results = [f"{n}_3" for n in (*stage.gates, *stage.reads, *stage.diagonals)]
    live.append(f"{', '.join(results)}{',' * (len(results) == 1)} = backward_{s.index}({', '.join(passed)})")
    live += [
        f"store(gate_at + {index * s.gate_bytes}, {s.row_bytes}, {gate}_3)" for index, gate in enumerate(stage.gates)
    ]
    for n in dict.fromkeys((*stage.reads, *stage.writes, *stage.exposed)):
        replaced = n in stage.writes or n in stage.exposed
        value = ("zero()" if replaced else f"load(d_{n} + {unit(n)})") if n not in stage.reads else f"{n}_3"
        if n in stage.reads and not replaced:
            value = f"load(d_{n} + {unit(n)}) + {n}_3"
        live.append(f"store(d_{n} + {unit(n)}, {value})")
    live += [f"store(d_{n} + unit_at, 0, load(d_{n} + unit_at, 0) + {n}_3)" for n in stage.diagonals]
    finished = [f"store(gate_at + {index * s.gate_bytes}, 0, zero())" for index in range(len(stage.gates))]
    arguments = ["t", "lengths", "row", "rows", "block", "blocks", *_addresses(layout, s)]
    return function(f"gradients_{s.index}", ", ".join(arguments), over_tile(layout, s, live, finished))

"""Text of one layer's forward step: for each stage the recurrent product of a tile, then the equations on that tile."""

from __future__ import annotations

from collections.abc import Callable

from unrollbench.kernels import pairs
from unrollbench.kernels.equations import MOST_TOGETHER, Equations, Touched
from unrollbench.kernels.expression import Expression
from unrollbench.kernels.layout import Inputs, LayerLayout
from unrollbench.kernels.partition import partition
from unrollbench.kernels.places import Places, exposed
from unrollbench.kernels.source import (
    array,
    arrive,
    assigned,
    barrier,
    cut,
    cut_tile,
    field,
    following_weights,
    function,
    gates,
    head,
    meet,
    own_rows,
    packed_tiles,
    pair,
    tiles,
)
from unrollbench.kernels.stages import Group, StageLayout
from unrollbench.kernels.tile import Ends, Product
from unrollbench.kernels.walk import Walk
from unrollbench.kernels.words import LINE_BYTES


def step(layout: LayerLayout, inputs: Inputs) -> str:
    """`step(f, t, s)`: all stages of time step t, whose gate buffer lies in slot s of the window."""
    lines = [*head(layout), f"end = {own_rows(layout)}"]
    if layout.reads_inputs:
        lines.append(f"x = {inputs.address(layout)}")
    if layout.projects_ahead:
        lines += _ahead(layout)
    if layout.fused:
        lines += cut(layout, "x", inputs.row_bytes, layout.spec.input_size, _inputs_at(layout))
    for s in layout.stages:
        known, i = addresses(layout, s), s.index
        named, passed = assigned(s, {name: known[name] for name in equations(layout, s).addresses})
        lines += [*named, f"operand, W_h = {array(layout, s.stage.operand)}, {field(layout, f'W_h_{i}')}"]
        if layout.reads_inputs:
            lines.append(f"bias, W_x = {field(layout, f'bias_{i}')}, {field(layout, f'W_x_{i}')}")
        lines += cut(layout, "operand", layout.arrays[s.stage.operand].row_bytes, s.operand_size)
        named_products = zip(OPERANDS, products(layout, s, inputs), strict=True)
        lines += pair(
            layout, s, [(*operand[:2], product) for operand, product in named_products if product is not None]
        )

        def tile(rows: int, group: Group, s: StageLayout = s, passed: dict[str, str] = passed) -> list[str]:
            return _tile(layout, s, inputs, rows, group, passed)

        if layout.overlaps:
            lines += _overlapped(layout, s, inputs, tile)
        else:
            lines += [*tiles(layout, "", i, s.groups, tile), *packed_tiles(layout, s, tile), *barrier(layout)]
    return function("step", "f, t, s", lines)


def _tile(
    layout: LayerLayout, s: StageLayout, inputs: Inputs, rows: int, group: Group, passed: dict[str, str]
) -> list[str]:
    """A tile's product and its equations, to which the addresses `passed` are passed."""
    own, gates_count = passed["gates"], len(s.stage.gates)
    lines, asked = _following(layout, s, rows, group, passed)
    offset = of_bias = f"block * {layout.width}"
    if group.packed:
        offset, of_bias = f"{s.packed_at * layout.width}", f"{gates_count * s.whole * layout.width}"
    if s.gate_slots == "tile":  # all tiles use this room; their equations expect it at their rows and units
        passed = passed | {"gates": f"{own} - row * {s.row_bytes} - block * {layout.width}"}
    else:
        own = f"{own} + row * {s.row_bytes} + {offset}"
    arguments, packed = [f"bias + {of_bias}" if layout.fused else own, own], list[str]()
    for (name, address, weights), product in zip(OPERANDS, products(layout, s, inputs), strict=True):
        if product is not None:
            panel, operand = layout.column_bytes(product.depth), f"{address} + row * {product.a_row}"
            if layout.on_matrix_unit:
                operand = cut_tile(layout, product.depth, _inputs_at(layout) if address == "x" else 0)
            ranges = ["start", f"{product.depth} - start", "0", "stop"] if product.ranges else []
            following = following_weights(layout, weights, rows, group, s.group_columns(group), panel)
            own_weights = f"{weights} + block * {panel * gates_count}"
            arguments += [operand, own_weights, *ranges, *following]
            if layout.in_pairs(rows):
                packed += [*_scaled(layout, s, name, product.depth, operand), own_weights, *following]
    shape = f"{s.index}_{rows}x{group.name}"
    multiplied = f"tile_{shape}({', '.join([*arguments, *asked])})"
    if layout.projects_ahead and s.stage.takes_input:
        _, *same = arguments  # a single row asks for nothing, and sums start where they end up
        lines += _projecting(layout, s, inputs, group, "projecting", same, multiplied)
    elif layout.in_pairs(rows):
        called = ", ".join([*arguments[:2], *packed, *asked])
        lines += ["if paired:", f"    paired_{shape}({called})", "else:", f"    {multiplied}"]
    else:
        lines.append(multiplied)
    first = 0
    for part in row_parts(rows):
        at = f"row + {first}, row + {first + rows}, end, block"
        lines.append(f"equations_{s.index}_{part}x{group.name}(t, lengths, {at}, {', '.join(passed.values())}, top)")
        first += part
    return lines


def _scaled(layout: LayerLayout, s: StageLayout, name: str, depth: int, operand: str) -> list[str]:
    """Two arguments of a `pairs.step_tile`: the own products of its columns, and its scaled rows.

    Or none and the operand, of a product that it does not make in pairs.
    """
    if depth < pairs.LEAST_DEPTH:
        return ["0", operand]
    columns, row_bytes = len(s.stage.gates) * layout.width, pairs.row_bytes(layout.dtype, depth)
    scaled = f"{field(layout, 'room')} + {layout.scaled_at(name) + layout.width} + row * {row_bytes}"
    return [f"{field(layout, f'products_{name}_{s.index}')} + block * {columns}", scaled]


def _following(
    layout: LayerLayout, s: StageLayout, rows: int, group: Group, passed: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Lines that find the tile that follows, and the addresses of what it touches, for which this one's product asks.

    After a group's last rows that is the first tile of the next group of as many blocks, or the tile itself where this
    thread has no such group left: the lines of others are theirs. It is taken to have as many rows as this one, which
    may be some of this one's.
    """
    walk = equations(layout, s, packed=group.packed)
    if not walk.asked_by_products:
        return [], []
    itself = "next_row, next_block = row, block"
    lines = [f"next_row, next_block = min(row + {rows}, end - {rows}), block", f"if row + {rows} >= end:"]
    if group.packed:
        lines.append(f"    {itself}")
    else:
        lines.append(f"    next_row, next_block = 0, block + turn * {group.blocks}")
        for beyond in ("next_block < first_block", f"next_block >= first_block + groups * {group.blocks}"):
            lines += [f"    if {beyond}:", f"        {itself}"]
    at = f"next_row * {{}} + next_block * {layout.width}"
    return lines, [f"{passed[name]} + {at.format(stride)}" for name, stride in walk.touched_strides.items()]


def row_parts(rows: int) -> list[int]:
    """The rows of a tile whose equations are computed together, part after part."""
    return partition(rows, 1, MOST_TOGETHER).each


def _inputs_at(layout: LayerLayout) -> int:
    """Where in a thread's room its rows of inputs are cut into parts: behind those of any operand."""
    return layout.rows.most_groups * layout.cut_bytes(max(s.operand_size for s in layout.stages))


def _overlapped(
    layout: LayerLayout, s: StageLayout, inputs: Inputs, tile: Callable[[int, Group], list[str]]
) -> list[str]:
    """A stage's tiles, of which the first ones have units of this thread's own added before it waits for the others.

    left: how many groups are yet to come that have those; a tile adds units from `start` on and then those before
    `stop`. early: steps of k of later inputs that those tiles add before the thread waits.
    """
    i, some = s.index, layout.own_groups(s)

    def own(rows: int, group: Group) -> list[str]:
        return _own_tile(layout, s, inputs, rows, group)

    before, after, whole = list[str](), list[str](), list[str]()
    if layout.projects_ahead and s.stage.takes_input:
        before = [f"early = min(own // {layout.own_steps}, x_count)", "x_first, x_some = x_at, early"]
        after, whole = ["    x_first, x_some = x_at + early, x_count - early"], ["x_first, x_some = x_at, x_count"]
    whole = ["start, stop = 0, 0", *whole]
    rest = ["if left > 0:", "    start, stop, left = own_at + own, own_at, left - 1", *after]
    rest += ["else:", *(f"    {line}" for line in whole)]
    return [
        f"own_at, own = {field(layout, f'own_at_{i}')}, {field(layout, f'own_{i}')}",
        *before,
        f"left = {some}",
        *tiles(layout, "", i, s.groups, own, most="left"),
        meet(layout),
        *_asked(layout, s),
        f"left = {some}",
        *tiles(layout, "", i, s.groups, tile, rest),
        *(whole if s.packed else []),
        *packed_tiles(layout, s, tile),
        arrive(layout),
    ]


def _own_tile(layout: LayerLayout, s: StageLayout, inputs: Inputs, rows: int, group: Group) -> list[str]:
    """What a tile of whole blocks adds up of the units that this thread wrote itself."""
    row_bytes, panel = layout.arrays[s.stage.operand].row_bytes, s.operand_size * layout.width
    sums = f"gates_{s.index} + row * {s.row_bytes} + block * {layout.width}"
    operands = f"operand + row * {row_bytes}", f"W_h + block * {panel * len(s.stage.gates)}"
    same = [sums, *operands, "own_at", "own"]
    multiplied = f"own_tile_{s.index}_{rows}x{group.name}({', '.join([sums, *same])})"
    if layout.projects_ahead and s.stage.takes_input:
        return _projecting(layout, s, inputs, group, "own_projecting", same, multiplied)
    return [multiplied]


def _asked(layout: LayerLayout, s: StageLayout) -> list[str]:
    """Lines that ask for the operand's cache lines at once, since other cores have just written most of them."""
    operand_bytes = layout.batch * layout.arrays[s.stage.operand].row_bytes
    return [f"for line in range(0, {operand_bytes}, {LINE_BYTES}):", "    ask(operand + line)"]


def _ahead(layout: LayerLayout) -> list[str]:
    """Lines that say whether this step projects the inputs of later ones, which, and which part of that.

    Steps do that in batches of as many as they do it for: part says which of its batch this one is, later how many rows
    after its own the first of those steps' lies; there is one row per step. column: which of a tile's is multiplied;
    x_at, x_count: which of its steps of k; x_first, x_some: which of these now.
    """
    window, most, parts, depth = field(layout, "window"), layout.steps_ahead, layout.own_steps, layout.spec.input_size
    lines = [
        f"begin = {window} & {most - 1}",
        f"part = s - begin & {most - 1}",
        f"ahead = s >= begin and s - part + {2 * most} <= {window}",
        f"later = {most} - part",
    ]
    if parts == 1:
        lines.append(f"column, x_at, x_count = part, 0, {depth}")
    else:
        lines += [
            f"column, piece = part // {parts}, part & {parts - 1}",
            f"x_at = piece * {depth} // {parts}",
            f"x_count = (piece + 1) * {depth} // {parts} - x_at",
        ]
    return [*lines, "x_first, x_some = x_at, x_count"]


def _projecting(
    layout: LayerLayout, s: StageLayout, inputs: Inputs, group: Group, name: str, arguments: list[str], otherwise: str
) -> list[str]:
    """The call of a `projecting_tile`, of the rows of inputs and the column of this group that are due, if any are."""
    gates_count, width = len(s.stage.gates), layout.width
    column = f"column % {gates_count} * {s.row_blocks} + block + column // {gates_count}"
    if group.packed:
        column = f"{s.packed_at} + column"
    x, w_x = f"x + later * {inputs.row_bytes}", f"W_x + place * {layout.spec.input_size * width}"
    of_inputs = [x, w_x, "x_first", "x_some", "begun", "begun_row", "out_x"]
    return [
        f"if ahead and column < {s.group_columns(group)}:",
        f"    place = {column}",
        f"    out_x = gates_{s.index} + later * {s.row_bytes} + place * {width}",
        f"    begun, begun_row = out_x, {s.row_bytes}",
        "    if x_first == 0:",
        f"        begun, begun_row = bias + place * {width}, 0",
        f"    {name}_{s.index}_1x{group.name}({', '.join([*arguments, *of_inputs])})",
        "else:",
        f"    {otherwise}",
    ]


OPERANDS = (("x", "x", "W_x"), ("h", "operand", "W_h"))
"""The two products that a tile may add up, and what a step's text calls their operands and weights."""


def products(layout: LayerLayout, s: StageLayout, inputs: Inputs) -> tuple[Product | None, Product]:
    """What a tile of the stage adds up: x . W_x, if it is not there already, and operand . W_h."""
    with_input = layout.fused and s.stage.takes_input
    of_input = Product(layout.spec.input_size, inputs.row_bytes) if with_input else None
    ranges = 2 if layout.overlaps else 0
    return of_input, Product(s.operand_size, layout.arrays[s.stage.operand].row_bytes, ranges)


def ends(layout: LayerLayout, s: StageLayout, group: Group) -> tuple[Ends, Ends]:
    """Where a tile's sums start and end up: all gates of each unit block, in the order in which `W_h` is packed."""

    def columns(gate_bytes: int) -> tuple[int, ...]:
        if group.packed:
            return tuple(column * layout.width for column in range(s.packed_columns))
        return tuple(b * layout.width + g * gate_bytes for b in range(group.blocks) for g in range(len(s.stage.gates)))

    own = Ends(s.row_bytes, columns(s.gate_bytes))
    return (Ends(0, columns(s.whole * layout.width)) if layout.fused else own), own


def addresses(layout: LayerLayout, s: StageLayout) -> dict[str, str]:
    """Argument name -> address expression of everything the stage's equations touch."""
    found = {"gates": gates(layout, s), **exposed(layout, s)}
    for name in dict.fromkeys((*s.stage.reads, *s.stage.writes)):
        if name in layout.arrays and layout.arrays[name].is_state:
            found[f"{name}_old"] = array(layout, name)
    found |= {f"{name}_new": array(layout, name, after=True) for name in s.stage.writes}
    return found | {name: field(layout, name) for name in s.stage.diagonals}


def equations(layout: LayerLayout, s: StageLayout, *, packed: bool = False) -> Walk:
    """`equations_i`: pre-activations become gates and state."""
    stage, places = s.stage, Places(layout, s, packed=packed)
    loads = [(Expression(), place) for place in (*places.gates, *map(places.read, stage.reads), *places.diagonals)]
    results = stage.forward(*(argument for argument, _ in loads))
    kept = [layout.train or gate in stage.exposed for gate in stage.gates]
    targets = [*places.gates, *(places.of(f"{name}_new", name) for name in stage.writes)]
    wanted = [*kept, *(True for _ in stage.writes)]
    stores = [store for store, keep in zip(zip(results, targets, strict=True), wanted, strict=True) if keep]
    live = Equations(tuple(loads), tuple(stores))
    past = _finished(layout, s, top=False), _finished(layout, s, top=True)
    return Walk(layout, live, *past, _touched(layout, s, places))


def _touched(layout: LayerLayout, s: StageLayout, places: Places) -> tuple[Touched, ...]:
    """What a tile's own rows read and write, each once, but gates that all tiles have the same room for."""
    replaced = {name for name in s.stage.writes if layout.arrays[name].slots == "single"}
    own = [Touched(place, True) for place in places.gates if s.gate_slots != "tile"]
    read = [Touched(places.read(name), False) for name in s.stage.reads if name not in replaced]
    return (*own, *read, *(Touched(places.of(f"{name}_new", name), True) for name in s.stage.writes))


def _finished(layout: LayerLayout, s: StageLayout, *, top: bool) -> Equations:
    """For a row past its length: the old state again, a zero output at the top, zero temporaries for the gradient."""
    places, loads, stores = Places(layout, s), [], []
    for name in s.stage.writes:
        a, target = layout.arrays[name], places.of(f"{name}_new", name)
        if not a.is_state:
            stores += [(0, target)] if layout.train else []
        elif top and name == "h":
            stores.append((0, target))
        elif a.slots != "single":
            loads.append((Expression(), places.of(f"{name}_old", name)))
            stores.append((loads[-1][0], target))
    return Equations(tuple(loads), tuple(stores))

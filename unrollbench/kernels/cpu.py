"""The compiled kernels of one layer on the CPU, by the names that a driver calls them.

Kernels depend on a layer's layout alone, so equal layers of a stack, and later programs in the same process, share
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from unrollbench.kernels import (
    amx,
    forward,
    gradient,
    matrix,
    pairs,
    parts,
    products,
    scaling,
    source,
    state,
    threads,
    tile,
    weight_gradient,
)
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import Inputs, LayerLayout, inputs_of
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.stages import Group
from unrollbench.kernels.walk import Walk
from unrollbench.kernels.words import ask, peek, put


def forward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """begin, project, unless the step does that, and step."""
    layout, inputs = _anywhere(layouts[index]), inputs_of(layouts, index)
    if layout.reads_inputs:
        found = {"step": _forward_step(layout, inputs)}
    else:
        found = {"step": _forward_step(_of_any_input(layout), Inputs(0, "time"))}
    found["begin"] = state.begin(_of_any_layer(layout))
    if not layout.fused:
        found["project"] = _together(tuple(products.project(layout, s, inputs) for s in layout.stages))
    return found


def backward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """begin_backward, back_step, d_inputs and d_weights."""
    layout, inputs = _anywhere(layouts[index]), inputs_of(layouts, index)
    d_x_row = layout.padded(layout.spec.input_size) * layout.itemsize
    d_weights = (weight_gradient.weight_gradient(layout, s, inputs) for s in layout.stages)
    return {
        "begin_backward": state.begin_backward(_of_any_layer(layout)),
        "back_step": _backward_step(replace(_of_any_input(layout), top=False)),
        "d_inputs": products.input_gradient(layout, d_x_row, by_time=index == 0),
        "d_weights": _together(tuple(d_weights)),
    }


def _of_any_input(layout: LayerLayout) -> LayerLayout:
    """The layout as with a small input, which is all one to kernels that do not read it."""
    return replace(layout, spec=replace(layout.spec, input_size=1), steps_ahead=0)


def _of_any_layer(layout: LayerLayout) -> LayerLayout:
    """`_of_any_input`, and as of a layer below the top that asks for no weights: for kernels without products."""
    return replace(_of_any_input(layout), top=False, streams=False)


def _anywhere(layout: LayerLayout) -> LayerLayout:
    """The layout as of a layer below the top, if its arrays lie as theirs do: then both share their kernels."""
    below = replace(layout, top=False)
    return below if below.arrays == layout.arrays else layout


@cache
def _together(kernels: tuple[Kernel, ...]) -> Kernel:
    """One kernel (f, t, slot, n) that calls all of them."""
    if len(kernels) == 1:
        return kernels[0]
    lines = [f"kernel_{index}(f, t, slot, n)" for index in range(len(kernels))]
    namespace = {f"kernel_{index}": each.call for index, each in enumerate(kernels)}
    return kernel(source.function("together", "f, t, slot, n", lines), "together", namespace, kernels)


@cache
def _equations(layout: LayerLayout, index: int) -> dict[str, Kernel]:
    """A stage's equations for each size of a tile, by name. layout: `_of_any_layer`."""
    s, found = layout.stages[index], {}
    for packed in sorted({group.packed for group in s.tile_groups}):
        walk = forward.equations(layout, s, packed=packed)
        loop = _walk("loop", walk, "row, rows, block, blocks", walk.loop(1))
        for rows in sorted({part for size, _ in layout.rows.sizes for part in forward.row_parts(size)}):
            for group in (group for group in s.tile_groups if group.packed == packed):
                name = f"equations_{index}_{rows}x{group.name}"
                found[name] = _walk(name, walk, "row, next_row, end, block", walk.tile(rows, group.blocks), [loop])
    return found


@cache
def _gradients(layout: LayerLayout, index: int) -> dict[str, Kernel]:
    """The gradient of a stage's equations, for its whole blocks and the packed one. layout: `_of_any_layer`."""
    s, found = layout.stages[index], {}
    for packed in sorted({group.packed for group in s.tile_groups}):
        walk = gradient.gradients(layout, s, packed=packed)
        name = f"gradients_{index}_packed" if packed else f"gradients_{index}"
        body = walk.loop(gradient.rows_at_once(layout, s))
        found[name] = _walk(name, walk, "row, rows, block, blocks", body)
    return found


def _walk(
    name: str, walk: Walk, which: str, body: tuple[list[str], dict[str, Any]], loops: Sequence[Kernel] = ()
) -> Kernel:
    """A function of a walk, compiled; `which` names its arguments that say which rows and units."""
    lines, called = body
    text = source.function(name, f"t, lengths, {which}, {', '.join(walk.arguments)}", lines)
    return kernel(text, name, {"peek": peek, **called, **{loop.name: loop.call for loop in loops}}, loops)


@cache
def _forward_step(layout: LayerLayout, inputs: Inputs) -> Kernel:
    namespace, uses = {"peek": peek, "ask": ask, **threads.waiting(layout.threads)}, [*threads.waits(layout.threads)]
    for s in layout.stages:
        added = tuple(product for product in forward.products(layout, s, inputs) if product is not None)
        for rows, _ in layout.rows.sizes:
            for group in s.tile_groups:
                asks = layout.asks(rows, group)
                ends = forward.ends(layout, s, group)
                at_once = layout.columns_at_once(s.group_columns(group))
                if layout.on_matrix_unit:
                    depths = tuple(product.depth for product in added)
                    one = matrix.step_tile(amx.tiles(rows), *ends, depths, at_once)
                    namespace[f"tile_{s.index}_{rows}x{group.name}"] = one.call
                    uses.append(one)
                    continue
                walk = forward.equations(layout, s, packed=group.packed)
                ask_for_row = walk.ask_for_row(group.blocks) if walk.asked_by_products else None
                multiplied = tile.step_tile(layout.dtype, rows, *ends, added, at_once, asks, ask_for_row)
                namespace[f"tile_{s.index}_{rows}x{group.name}"] = multiplied
                if layout.in_pairs(rows):
                    scaled = tuple(pairs.scaled(layout.dtype, product) for product in added)
                    paired = pairs.step_tile(layout.dtype, rows, *ends, scaled, at_once, asks, ask_for_row)
                    namespace[f"paired_{s.index}_{rows}x{group.name}"] = paired
                has_own, own = layout.overlaps and not group.packed, replace(added[-1], ranges=1)
                if has_own:
                    part = tile.step_tile(layout.dtype, rows, *ends, (own,), at_once, asks=False)
                    namespace[f"own_tile_{s.index}_{rows}x{group.name}"] = part
                if layout.projects_ahead and s.stage.takes_input:
                    later = tile.Product(layout.spec.input_size, inputs.row_bytes)
                    for name, product in (("projecting", added[-1]), *([("own_projecting", own)] if has_own else [])):
                        namespace[f"{name}_{s.index}_{rows}x{group.name}"] = tile.projecting_tile(
                            layout.dtype, ends[1], product, later, layout.steps_ahead, s.row_bytes, layout.own_steps
                        )
        equations = _equations(_of_any_layer(layout), s.index)
        namespace |= {name: each.call for name, each in equations.items()}
        uses += equations.values()
    namespace |= {"scale_row": scaling.scale_row(layout.dtype), "put": put} if layout.steps_in_pairs else {}
    cutting, cutters = _cutting(layout)
    return kernel(forward.step(layout, inputs), "step", {**namespace, **cutting}, [*uses, *cutters])


@cache
def _backward_step(layout: LayerLayout) -> Kernel:
    namespace, uses = {"peek": peek, **threads.waiting(layout.threads)}, [*threads.waits(layout.threads)]
    for s in layout.stages:
        added = (tile.Product(s.row_bytes // layout.itemsize, s.row_bytes),)
        for rows, _ in layout.rows.sizes:
            for blocks, _ in s.operand_groups.sizes:
                offsets = tuple(b * layout.width for b in range(blocks))
                ends = tile.Ends(layout.arrays[s.stage.operand].row_bytes, offsets)
                at_once = layout.columns_at_once(blocks)
                if layout.on_matrix_unit:
                    one = matrix.step_tile(amx.tiles(rows), ends, ends, (added[0].depth,), at_once)
                    namespace[f"tile_T{s.index}_{rows}x{blocks}"] = one.call
                    uses.append(one)
                    continue
                namespace[f"tile_T{s.index}_{rows}x{blocks}"] = tile.step_tile(
                    layout.dtype, rows, ends, ends, added, at_once, layout.asks(rows, Group(blocks))
                )
        gradients = _gradients(_of_any_layer(layout), s.index)
        namespace |= {name: each.call for name, each in gradients.items()}
        uses += gradients.values()
    cutting, cutters = _cutting(layout)
    return kernel(gradient.step(layout), "step", {**namespace, **cutting}, [*uses, *cutters])


def _cutting(layout: LayerLayout) -> tuple[dict[str, Any], list[Kernel]]:
    """What a step calls for the matrix unit beside its tiles, and those of that which are kernels."""
    if not layout.on_matrix_unit:
        return {}, []
    return {"split": parts.split().call, "configure": amx.configure}, [parts.split()]

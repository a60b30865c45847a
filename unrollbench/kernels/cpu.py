"""The compiled kernels of one layer on the CPU, by the names that a driver calls them.

Kernels depend on a layer's layout alone, so equal layers of a stack, and later programs in the same process, share
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from numba import njit

from unrollbench.kernels import forward, gradient, products, source, threads, tile, words
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import Inputs, LayerLayout, StageLayout, inputs_of
from unrollbench.kernels.products import OPTIONS
from unrollbench.kernels.walk import Walk


def forward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """project, unless the step does that, and step."""
    layout, inputs = layouts[index], inputs_of(layouts, index)
    found = {"step": _forward_step(layout, inputs)}
    if not layout.fused:
        found["project"] = _together(tuple(products.project(layout, s, inputs) for s in layout.stages))
    return found


def backward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """back_step, d_inputs and d_weights."""
    layout, inputs = layouts[index], inputs_of(layouts, index)
    d_x_row = layout.padded(layout.spec.input_size) * layout.itemsize
    return {
        "back_step": _backward_step(layout),
        "d_inputs": products.input_gradient(layout, d_x_row, by_time=index == 0),
        "d_weights": _together(tuple(products.weight_gradient(layout, s, inputs.row_bytes) for s in layout.stages)),
    }


@cache
def _together(kernels: tuple[Kernel, ...]) -> Kernel:
    """One kernel (f, t, slot, n) that calls all of them."""
    if len(kernels) == 1:
        return kernels[0]
    lines = [f"kernel_{index}(f, t, slot, n)" for index in range(len(kernels))]
    namespace = {f"kernel_{index}": kernel.call for index, kernel in enumerate(kernels)}
    return Kernel(
        "together",
        source.define(source.function("together", "f, t, slot, n", lines), "together", namespace),
        4,
        kernels,
    )


def _namespace(layout: LayerLayout) -> dict[str, Any]:
    counter = layout.fields["counter"]

    @njit(**OPTIONS)
    def barrier(f, members):
        threads.barrier(words.peek(f, counter), members)

    return {"peek": words.peek, "barrier": barrier}


def _equations(layout: LayerLayout, s: StageLayout) -> dict[str, Kernel]:
    """The stage's equations for each size of a tile, by name."""
    walk, index = forward.equations(layout, s), s.index
    loop = _walk("loop", walk, "row, rows, block, blocks", walk.loop(1))
    shapes = [(rows, blocks) for rows, _ in layout.rows.sizes for blocks, _ in s.groups.sizes]
    names = {f"equations_{index}_{rows}x{blocks}": walk.tile(rows, blocks) for rows, blocks in shapes}
    return {name: _walk(name, walk, "row, block", body, [loop]) for name, body in names.items()}


def _walk(
    name: str, walk: Walk, which: str, body: tuple[list[str], dict[str, Any]], loops: Sequence[Kernel] = ()
) -> Kernel:
    """A function of a walk, compiled; `which` names its arguments that say which rows and units."""
    lines, called = body
    text = source.function(name, f"t, lengths, {which}, {', '.join(walk.addresses)}", lines)
    return _kernel(name, text, {"peek": words.peek, **called, **{loop.name: loop.call for loop in loops}}, loops)


@cache
def _forward_step(layout: LayerLayout, inputs: Inputs) -> Kernel:
    namespace, uses = _namespace(layout), []
    for s in layout.stages:
        added = tuple(product for product in forward.products(layout, s, inputs) if product is not None)
        for rows, _ in layout.rows.sizes:
            for blocks, _ in s.groups.sizes:
                multiplied = tile.step_tile(
                    layout.dtype, rows, *forward.ends(layout, s, blocks), added, layout.asks(rows)
                )
                namespace[f"tile_{s.index}_{rows}x{blocks}"] = multiplied
        equations = _equations(layout, s)
        namespace |= {name: kernel.call for name, kernel in equations.items()}
        uses += equations.values()
    return _kernel("step", forward.step(layout, inputs), namespace, uses)


@cache
def _backward_step(layout: LayerLayout) -> Kernel:
    namespace, uses = _namespace(layout), []
    for s in layout.stages:
        added = (tile.Product(s.row_bytes // layout.itemsize, s.row_bytes),)
        for rows, _ in layout.rows.sizes:
            for blocks, _ in s.operand_groups.sizes:
                offsets = tuple(b * layout.width for b in range(blocks))
                ends = tile.Ends(layout.arrays[s.stage.operand].row_bytes, offsets)
                namespace[f"tile_T{s.index}_{rows}x{blocks}"] = tile.step_tile(
                    layout.dtype, rows, ends, ends, added, layout.asks(rows)
                )
        walk = gradient.gradients(layout, s)
        body = walk.loop(gradient.rows_at_once(layout, s))
        uses.append(_walk(f"gradients_{s.index}", walk, "row, rows, block, blocks", body))
        namespace[f"gradients_{s.index}"] = uses[-1].call
    return _kernel("step", gradient.step(layout), namespace, uses)


def _kernel(name: str, text: str, namespace: dict[str, Any], uses: Sequence[Kernel] = ()) -> Kernel:
    """The function `name` of the text, compiled."""
    function = source.define(text, name, namespace)
    return Kernel(name, function, function.__code__.co_argcount, uses)

"""The compiled kernels of one layer on the CPU, by the names that a driver calls them.

Kernels depend on a layer's layout alone, so equal layers of a stack, and later programs in the same process, share
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from numba import njit

from unrollbench.kernels import elementary, forward, gradient, products, simd, source, threads, tile, words
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import LayerLayout, StageLayout
from unrollbench.kernels.products import OPTIONS


def x_row_bytes(layouts: tuple[LayerLayout, ...], index: int) -> int:
    """Bytes of one input row of a layer: the user's rows, or the padded outputs of the layer below."""
    if index == 0:
        return layouts[0].spec.input_size * layouts[0].itemsize
    return layouts[index - 1].arrays["h"].row_bytes


def forward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """project and step."""
    layout = layouts[index]
    x_row, x_by_time = x_row_bytes(layouts, index), index == 0 or layout.train
    projects = [products.project(layout, s, x_row, x_by_time) for s in layout.stages]
    return {"project": _together(tuple(projects)), "step": _forward_step(layout)}


def backward_kernels(layouts: tuple[LayerLayout, ...], index: int) -> dict[str, Kernel]:
    """back_step, d_inputs and d_weights."""
    layout = layouts[index]
    x_row = x_row_bytes(layouts, index)
    d_x_row = layout.padded(layout.spec.input_size) * layout.itemsize
    return {
        "back_step": _backward_step(layout),
        "d_inputs": products.input_gradient(layout, d_x_row, by_time=index == 0),
        "d_weights": _together(tuple(products.weight_gradient(layout, s, x_row, True) for s in layout.stages)),
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
    names = ("load", "store", "zero")
    one = dict(zip(names, simd.memory(layout.dtype), strict=True))
    several = dict(zip(names, simd.memory(layout.dtype, source.rows_at_once(layout)), strict=True))
    memory = one | {f"{name}s": function for name, function in several.items()}
    counter = layout.fields["counter"]

    @njit(**OPTIONS)
    def barrier(f, members):
        threads.barrier(words.peek(f, counter), members)

    return {**memory, "peek": words.peek, "barrier": barrier}


def _tile_offsets(layout: LayerLayout, s: StageLayout, blocks: int) -> tuple[int, ...]:
    """Where a tile's columns lie in a row of the gate buffer: all gates of each unit block, as `W_h` is packed."""
    return tuple(b * layout.width + g * s.gate_bytes for b in range(blocks) for g in range(len(s.stage.gates)))


@cache
def _forward_step(layout: LayerLayout) -> Kernel:
    namespace, uses = _namespace(layout), []
    for s in layout.stages:
        for rows, _ in layout.rows.sizes:
            for blocks, _ in s.groups.sizes:
                offsets, a_row = _tile_offsets(layout, s, blocks), layout.arrays[s.stage.operand].row_bytes
                accumulate = tile.accumulate(layout.dtype, rows, offsets, s.operand_size, a_row, s.row_bytes)
                namespace[f"tile_{s.index}_{rows}x{blocks}"] = accumulate
        namespace[f"forward_{s.index}"] = elementary.equation(s.stage.forward)
        uses.append(_kernel(f"equations_{s.index}", forward.equations(layout, s), namespace))
        namespace[f"equations_{s.index}"] = uses[-1].call
    return _kernel("step", forward.step(layout), namespace, uses)


@cache
def _backward_step(layout: LayerLayout) -> Kernel:
    namespace, uses = _namespace(layout), []
    for s in layout.stages:
        for rows, _ in layout.rows.sizes:
            for blocks, _ in s.operand_groups.sizes:
                offsets = tuple(b * layout.width for b in range(blocks))
                depth, out_row = s.row_bytes // layout.itemsize, layout.arrays[s.stage.operand].row_bytes
                accumulate = tile.accumulate(layout.dtype, rows, offsets, depth, s.row_bytes, out_row)
                namespace[f"tile_T{s.index}_{rows}x{blocks}"] = accumulate
        namespace[f"backward_{s.index}"] = elementary.equation(s.stage.backward)
        uses.append(_kernel(f"gradients_{s.index}", gradient.gradients(layout, s), namespace))
        namespace[f"gradients_{s.index}"] = uses[-1].call
    return _kernel("step", gradient.step(layout), namespace, uses)


def _kernel(name: str, text: str, namespace: dict[str, Any], uses: Sequence[Kernel] = ()) -> Kernel:
    """The function `name` of the text, compiled."""
    function = source.define(text, name, namespace)
    return Kernel(name, function, function.__code__.co_argcount, uses)

"""A stack of layers compiled for one schedule and device: kernels and the host's driver, without weights or data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil
from typing import Any

from unrollbench import cells
from unrollbench.case import Case
from unrollbench.cells import LayerSpec
from unrollbench.kernels.cuda import edges, equations, forward, gradient, products, specialize, tile
from unrollbench.kernels.cuda.device import Compiler, Launch
from unrollbench.kernels.cuda.layout import LayerLayout, StageLayout, positions
from unrollbench.kernels.cuda.specialize import BACKWARD, FORWARD
from unrollbench.kernels.cuda.text import ARGUMENTS, Places
from unrollbench.kernels.cuda.tiling import Block, Limits, ProductTile, Tile, block_for, product_tile_for, tile_for
from unrollbench.kernels.source import define
from unrollbench.schedule import Schedule, of_case

LARGEST_GRID_Y = 65535
"""Blocks along y that a launch may have."""


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is compiled for, beside its schedule."""

    layers: tuple[LayerSpec, ...]
    dtype: str
    batch_size: int
    train: bool
    time_major: bool
    swap_memory: bool


@dataclass(frozen=True)
class Residents:
    """Weights in shared memory: (direction, layer, stage) -> first element. elements: of a block, scratch too."""

    places: Mapping[tuple[str, int, int], int]
    elements: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """Everything about a network's kernels that follows from its sizes and the device's limits; pure data and text."""

    spec: NetworkSpec
    schedule: Schedule
    steps: int
    limits: Limits

    @cached_property
    def layouts(self) -> tuple[LayerLayout, ...]:
        spec = self.spec
        return tuple(
            LayerLayout(
                index,
                layer,
                cells.load(layer.cell, layer.options, spec.dtype),
                spec.dtype,
                spec.batch_size,
                spec.train,
                index == len(spec.layers) - 1,
                spec.swap_memory,
            )
            for index, layer in enumerate(spec.layers)
        )

    @cached_property
    def places(self) -> tuple[Places, ...]:
        found = positions(self.layouts)
        return tuple(Places(layout, found) for layout in self.layouts)

    @cached_property
    def block(self) -> Block:
        units = max(s.units for layout in self.layouts for s in layout.stages)
        return block_for(self.limits, units, self.spec.batch_size)

    @cached_property
    def product_tile(self) -> ProductTile:
        return product_tile_for(self.limits, self.block)

    def tile(self, gates: int) -> Tile:
        """The tile of a product with that many columns per unit."""
        return tile_for(self.limits, self.block, self.spec.dtype, gates, self.spec.batch_size)

    # ------------------------------------------------------------ grids and shared memory

    def products(self, direction: str) -> list[tuple[LayerLayout, StageLayout, Tile, int]]:
        """(layer, stage, tile, units) of every recurrent product of a direction."""
        return [
            (layout, s, self.tile(s.gates), s.units)
            if direction == "forward"
            else (layout, s, self.tile(1), s.operand_size)
            for layout in self.layouts
            for s in layout.stages
        ]

    def grid(self, tile: Tile, units: int) -> tuple[int, int]:
        """A block for each tile."""
        return min(-(-units // tile.units), self.limits.blocks), min(
            -(-self.spec.batch_size // tile.batch), LARGEST_GRID_Y
        )

    def loop_grid(self, direction: str) -> tuple[int, int]:
        """The blocks of a dynamic program: at most one on each multiprocessor, so that all of them run at once."""
        grids = [self.grid(tile, units) for _, _, tile, units in self.products(direction)]
        across = min(max(x for x, _ in grids), self.limits.processors)
        return across, max(1, min(max(y for _, y in grids), self.limits.processors // across))

    @cached_property
    def residents(self) -> Residents:
        """Weights of dynamic programs in shared memory, stage after stage, as long as there is room."""
        places: dict[tuple[str, int, int], int] = {}
        elements: dict[str, int] = {}
        itemsize = self.layouts[0].itemsize
        for direction in ("forward", "backward"):
            across, _ = self.loop_grid(direction)
            end = max(self.product_tile.scratch, *(t.scratch for _, _, t, _ in self.products(direction)))
            for layout, s, t, units in self.products(direction):
                depth = s.operand_size if direction == "forward" else s.width
                tiles = ceil(ceil(units / t.units) / across)
                share = tiles * t.units * t.gates * depth
                if (end + share) * itemsize <= self.limits.shared_bytes:
                    places[direction, layout.index, s.index] = end
                    end += share
            elements[direction] = end
        return Residents(places, elements)

    # ------------------------------------------------------------ texts

    def _stage_texts(self, resident: bool) -> dict[str, str]:
        """Stage functions by name; `resident` for those that find their weights in shared memory."""
        texts = {}
        for places in self.places:
            layer = places.layout.index
            found = partial(self._resident, layer) if resident else lambda direction, s: None
            for s in places.layout.stages:
                text = forward.stage(places, s, self.tile(s.gates), found("forward", s))
                texts[f"forward_{layer}_{s.index}"] = text
                if self.spec.train:
                    source = gradient.successor(places.layout, s)
                    text = gradient.stage(places, s, self.tile(1), found("backward", source))
                    texts[f"backward_{layer}_{s.index}"] = text
            if self.spec.train:
                first = places.layout.stages[0]
                texts[f"finish_{layer}"] = gradient.finish(places, self.tile(1), found("backward", first))
        return texts

    def _resident(self, layer: int, direction: str, s: StageLayout) -> int | None:
        return self.residents.places.get((direction, layer, s.index))

    def _load_texts(self) -> dict[str, str]:
        """`load_<direction>_<layer>_<stage>(w, f)` for every stage whose weights are resident."""
        texts = {}
        for direction, layer, stage in self.residents.places:
            if direction == "backward" and not self.spec.train:
                continue
            places = self.places[layer]
            s = places.layout.stages[stage]
            if direction == "forward":
                operands = forward.operands(places, s, self._resident(layer, direction, s))
                lines = tile.load_resident(self.tile(s.gates), operands, s.units)
            else:
                operands = gradient.operands(places, s, False, self._resident(layer, direction, s))
                lines = tile.load_resident(self.tile(1), operands, s.operand_size)
            name = f"load_{direction}_{layer}_{stage}"
            texts[name] = specialize.function(name, "w, f", lines)
        return texts

    @cached_property
    def shape(self) -> specialize.Shape:
        loads: dict[str, tuple[str, ...]] = {}
        for direction, layer, stage in self.residents.places:
            loads[direction] = (*loads.get(direction, ()), f"load_{direction}_{layer}_{stage}")
        return specialize.Shape(self.layouts, self.steps, loads)

    def function_texts(self) -> dict[str, str]:
        """Device functions by name, each after those it calls; {} where kernels call none but the equations."""
        if self.schedule.execution != "dynamic":
            return {}
        texts = {"product": products.product(self.product_tile, self.block), **self._stage_texts(resident=True)}
        texts |= self._load_texts()
        for places in self.places:
            layer = places.layout.index
            carried = edges.carry(places, self.block)
            texts |= {f"carry_{layer}": carried} if carried else {}
            texts[f"project_{layer}"] = products.project(places)
            if self.spec.train and layer:
                texts[f"d_inputs_{layer}"] = products.d_inputs(places)
        return texts

    def kernel_texts(self) -> dict[str, str]:
        """Kernels by name."""
        block, time_major = self.block, self.spec.time_major
        texts = {
            "begin_forward": edges.begin_forward(self.places, block, time_major),
            "end_forward": edges.end_forward(self.places, block, time_major),
        }
        if self.spec.train:
            texts["begin_backward"] = edges.begin_backward(self.places, block, time_major)
            texts["end_backward"] = edges.end_backward(self.places, block, time_major)
        if self.spec.swap_memory:
            texts["keep_state"] = edges.keep_state(self.places, block)
        if self.schedule.execution == "dynamic":
            return texts | specialize.device(self.schedule, self.shape)
        return texts | self._stage_texts(resident=False)

    def host_texts(self) -> dict[str, str]:
        return specialize.host(self.schedule, self.shape)

    # ------------------------------------------------------------ launches

    def launch(self, name: str) -> Launch:
        """How a kernel of `kernel_texts` is launched."""
        itemsize, shape = self.layouts[0].itemsize, self.block.shape
        if name in (FORWARD, BACKWARD):
            direction = "forward" if name == FORWARD else "backward"
            return Launch(self.loop_grid(direction), shape, self.residents.elements[direction] * itemsize)
        direction, _, rest = name.partition("_")
        if direction in ("forward", "backward", "finish"):
            layer, _, stage = rest.partition("_")
            s = self.layouts[int(layer)].stages[int(stage or 0)]
            tile = self.tile(s.gates if direction == "forward" else 1)
            units = s.operand_size if direction == "finish" else s.units
            return Launch(self.grid(tile, units), shape, tile.scratch * itemsize)
        return Launch((min(4 * self.limits.processors, self.limits.blocks), 1), shape, 0)

    def product_launch(self, rows: int, columns: int) -> Launch:
        """How the product kernel is launched for a result of that size."""
        t = self.product_tile
        blocks = -(-rows // t.height) * -(-columns // t.width)
        return Launch(
            (max(1, min(blocks, self.limits.blocks)), 1), self.block.shape, t.scratch * self.layouts[0].itemsize
        )


def spec_of(case: Case) -> NetworkSpec:
    """What a case's network is compiled for."""
    layers = tuple(LayerSpec(case.cell, case.cell_options, i, units) for i, units, _ in case.layer_shapes)
    train, swap = case.mode == "train", bool(case.canonical().swap_memory)
    return NetworkSpec(layers, case.dtype, case.batch_size, train, case.time_major, swap)


def plan_of(case: Case, limits: Limits) -> Plan:
    """The plan of a case's kernels on a device with those limits."""
    return Plan(spec_of(case), of_case(case), case.sequence_length, limits)


@dataclass(frozen=True)
class Network:
    """A plan's kernels, compiled. product: the kernel of `products`."""

    plan: Plan
    kernels: Mapping[str, Any]
    product: Any
    texts: Mapping[str, str] = field(default_factory=dict)


def compile_plan(plan: Plan, compiler: Compiler) -> Network:
    """Everything that a run of the network needs, compiled before this returns."""
    scope, dtype = compiler.scope(plan.spec.dtype), plan.spec.dtype
    scope |= _equations(plan, compiler)
    texts = plan.function_texts()
    for name, text in texts.items():
        scope[name] = compiler.device_function(define(text, name, scope), False)
    kernels = {}
    for name, text in plan.kernel_texts().items():
        texts[name] = text
        kernels[name] = compiler.kernel(define(text, name, scope), compiler.signature(dtype, ARGUMENTS))
    text = products.product(plan.product_tile, plan.block)
    texts["product"] = text
    product = compiler.kernel(define(text, "product", scope), compiler.signature(dtype, products.ARGUMENTS))
    return Network(plan, kernels, product, texts)


def _equations(plan: Plan, compiler: Compiler) -> dict[str, Any]:
    """`equations_<layer>_<stage>` and `gradients_<layer>_<stage>`; equal layers share them."""
    inline: Callable[[Any], Any] = partial(compiler.device_function, inline=True)
    replaced = equations.elementary(plan.spec.dtype, inline)
    made: dict[Any, Any] = {}
    found = {}
    for layout in plan.layouts:
        for s in layout.stages:
            wanted = {"equations": s.stage.forward}
            if plan.spec.train:
                wanted["gradients"] = s.stage.backward
            for kind, equation in wanted.items():
                if equation not in made:
                    made[equation] = equations.device_equation(equation, replaced, inline)
                found[f"{kind}_{layout.index}_{s.index}"] = made[equation]
    return found

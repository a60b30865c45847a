"""A stack of layers compiled for one schedule and device: kernels and the host's driver, without weights or data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil
from typing import Any

from unrollbench import cells
from unrollbench.case import Case
from unrollbench.kernels.cuda import edges, equations, forward, gradient, loop, products, specialize, tile
from unrollbench.kernels.cuda.device import Compiler, Launch
from unrollbench.kernels.cuda.layout import LayerLayout, StageLayout, positions
from unrollbench.kernels.cuda.specialize import BACKWARD, FORWARD
from unrollbench.kernels.cuda.text import ARGUMENTS, Places
from unrollbench.kernels.cuda.tiling import (
    VECTOR_BYTES,
    Block,
    Limits,
    Product,
    ProductTile,
    Tile,
    aligned,
    block_for,
    product_tile_for,
    tile_for,
)
from unrollbench.kernels.source import define
from unrollbench.kernels.spec import NetworkSpec, spec_of
from unrollbench.schedule import Schedule, of_case

LARGEST_GRID_Y = 65535
"""Blocks along y that a launch may have."""


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

    @property
    def window(self) -> int:
        """Time steps that a window's arrays have slots for, if T is not less."""
        return loop.slots(self.schedule, self.spec.swap_memory)

    def block(self, direction: str) -> Block:
        """The block of a direction's kernels."""
        products = [
            Product(units, gates, s.operand_size if direction == "forward" else s.width)
            for _, s, gates, units in self._sizes(direction)
        ]
        return block_for(self.limits, self.spec.dtype, products, self.spec.batch_size)

    def product_tile(self, direction: str) -> ProductTile:
        """The tile of whole products in a direction's kernels, of a window's steps as a rule."""
        sizes = [(x.spec.input_size, x.stages[0].width) for x in self.layouts]
        rows = min(self.steps, self.window) * self.spec.batch_size
        columns = max(width if direction == "forward" else inputs for inputs, width in sizes)
        return product_tile_for(self.limits, self.block(direction), self.spec.dtype, rows, columns)

    def tile(self, direction: str, gates: int, units: int) -> Tile:
        """The tile of a product with that many columns per unit."""
        spec = self.spec
        return tile_for(self.limits, self.block(direction), spec.dtype, gates, units, spec.batch_size)

    def _sizes(self, direction: str) -> Iterator[tuple[LayerLayout, StageLayout, int, int]]:
        """(layer, stage, columns per unit, units) of every recurrent product of a direction."""
        for layout in self.layouts:
            for s in layout.stages:
                yield (layout, s, s.gates, s.units) if direction == "forward" else (layout, s, 1, s.operand_size)

    # ------------------------------------------------------------ grids and shared memory

    def products(self, direction: str) -> list[tuple[LayerLayout, StageLayout, Tile, int]]:
        """(layer, stage, tile, units) of every recurrent product of a direction."""
        return [(layout, s, self.tile(direction, g, units), units) for layout, s, g, units in self._sizes(direction)]

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
            end = self.product_tile(direction).scratch
            for layout, s, t, units in self.products(direction):
                depth = s.operand_size if direction == "forward" else s.width
                tiles = ceil(ceil(units / t.units) / across)
                share = tiles * t.units * t.gates * depth
                if (end + share) * itemsize <= self.limits.shared_bytes:
                    places[direction, layout.index, s.index] = end
                    end = aligned(end + share)
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
                text = forward.stage(places, s, self.tile("forward", s.gates, s.units), found("forward", s))
                texts[f"forward_{layer}_{s.index}"] = text
                if self.spec.train:
                    source = gradient.successor(places.layout, s)
                    text = gradient.stage(places, s, self.tile("backward", 1, s.units), found("backward", source))
                    texts[f"backward_{layer}_{s.index}"] = text
            if self.spec.train:
                first = places.layout.stages[0]
                own = self.tile("backward", 1, first.operand_size)
                texts[f"finish_{layer}"] = gradient.finish(places, own, found("backward", first))
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
                lines = tile.load_resident(self.tile(direction, s.gates, s.units), operands, s.units)
            else:
                operands = gradient.operands(places, s, False, self._resident(layer, direction, s))
                lines = tile.load_resident(self.tile(direction, 1, s.operand_size), operands, s.operand_size)
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
        texts = self._stage_texts(resident=True)
        for direction in ("forward", "backward") if self.spec.train else ("forward",):
            texts[f"product_{direction}"] = self._product_text(direction, f"product_{direction}")
        texts |= self._load_texts()
        for places in self.places:
            layer = places.layout.index
            carried = edges.carry(places, self.block("forward"))
            texts |= {f"carry_{layer}": carried} if carried else {}
            texts[f"project_{layer}"] = products.project(places)
            if self.spec.train and layer:
                texts[f"d_inputs_{layer}"] = products.d_inputs(places)
        return texts

    def kernel_texts(self) -> dict[str, str]:
        """Kernels by name."""
        block, time_major = self.block("forward"), self.spec.time_major
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
            return texts | loop.device(self.schedule, self.shape)
        return texts | self._stage_texts(resident=False)

    def host_texts(self) -> dict[str, str]:
        return specialize.host(self.schedule, self.shape)

    # ------------------------------------------------------------ launches

    def launch(self, name: str) -> Launch:
        """How a kernel of `kernel_texts` is launched."""
        itemsize = self.layouts[0].itemsize
        if name in (FORWARD, BACKWARD):
            direction = "forward" if name == FORWARD else "backward"
            shared_bytes = self.residents.elements[direction] * itemsize
            return Launch(self.loop_grid(direction), self.block(direction).shape, shared_bytes)
        kind, _, rest = name.partition("_")
        if kind not in ("forward", "backward", "finish"):
            return Launch((min(4 * self.limits.processors, self.limits.blocks), 1), self.block("forward").shape, 0)
        layer, _, stage = rest.partition("_")
        s = self.layouts[int(layer)].stages[int(stage or 0)]
        direction = "forward" if kind == "forward" else "backward"
        units = s.operand_size if kind == "finish" else s.units
        tile = self.tile(direction, s.gates if kind == "forward" else 1, units)
        return Launch(self.grid(tile, units), self.block(direction).shape, 0)

    def product_text(self) -> str:
        """The kernel `product`, for whole products outside of a loop."""
        return self._product_text("forward", "product")

    def _product_text(self, direction: str, name: str) -> str:
        vector = VECTOR_BYTES // self.layouts[0].itemsize
        return products.product(name, self.product_tile(direction), self.block(direction), vector)

    def product_launch(self, rows: int, columns: int) -> Launch:
        """How the kernel `product` is launched for a result of that size."""
        t = self.product_tile("forward")
        blocks = max(1, min(ceil(rows / t.height) * ceil(columns / t.width), self.limits.blocks))
        return Launch((blocks, 1), self.block("forward").shape, t.scratch * self.layouts[0].itemsize)


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
    text = plan.product_text()
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

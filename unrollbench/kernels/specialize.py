"""Schedule -> the text of a network's program: straight line, loop or single step, forward and backward.

The text calls the layers' kernels and holds nothing else, so it shows what unrolling is: static has one call of a
layer's step per time step, dynamic one loop with `unroll` of them in its body and a second loop for the remainder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.source import field, function
from unrollbench.schedule import Schedule


@dataclass(frozen=True)
class Shape:
    """What a driver's text depends on beside the schedule. frame_bytes: from one layer's frame to the next."""

    layouts: Sequence[LayerLayout]
    frame_bytes: int
    swaps: bool

    @property
    def layers(self) -> range:
        return range(len(self.layouts))

    def frame(self, layer: int) -> str:
        """The address of a layer's frame."""
        return f"f + {layer * self.frame_bytes}" if layer else "f"

    @property
    def wait(self) -> list[str]:
        """A line that waits for the other threads, if there are any."""
        return ["barrier(f)"] if self.layouts[0].threads > 1 else []


def forward(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """Entry point name -> text of the forward program: "forward", or "step" if stepwise."""
    if schedule.execution == "stepwise":
        lines = [f"t = {field(shape.layouts[0], 't')}"]
        for layer in shape.layers:
            lines += [*_project(shape, layer, "t", "1"), f"step_{layer}({shape.frame(layer)}, t, 0)"]
        return {"step": function("step", "f", lines)}
    walk = _static_forward if schedule.execution == "static" else _dynamic_forward
    return {"forward": function("forward", "f", [_limit(shape), *walk(schedule, shape)])}


def backward(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """Entry point name -> text of the backward program: "backward", or "back_step" and "d_weights" if stepwise."""
    if schedule.execution == "stepwise":
        lines = [f"t = {field(shape.layouts[0], 't')}"]
        for layer in reversed(shape.layers):
            lines += [*shape.wait, f"back_step_{layer}({shape.frame(layer)}, t, 0)", *shape.wait]
            lines.append(f"d_inputs_{layer}({shape.frame(layer)}, t, 0, 1)")
        weights = [_limit(shape)] + [f"d_weights_{layer}({shape.frame(layer)}, 0, 0, limit)" for layer in shape.layers]
        return {"back_step": function("back_step", "f", lines), "d_weights": function("d_weights", "f", weights)}
    walk = _static_backward if schedule.execution == "static" else _dynamic_backward
    return {"backward": function("backward", "f", [_limit(shape), *walk(schedule, shape)])}


def _limit(shape: Shape) -> str:
    """A line that reads the longest length, past which no step is computed."""
    return f"limit = {field(shape.layouts[0], 'limit')}"


# ---------------------------------------------------------------- forward


def _project(shape: Shape, layer: int, start: str, count: str, slot: str = "0") -> list[str]:
    call = f"project_{layer}({shape.frame(layer)}, {start}, {slot}, {count})"
    return [*shape.wait, call, *shape.wait]


def _static_forward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    for layer in shape.layers:
        yield from _project(shape, layer, "0", "limit")
        for t in range(schedule.window):
            yield f"step_{layer}({shape.frame(layer)}, {t}, {t})"


def _dynamic_forward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    yield "start = 0"
    yield "while start < limit:"
    yield f"    stop = min(start + {schedule.window}, limit)"
    for layer in shape.layers:
        yield from (f"    {line}" for line in _project(shape, layer, "start", "stop - start"))
        step = f"step_{layer}({shape.frame(layer)}, t{{0}}, t{{0}} - start)"
        yield "    t = start"
        yield from (f"    {line}" for line in _unrolled(step, schedule.unroll, "t + {} <= stop", "t < stop", "t +="))
    yield from _release(shape)
    yield "    start = stop"


def _unrolled(step: str, unroll: int, fits: str, remains: str, advance: str) -> Iterable[str]:
    """A loop with `unroll` copies of the step in its body, and one for the remainder."""
    sign = "-" if advance.endswith("-=") else "+"
    if unroll > 1:
        yield f"while {fits.format(unroll)}:"
        yield from (f"    {step.format(f' {sign} {k}' if k else '')}" for k in range(unroll))
        yield f"    {advance} {unroll}"
    yield f"while {remains}:"
    yield f"    {step.format('')}"
    yield f"    {advance} 1"


def _release(shape: Shape) -> Iterable[str]:
    """The window's saved activations leave resident memory."""
    if shape.swaps:
        yield from (f"    {line}" for line in shape.wait)
        for layer in shape.layers:
            yield f"    release_{layer}({shape.frame(layer)}, start, stop)"


# ---------------------------------------------------------------- backward


def _products(shape: Shape, layer: int, start: str, count: str) -> list[str]:
    frame = shape.frame(layer)
    calls = [f"{name}_{layer}({frame}, {start}, 0, {count})" for name in ("d_inputs", "d_weights")]
    return [*shape.wait, *calls]


def _static_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    for layer in reversed(shape.layers):
        yield from shape.wait
        for t in reversed(range(schedule.window)):
            yield f"back_step_{layer}({shape.frame(layer)}, {t}, {t})"
        yield from _products(shape, layer, "0", "limit")


def _dynamic_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    window = schedule.window
    yield f"start = (limit - 1) // {window} * {window}"
    yield "while start >= 0:"
    yield f"    stop = min(start + {window}, limit)"
    for layer in reversed(shape.layers):
        yield from (f"    {line}" for line in shape.wait)
        step = f"back_step_{layer}({shape.frame(layer)}, t{{0}}, t{{0}} - start)"
        yield "    t = stop - 1"
        yield from (
            f"    {line}" for line in _unrolled(step, schedule.unroll, "t - {} >= start - 1", "t >= start", "t -=")
        )
        yield from (f"    {line}" for line in _products(shape, layer, "start", "stop - start"))
    yield from _release(shape)
    yield f"    start -= {window}"

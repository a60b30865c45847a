"""Schedule -> the text of a network's program: straight line, loop or single step, forward and backward.

The text calls the layers' kernels and holds nothing else, so it shows what unrolling is: static has one call of a
layer's step per time step, dynamic one loop with `unroll` of them in its body and a second loop for the remainder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.products import PANEL_ROWS
from unrollbench.kernels.source import field, function, wait
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
        return [wait(self.layouts[0])] if self.layouts[0].threads > 1 else []


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
    """The input projection of a window, unless that is one step long and each step does its own.

    Then nothing waits for other threads here either: a thread has its own rows of all layers, or a step waits itself.
    """
    if shape.layouts[0].fused:
        return []
    call = f"project_{layer}({shape.frame(layer)}, {start}, {slot}, {count})"
    return [*shape.wait, call, *shape.wait]


def _static_forward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    for layer in shape.layers:
        yield from _project(shape, layer, "0", "limit")
        for t in range(schedule.window):
            yield f"step_{layer}({shape.frame(layer)}, {t}, {t})"


def _dynamic_forward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    yield "start = 0"
    if schedule.unroll > schedule.window:
        yield f"while start + {schedule.unroll} <= limit:"
        yield from _indented(_long_body(schedule, shape))
        yield f"    start += {schedule.unroll}"
    yield "while start < limit:"
    yield f"    stop = min(start + {schedule.window}, limit)"
    unroll = schedule.unroll if schedule.unroll <= schedule.window else 1
    for layer in shape.layers:
        yield from _indented(_project(shape, layer, "start", "stop - start"))
        step = f"step_{layer}({shape.frame(layer)}, t{{0}}, t{{0}} - start)"
        yield "    t = start"
        yield from _indented(_unrolled(step, unroll, "t + {} <= stop", "t < stop", "t +="))
    yield from _indented(_release(shape, "start", "stop"))
    yield "    start = stop"


def _long_body(schedule: Schedule, shape: Shape) -> Iterable[str]:
    """A loop's body of more copies of the step than a window has: window after window in a straight line."""
    for first, last in Schedule("static", 1, None, schedule.window).windows(schedule.unroll):
        for layer in shape.layers:
            yield from _project(shape, layer, f"start + {first}", f"{last - first}")
            for k in range(first, last):
                yield f"step_{layer}({shape.frame(layer)}, start + {k}, {k - first})"
        yield from _release(shape, f"start + {first}", f"start + {last}")


def _indented(lines: Iterable[str]) -> Iterable[str]:
    return (f"    {line}" for line in lines)


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


def _release(shape: Shape, start: str, stop: str) -> Iterable[str]:
    """The window's saved activations leave resident memory."""
    if shape.swaps:
        yield from shape.wait
        for layer in shape.layers:
            yield f"release_{layer}({shape.frame(layer)}, {start}, {stop})"


# ---------------------------------------------------------------- backward


def _products(shape: Shape, layer: int, start: str, count: str, gathers: bool = False) -> list[str]:
    """The gradients of a window's inputs, and of the weights: of that window, or of all steps that wait for it."""
    frame = shape.frame(layer)
    lines = [*shape.wait, f"d_inputs_{layer}({frame}, {start}, 0, {count})"]
    if not gathers:
        return [*lines, f"d_weights_{layer}({frame}, {start}, 0, {count})"]
    return [*lines, "if due:", f"    d_weights_{layer}({frame}, {start}, 0, waiting - ({start}))"]


def _gathers(schedule: Schedule, shape: Shape) -> bool:
    """Whether windows wait for each other until they fill a panel of the weights' gradients.

    A window does not that has so many rows itself, nor one whose activations leave memory after it.
    """
    return not shape.swaps and schedule.window * shape.layouts[0].batch < PANEL_ROWS


def _due(shape: Shape, start: str) -> str:
    """A line that says whether the window from `start` on is what the steps that wait have waited for.

    waiting: one past the last of them. The first window of all is, however few there are.
    """
    batch = shape.layouts[0].batch
    return f"due = (waiting - ({start})) * {batch} >= min({PANEL_ROWS}, waiting * {batch})"


def _static_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    for layer in reversed(shape.layers):
        yield from shape.wait
        for t in reversed(range(schedule.window)):
            yield f"back_step_{layer}({shape.frame(layer)}, {t}, {t})"
        yield from _products(shape, layer, "0", "limit")


def _dynamic_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    gathers = _gathers(schedule, shape)
    yield "stop = limit"
    if gathers:
        yield "waiting = limit"
    if schedule.unroll > schedule.window:
        yield f"while stop >= {schedule.unroll}:"
        yield from _indented(_long_backward_body(schedule, shape))
        yield f"    stop -= {schedule.unroll}"
    yield "while stop > 0:"
    yield f"    start = (stop - 1) // {schedule.window} * {schedule.window}"
    if gathers:
        yield f"    {_due(shape, 'start')}"
    unroll = schedule.unroll if schedule.unroll <= schedule.window else 1
    for layer in reversed(shape.layers):
        yield from _indented(shape.wait)
        step = f"back_step_{layer}({shape.frame(layer)}, t{{0}}, t{{0}} - start)"
        yield "    t = stop - 1"
        yield from _indented(_unrolled(step, unroll, "t - {} >= start - 1", "t >= start", "t -="))
        yield from _indented(_products(shape, layer, "start", "stop - start", gathers))
    if gathers:
        yield from ("    if due:", "        waiting = start")
    yield from _indented(_release(shape, "start", "stop"))
    yield "    stop = start"


def _long_backward_body(schedule: Schedule, shape: Shape) -> Iterable[str]:
    """`_long_body` in reverse."""
    gathers = _gathers(schedule, shape)
    windows = list(Schedule("static", 1, None, schedule.window).windows(schedule.unroll))
    for first, last in ((schedule.unroll - b, schedule.unroll - a) for a, b in windows):
        start = f"stop - {schedule.unroll - first}"
        if gathers:
            yield _due(shape, start)
        for layer in reversed(shape.layers):
            yield from shape.wait
            for k in reversed(range(first, last)):
                t = f"stop - {schedule.unroll - k}"
                yield f"back_step_{layer}({shape.frame(layer)}, {t}, {k - first})"
            yield from _products(shape, layer, start, f"{last - first}", gathers)
        if gathers:
            yield from ("if due:", f"    waiting = {start}")
        yield from _release(shape, start, f"stop - {schedule.unroll - last}")

"""Schedule -> the text of a network's program: straight line, loop or single step, forward and backward.

The text calls the layers' kernels and holds nothing else, so it shows what unrolling is: static has one call of a
layer's step per time step, dynamic one loop with `unroll` of them in its body and a second loop for the remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.source import barrier, field, function, wait
from unrollbench.kernels.weight_gradient import PANEL_ROWS, apart
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

    @property
    def barrier(self) -> list[str]:
        """The same where threads share rows; those with rows of their own read only what they wrote themselves."""
        return barrier(self.layouts[0])

    @property
    def gathering(self) -> list[str]:
        """The same where threads have rows of their own, before weight gradients of all rows."""
        if not self.layouts[0].sums_apart:
            return [] if self.barrier else self.wait
        return ["if apart == 0:", *_indented(self.wait)]

    @property
    def sum(self) -> list[str]:
        """Lines that add up the weight gradients of rows that threads had to themselves."""
        if not self.layouts[0].sums_apart:
            return []
        return ["if apart:", *_indented([*self.wait, f"sum_gradients({self.frame(0)})"])]


def forward(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """Entry point name -> text of the forward program: "forward", or "begin" and "step" if stepwise."""
    begin = [f"begin_{layer}({shape.frame(layer)})" for layer in shape.layers]
    if schedule.execution == "stepwise":
        lines = [f"t = {field(shape.layouts[0], 't')}"]
        for layer in shape.layers:
            lines += [*_project(shape, layer, "t", "1"), f"step_{layer}({shape.frame(layer)}, t, 0)"]
        return {"begin": function("begin", "f", begin), "step": function("step", "f", lines)}
    walk = _static_forward if schedule.execution == "static" else _dynamic_forward
    wait = shape.barrier if shape.layouts[0].fused else []  # a projection waits itself
    return {"forward": function("forward", "f", [_limit(shape), *begin, *wait, *walk(schedule, shape)])}


def backward(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """Entry point name -> text of the backward program: "backward", or three parts of it if stepwise."""
    begin = [f"begin_backward_{layer}({shape.frame(layer)})" for layer in shape.layers]
    if schedule.execution == "stepwise":
        lines = [f"t = {field(shape.layouts[0], 't')}"]
        for layer in reversed(shape.layers):
            lines += [*shape.barrier, f"back_step_{layer}({shape.frame(layer)}, t, 0)", *shape.barrier]
            lines.append(_d_inputs(shape, layer, "t", "1"))
        weights = [_d_weights(shape, layer, "0", "limit") for layer in shape.layers]
        weights = [*_limits(shape), *weights, *shape.sum]
        found = {"begin_backward": begin, "back_step": lines, "d_weights": weights}
        return {name: function(name, "f", each) for name, each in found.items()}
    walk = _static_backward if schedule.execution == "static" else _dynamic_backward
    lines = [*_limits(shape), *begin, *walk(schedule, shape), *shape.sum]
    return {"backward": function("backward", "f", lines)}


def _limit(shape: Shape) -> str:
    """A line that reads the longest length, past which no step is computed."""
    return f"limit = {field(shape.layouts[0], 'limit')}"


def _limits(shape: Shape) -> list[str]:
    """The same, and whether threads add up the weight gradients of their own rows, where they may."""
    layout = shape.layouts[0]
    return [_limit(shape), *([f"apart = {apart(layout, 'limit')}"] if layout.sums_apart else [])]


# ---------------------------------------------------------------- forward


def _project(shape: Shape, layer: int, start: str, count: str, slot: str = "0") -> list[str]:
    """The input projection of a window, unless that is one step long and each step does its own."""
    if shape.layouts[0].fused:
        return []
    call = f"project_{layer}({shape.frame(layer)}, {start}, {slot}, {count})"
    return [*shape.barrier, call, *shape.barrier]


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


def _d_inputs(shape: Shape, layer: int, start: str, count: str) -> str:
    """The gradients of a layer's inputs of `count` steps from `start`."""
    return f"d_inputs_{layer}({shape.frame(layer)}, {start}, 0, {count})"


def _d_weights(shape: Shape, layer: int, start: str, count: str) -> str:
    """What those steps add to the gradients of a layer's weights."""
    return f"d_weights_{layer}({shape.frame(layer)}, {start}, 0, {count})"


def _static_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    for layer in reversed(shape.layers):
        yield from shape.barrier
        for t in reversed(range(schedule.window)):
            yield f"back_step_{layer}({shape.frame(layer)}, {t}, {t})"
        yield from [*shape.barrier, _d_inputs(shape, layer, "0", "limit")]
        yield from [*shape.gathering, _d_weights(shape, layer, "0", "limit")]


def _backward_window(
    schedule: Schedule, shape: Shape, start: str, stop: str, count: str, steps: Callable[[int], Iterable[str]]
) -> Iterable[str]:
    """The lines of one window, of which steps(layer) are a layer's steps.

    Windows wait for each other as long as their rows, of a thread that may add up its own, fit into a panel of the
    weights' gradients, but not if their activations leave memory. waiting: one past the last step that waits; due:
    whether this window is the last of them.
    """
    layout, most = shape.layouts[0], 0 if shape.swaps else PANEL_ROWS
    rows = -(-layout.batch // layout.threads) if layout.sums_apart else layout.batch
    yield f"due = 1 if (waiting - ({start}) + {schedule.window}) * {rows} > {most} else {start} == 0"
    for layer in reversed(shape.layers):
        yield from [*shape.barrier, *steps(layer), *shape.barrier, _d_inputs(shape, layer, start, count)]
        weights = [*shape.gathering, _d_weights(shape, layer, start, f"waiting - ({start})")]
        yield from ["if due:", *_indented(weights)]
    yield from ["if due:", f"    waiting = {start}", *_release(shape, start, stop)]


def _dynamic_backward(schedule: Schedule, shape: Shape) -> Iterable[str]:
    unroll = schedule.unroll if schedule.unroll <= schedule.window else 1

    def steps(layer: int) -> Iterable[str]:
        step = f"back_step_{layer}({shape.frame(layer)}, t{{0}}, t{{0}} - start)"
        return ["t = stop - 1", *_unrolled(step, unroll, "t - {} >= start - 1", "t >= start", "t -=")]

    yield "stop, waiting = limit, limit"
    if schedule.unroll > schedule.window:
        yield f"while stop >= {schedule.unroll}:"
        yield from _indented(_long_backward_body(schedule, shape))
        yield f"    stop -= {schedule.unroll}"
    yield "while stop > 0:"
    yield f"    start = (stop - 1) // {schedule.window} * {schedule.window}"
    yield from _indented(_backward_window(schedule, shape, "start", "stop", "stop - start", steps))
    yield "    stop = start"


def _long_backward_body(schedule: Schedule, shape: Shape) -> Iterable[str]:
    """`_long_body` in reverse."""
    windows = list(Schedule("static", 1, None, schedule.window).windows(schedule.unroll))
    for first, last in ((schedule.unroll - b, schedule.unroll - a) for a, b in windows):

        def steps(layer: int, first: int = first, last: int = last) -> Iterable[str]:
            for k in reversed(range(first, last)):
                yield f"back_step_{layer}({shape.frame(layer)}, stop - {schedule.unroll - k}, {k - first})"

        start, stop = (f"stop - {schedule.unroll - k}" for k in (first, last))
        yield from _backward_window(schedule, shape, start, stop, f"{last - first}", steps)

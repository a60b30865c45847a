"""Schedule -> text of the driver: on the host a straight line or steps, on the device a loop.

static     `run_forward` has one launch per (layer, t, stage): captured, they are one CUDA graph
stepwise   the same launches from a Python loop over t
dynamic    one cooperative kernel per direction, whose while loop has `unroll` copies of the step in its body and a
           barrier of the grid after each stage; the host launches it once, or window by window where memory is swapped

Names called on the host launch a kernel, or are a product of the library's (`project`, `d_inputs`, `d_weights`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from unrollbench.kernels.cuda.layout import LayerLayout
from unrollbench.kernels.cuda.text import ARGUMENTS
from unrollbench.kernels.cuda.tile import indented
from unrollbench.kernels.source import function
from unrollbench.schedule import Schedule

FORWARD, BACKWARD = "loop_forward", "loop_backward"
"""Names of the dynamic program's kernels."""


@dataclass(frozen=True)
class Shape:
    """What a driver's text depends on beside the schedule. residents: calls that load weights, by direction."""

    layouts: Sequence[LayerLayout]
    steps: int
    residents: dict[str, tuple[str, ...]]

    @property
    def swaps(self) -> bool:
        return self.layouts[0].swaps

    @property
    def train(self) -> bool:
        return self.layouts[0].train

    def carries(self, layer: int) -> bool:
        """Whether the layer has state that lives in windows."""
        layout = self.layouts[layer]
        return any(layout.arrays[name].slots == "window" for name in layout.cell.state)


# ---------------------------------------------------------------- on the host


def host(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """`run_forward(limit)` and `run_backward(limit)`, which start everything and wait for nothing."""
    walks = {"static": (_static_forward, _static_backward), "stepwise": (_stepwise_forward, _stepwise_backward)}
    dynamic = (_swapping_forward, _swapping_backward) if shape.swaps else (_dynamic_forward, _dynamic_backward)
    forward, backward = walks.get(schedule.execution, dynamic)
    texts = {"run_forward": _surrounded("forward", forward(schedule, shape))}
    if shape.train:
        texts["run_backward"] = _surrounded("backward", backward(schedule, shape))
    return texts


def _surrounded(direction: str, lines: Iterable[str]) -> str:
    body = [f"begin_{direction}(steps)", *lines, f"end_{direction}(steps)"]
    return function(f"run_{direction}", "steps, limit", body)


def _stages(shape: Shape, layer: int, arguments: str) -> list[str]:
    return [f"forward_{layer}_{s.index}({arguments})" for s in shape.layouts[layer].stages]


def _back_stages(shape: Shape, layer: int, arguments: str) -> list[str]:
    return [f"backward_{layer}_{s.index}({arguments})" for s in reversed(shape.layouts[layer].stages)]


def _static_forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    for layer in range(schedule.num_layers):
        yield f"project_{layer}(0, 0, 1, 0, limit)"
        for t in range(shape.steps):
            yield from _stages(shape, layer, f"{t}, {t}, {t + 1}")


def _static_backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    for layer in reversed(range(schedule.num_layers)):
        for t in reversed(range(shape.steps)):
            # Gates past the longest length hold nothing: a step there is not run, and owes nothing to the one before.
            yield from _back_stages(shape, layer, f"{t}, {t}, {t + 1}, 0, limit - {t + 1}")
        yield f"finish_{layer}(0, 0, 1)"
        yield f"d_inputs_{layer}(0, 0, 1, 0, limit)"
    yield from _weights(shape)


def _weights(shape: Shape) -> Iterator[str]:
    yield from (f"d_weights_{layer}(0, 0, 1, 0, limit)" for layer in range(len(shape.layouts)))
    yield "d_diagonals()"


def _stepwise_forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    yield "for t in range(limit):"
    yield "    s, n = t % 2, (t + 1) % 2"
    for layer in range(schedule.num_layers):
        yield f"    project_{layer}(t, s, n, 0, 1)"
        yield from indented(_stages(shape, layer, "t, s, n"))


def _stepwise_backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    yield "for t in range(limit - 1, -1, -1):"
    for layer in reversed(range(schedule.num_layers)):
        yield from indented(_back_stages(shape, layer, "t, 0, 1, 0, limit - 1 - t"))
        if layer:
            yield f"    d_inputs_{layer}(t, 0, 1, 0, 1)"
    yield from (f"finish_{layer}(0, 0, 1)" for layer in range(schedule.num_layers))
    yield "d_inputs_0(0, 0, 1, 0, limit)"
    yield from _weights(shape)


def _dynamic_forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    yield f"{FORWARD}(0, limit)"


def _dynamic_backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    yield f"{BACKWARD}(0, limit)"
    yield "d_inputs_0(0, 0, 1, 0, limit)"
    yield from _weights(shape)


def _swapping_forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    """Each window in one of two places in turn; what it saved leaves while the next one is computed."""
    yield f"for start in range(0, limit, {schedule.window}):"
    yield f"    stop, number = min(start + {schedule.window}, limit), start // {schedule.window}"
    yield "    place_is_free(number)"
    yield f"    {FORWARD}(start, stop, base(number - 1), base(number), {schedule.window} * (number > 0))"
    yield "    swap_out(number)"
    yield f"last = (limit - 1) // {schedule.window}"
    yield f"keep_state(0, limit - last * {schedule.window} if limit else 0, base(max(last, 0)))"


def _swapping_backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    """Windows from the last to the first; the one before returns while one is computed."""
    yield f"for number in range((limit - 1) // {schedule.window}, -1, -1):"
    yield f"    start, stop = number * {schedule.window}, min((number + 1) * {schedule.window}, limit)"
    yield "    swap_in(number)"
    yield "    swap_in_ahead(number - 1)"
    yield f"    {BACKWARD}(start, stop, 0, base(number))"
    yield "    d_inputs_0(start, 0, 1, base(number), stop - start)"
    for layer in range(len(shape.layouts)):
        yield f"    d_weights_{layer}(start, 0, 1, base(number), stop - start, stop < limit)"
    yield "    place_is_done(number)"
    yield "if limit == 0:"
    yield from indented(f"d_weights_{layer}(0, 0, 1, 0, 0)" for layer in range(len(shape.layouts)))
    yield "d_diagonals()"


# ---------------------------------------------------------------- on the device


def device(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """The dynamic program's kernels by name; {} for the others."""
    if schedule.execution != "dynamic":
        return {}
    texts = {FORWARD: _kernel(FORWARD, shape, "forward", _loop_forward(schedule, shape))}
    if shape.train:
        texts[BACKWARD] = _kernel(BACKWARD, shape, "backward", _loop_backward(schedule, shape))
    return texts


def _kernel(name: str, shape: Shape, direction: str, lines: Iterable[str]) -> str:
    """The kernel's text: steps t to s of the window at `base`; no thread leaves before the last barrier."""
    loads = [f"{call}(w, f)" for call in shape.residents.get(direction, ())]
    return function(name, ARGUMENTS, ["grid = cuda.cg.this_grid()", *loads, "cuda.syncthreads()", *lines])


def _call(name: str, t: str, s: str, n: str, count: str = "0", base: str = "base") -> str:
    return f"{name}(m, w, f, lengths, {t}, {s}, {n}, {base}, {count})"


def _project(shape: Shape, layer: int, start: str, steps: str) -> list[str]:
    carry = [f"if last > 0:\n    {_call(f'carry_{layer}', '0', 'last', 'source')}"] if shape.carries(layer) else []
    lines = [line for text in carry for line in text.split("\n")]
    return [*lines, _call(f"project_{layer}", start, "0", "1", steps), "grid.sync()"]


def _step(shape: Shape, layer: int, t: str, s: str, n: str) -> list[str]:
    calls = (_call(f"forward_{layer}_{s_.index}", t, s, n) for s_ in shape.layouts[layer].stages)
    return [line for call in calls for line in (call, "grid.sync()")]


def _loop_forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    window, unroll = schedule.window, schedule.unroll
    yield "start, stop_all, source, last = t, s, n, count"
    if unroll > window:
        yield f"while start + {unroll} <= stop_all:"
        for first, stop in Schedule("static", 1, None, window).windows(unroll):
            for layer in range(schedule.num_layers):
                yield from indented(_project(shape, layer, f"start + {first}", f"{stop - first}"))
                for k in range(first, stop):
                    yield from indented(_step(shape, layer, f"start + {k}", f"{k - first}", f"{k - first + 1}"))
            yield f"    source, last = base, {stop - first}"
        yield f"    start += {unroll}"
        unroll = 1
    yield "while start < stop_all:"
    yield f"    stop = min(start + {window}, stop_all)"
    for layer in range(schedule.num_layers):
        yield from indented(_project(shape, layer, "start", "stop - start"))
        yield "    now = start"
        for copies, test in _copies(unroll, "now + {} <= stop", "now < stop"):
            yield f"    while {test}:"
            for k in range(copies):
                yield from indented(
                    _step(shape, layer, f"now + {k}", f"now + {k} - start", f"now + {k + 1} - start"), 2
                )
            yield f"        now += {copies}"
    yield "    source, last = base, stop - start"
    yield "    start = stop"


def _copies(unroll: int, fits: str, remains: str) -> Iterator[tuple[int, str]]:
    """A loop with `unroll` copies of the step in its body, and one for the remainder."""
    if unroll > 1:
        yield unroll, fits.format(unroll)
    yield 1, remains


def _back_step(shape: Shape, layer: int, t: str, s: str, n: str, later: str) -> list[str]:
    stages = reversed(shape.layouts[layer].stages)
    calls = (_call(f"backward_{layer}_{s_.index}", t, s, n, later) for s_ in stages)
    return [line for call in calls for line in (call, "grid.sync()")]


def _end_of_window(shape: Shape, layer: int, start: str, steps: str) -> list[str]:
    """What the window's gradients still owe: the state before it, and the layer below, which waits for it.

    Below the lowest layer nobody waits: what `finish` adds to is next touched by the same thread of the same tile.
    """
    finish = _call(f"finish_{layer}", start, "0", "1")
    if layer == 0:
        return [finish]
    return [finish, _call(f"d_inputs_{layer}", start, "0", "1", steps), "grid.sync()"]


def _loop_backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
    window, unroll = schedule.window, schedule.unroll
    yield "start_all, stop = t, s"
    if unroll > window:
        # Windows of this body begin at `stop - unroll`, wherever that is: they are whole, and nothing outlives them.
        yield f"while stop - {unroll} >= start_all:"
        for first, end in reversed(list(Schedule("static", 1, None, window).windows(unroll))):
            for layer in reversed(range(schedule.num_layers)):
                start = f"stop - {unroll - first}"
                for k in reversed(range(first, end)):
                    t, slot = f"stop - {unroll - k}", k - first
                    yield from indented(_back_step(shape, layer, t, f"{slot}", f"{slot + 1}", f"{end - 1 - k}"))
                yield from indented(_end_of_window(shape, layer, start, f"{end - first}"))
        yield f"    stop -= {unroll}"
        unroll = 1
    yield "while stop > start_all:"
    yield f"    start = (stop - 1) // {window} * {window}"
    for layer in reversed(range(schedule.num_layers)):
        yield "    now = stop - 1"
        for copies, test in _copies(unroll, "now - {} >= start - 1", "now >= start"):
            yield f"    while {test}:"
            for k in range(copies):
                at = f"now - {k}"
                step = _back_step(shape, layer, at, f"{at} - start", f"{at} - start + 1", f"stop - 1 - ({at})")
                yield from indented(step, 2)
            yield f"        now -= {copies}"
        yield from indented(_end_of_window(shape, layer, "start", "stop - start"))
    yield "    stop = start"

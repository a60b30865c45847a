"""Schedule -> text of the dynamic program's loop on the device, and what follows from how it goes.

One cooperative kernel per direction, whose while loop has `unroll` copies of the step in its body and a barrier of the
grid after each stage. Several layers run as a `wavefront`. One layer, or layers where a window of parallel_iterations
has no step for each of them, run window after window, and layer after layer in each window:

    2 layers, T = 3, parallel_iterations = 1      p: the product of a window with its inputs
    layer 0   p 0       p 1       p 2
    layer 1       p 0       p 1       p 2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unrollbench.kernels.cuda.specialize import BACKWARD, FORWARD, Shape
from unrollbench.kernels.cuda.text import ARGUMENTS, call
from unrollbench.kernels.cuda.tile import indented
from unrollbench.kernels.cuda.wavefront import BARRIER, Wavefront, chunk_of, copies
from unrollbench.kernels.source import function
from unrollbench.schedule import Schedule


def device(schedule: Schedule, shape: Shape) -> dict[str, str]:
    """The dynamic program's kernels by name; {} for the others."""
    if schedule.execution != "dynamic":
        return {}
    chunk = chunk_of(schedule)
    walk = None if chunk is None else Wavefront(shape, chunk, schedule.unroll)
    lines = _forward(schedule, shape) if walk is None else walk.forward()
    texts = {FORWARD: _kernel(FORWARD, shape, "forward", lines)}
    if shape.train:
        lines = _backward(schedule, shape) if walk is None else walk.backward()
        texts[BACKWARD] = _kernel(BACKWARD, shape, "backward", lines)
    return texts


def slots(schedule: Schedule, swaps: bool) -> int:
    """Time steps that a window's arrays have slots for."""
    chunk = chunk_of(schedule)
    return schedule.window if chunk is None or swaps else chunk


def last_slot(schedule: Schedule, steps: int) -> int:
    """The slot of a window's arrays where the state after the last step is, 0 if there was no step."""
    if schedule.execution == "stepwise":
        return steps % 2
    window, unroll = chunk_of(schedule) or schedule.window, schedule.unroll
    if unroll > schedule.window and chunk_of(schedule) is None:  # bodies of several windows, then windows
        bodies = steps // unroll
        steps -= bodies * unroll
        if bodies and not steps:
            steps = unroll
    return (steps - 1) % window + 1 if steps else 0


def _kernel(name: str, shape: Shape, direction: str, lines: Iterable[str]) -> str:
    """The kernel's text: steps t to s of the window at `base`; no thread leaves before the last barrier."""
    loads = [f"{load}(w, f)" for load in shape.residents.get(direction, ())]
    return function(name, ARGUMENTS, ["grid = cuda.cg.this_grid()", *loads, "cuda.syncthreads()", *lines])


# ---------------------------------------------------------------- layer after layer


def _project(shape: Shape, layer: int, start: str, steps: str) -> list[str]:
    carry = [f"if last > 0:\n    {call(f'carry_{layer}', '0', 'last', 'source')}"] if shape.carries(layer) else []
    lines = [line for text in carry for line in text.split("\n")]
    return [*lines, call(f"project_{layer}", start, "0", "1", steps), BARRIER]


def _step(shape: Shape, layer: int, t: str, s: str, n: str) -> list[str]:
    calls = (call(f"forward_{layer}_{s_.index}", t, s, n) for s_ in shape.layouts[layer].stages)
    return [line for call in calls for line in (call, BARRIER)]


def _forward(schedule: Schedule, shape: Shape) -> Iterator[str]:
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
        for count, test in copies(unroll, "now + {} <= stop", "now < stop"):
            yield f"    while {test}:"
            for k in range(count):
                yield from indented(
                    _step(shape, layer, f"now + {k}", f"now + {k} - start", f"now + {k + 1} - start"), 2
                )
            yield f"        now += {count}"
    yield "    source, last = base, stop - start"
    yield "    start = stop"


def _back_step(shape: Shape, layer: int, t: str, s: str, n: str, later: str) -> list[str]:
    stages = reversed(shape.layouts[layer].stages)
    calls = (call(f"backward_{layer}_{s_.index}", t, s, n, later) for s_ in stages)
    return [line for call in calls for line in (call, BARRIER)]


def _end_of_window(shape: Shape, layer: int, start: str, steps: str) -> list[str]:
    """What the window's gradients still owe: the state before it, and the layer below, which waits for it.

    Below the lowest layer nobody waits: what `finish` adds to is next touched by the same thread of the same tile.
    """
    finish = call(f"finish_{layer}", start, "0", "1")
    if layer == 0:
        return [finish]
    return [finish, call(f"d_inputs_{layer}", start, "0", "1", steps), BARRIER]


def _backward(schedule: Schedule, shape: Shape) -> Iterator[str]:
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
        for count, test in copies(unroll, "now - {} >= start - 1", "now >= start"):
            yield f"    while {test}:"
            for k in range(count):
                at = f"now - {k}"
                step = _back_step(shape, layer, at, f"{at} - start", f"{at} - start + 1", f"stop - 1 - ({at})")
                yield from indented(step, 2)
            yield f"        now -= {count}"
        yield from indented(_end_of_window(shape, layer, "start", "stop - start"))
    yield "    stop = start"

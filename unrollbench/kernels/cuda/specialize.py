"""Schedule -> text of the driver on the host: a straight line, steps, or the launch of a loop that is on the device.

static     `run_forward` has one launch per (layer, t, stage): captured, they are one CUDA graph
stepwise   the same launches from a Python loop over t
dynamic    one cooperative kernel per direction (`loop`), launched once, or window by window where memory is swapped

Names called on the host launch a kernel, or are a product of the library's (`project`, `d_inputs`, `d_weights`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from unrollbench.kernels.cuda.layout import LayerLayout
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

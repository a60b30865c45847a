"""Which (layer, time step) runs when: pure data.

    static     one window of all T steps      projections of a layer for all T, then its T steps, then the next layer
    dynamic    windows of parallel_iterations steps, one after the other; inside a window as static does
    stepwise   windows of one step

Inside a window the layers run as a wavefront that is one window deep: layer l starts when layer l - 1 has finished it.

    dynamic, 2 layers, T = 5, parallel_iterations = 2        time -->
    layer 0   0 1     2 3     4
    layer 1       0 1     2 3   4

On a GPU, where what a step costs is above all a barrier of the grid, a dynamic program's layers work at the same time
instead, so far apart that all of them are within one window: `kernels/cuda/wavefront.py` has that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unrollbench.case import Case


@dataclass(frozen=True)
class Schedule:
    """How the (layer, t) grid is walked. max_time is None where any T will do (dynamic, stepwise).

    window: time steps whose inputs are projected in one product (on a processor one per thread, and without those that
    steps project ahead), or with one step a part of that step's; unroll: copies of the step in the loop's body.
    """

    execution: str
    num_layers: int
    max_time: int | None
    window: int
    unroll: int = 1

    @property
    def step_copies(self) -> int:
        """Copies of a layer's step on the program's main path: T if static, `unroll` if dynamic, 1 if stepwise."""
        return self.window if self.execution == "static" else self.unroll

    def windows(self, steps: int) -> Iterator[tuple[int, int]]:
        """(first, one past the last) time step of each window, in forward order."""
        for start in range(0, steps, self.window):
            yield start, min(start + self.window, steps)

    def order(self, steps: int) -> Iterator[tuple[int, int]]:
        """(layer, t) in the order in which a processor's forward pass runs them; the backward pass runs the reverse."""
        for start, stop in self.windows(steps):
            for layer in range(self.num_layers):
                for t in range(start, stop):
                    yield layer, t


def schedule(
    execution: str, *, num_layers: int, max_time: int, unroll: int = 1, parallel_iterations: int = 32
) -> Schedule:
    """The schedule of an execution for T = max_time; only static depends on T."""
    if execution == "static":
        return Schedule("static", num_layers, max_time, window=max_time)
    if execution == "dynamic":
        return Schedule("dynamic", num_layers, None, window=parallel_iterations, unroll=unroll)
    return Schedule("stepwise", num_layers, None, window=1)


def of_case(case: Case) -> Schedule:
    """The schedule of a case."""
    canonical = case.canonical()
    unroll = canonical.unroll if isinstance(canonical.unroll, int) else 1
    return schedule(
        canonical.execution,
        num_layers=case.num_layers,
        max_time=case.sequence_length,
        unroll=unroll,
        parallel_iterations=canonical.parallel_iterations or 1,
    )

"""Text of the loop on the device over several layers: a wavefront of chunks, for a dynamic program.

A chunk is parallel_iterations // L time steps, and each layer is one chunk behind the layer below it, so that together
they are at most parallel_iterations steps deep. On a diagonal each layer has a chunk of its own, at `head` in layer 0:

    3 layers, T = 5, parallel_iterations = 6                    slow Python of the forward pass
    layer 0   p 0 1   p 2 3   p 4                               for head in range(0, T + (L - 1) * chunk, chunk):
    layer 1           p 0 1   p 2 3   p 4                           project every layer's chunk;       barrier
    layer 2                   p 0 1   p 2 3   p 4                   for k in range(chunk):
                                                                        for stage in stages:
    p: the product of a chunk with its inputs                               every layer's stage;       barrier

One such pass over the layers is a super-step: all of them make step k of their chunks between the same barriers, which
is some T + (L - 1) * chunk times instead of L * T. `unroll` is how many super-steps the loop's body has. The backward
pass goes the same way back, and at a diagonal's end makes the gradients of every chunk's inputs.

One chunk is all that the arrays between layers hold, since they are handed over while no layer steps: forward, a layer
reads the layer below where it projects, behind one barrier and before another; backward, it writes what the layer below
reads where it makes the gradients of its inputs. Where memory is swapped a launch is a window, which has all its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unrollbench.kernels.cuda.specialize import Shape
from unrollbench.kernels.cuda.text import call
from unrollbench.kernels.cuda.tile import indented
from unrollbench.schedule import Schedule

BARRIER = "grid.sync()"


def chunk_of(schedule: Schedule) -> int | None:
    """Time steps of a chunk; None where layers do not overlap: there is one, or the window has no step for each.

    A body that is longer than a chunk has whole diagonals, so a chunk's steps divide `unroll` then.
    """
    if schedule.execution != "dynamic" or not 1 < schedule.num_layers <= schedule.window:
        return None
    longest = schedule.window // schedule.num_layers
    if schedule.unroll <= longest:
        return longest
    return max(steps for steps in range(1, longest + 1) if schedule.unroll % steps == 0)


def plus(name: str, number: int) -> str:
    """The expression name + number; without a name the number."""
    if not name or number == 0:
        return name or str(number)
    return f"{name} + {number}" if number > 0 else f"{name} - {-number}"


def copies(unroll: int, fits: str, remains: str) -> Iterator[tuple[int, str]]:
    """A loop with `unroll` copies of the step in its body, and one for the remainder: (copies, condition) of each."""
    if unroll > 1:
        yield unroll, fits.format(unroll)
    yield 1, remains


@dataclass(frozen=True)
class Wavefront:
    """A stack's walk in chunks. Variables of the text: start, stop (the launch's steps), head, depth, k and now."""

    shape: Shape
    chunk: int
    unroll: int

    @property
    def layers(self) -> int:
        return len(self.shape.layouts)

    @property
    def lead(self) -> int:
        """How many time steps layer 0 is ahead of the last layer."""
        return (self.layers - 1) * self.chunk

    @property
    def whole(self) -> int:
        """Diagonals of a body that has whole ones."""
        return self.unroll // self.chunk

    def forward(self) -> Iterator[str]:
        """All diagonals, for steps t to s."""
        yield f"# a wavefront: each layer is {self.chunk} steps behind the layer below it"
        yield "start, stop, source, last = t, s, n, count"
        yield "head = start"
        yield f"end = stop + {self.lead} if start < stop else start"
        yield "while head < end:"
        if self.unroll <= self.chunk:
            yield from indented(self._forward_diagonal(self.unroll))
            return
        yield f"    if max({plus('head', (self.whole - 1) * self.chunk - self.lead)}, start) + {self.chunk} <= stop:"
        for _ in range(self.whole):
            yield from indented(self._project(), 2)
            yield from indented((line for k in range(self.chunk) for line in self._step("", k)), 2)
            yield f"        head += {self.chunk}"
        yield "    else:"
        yield from indented(self._forward_diagonal(1), 2)

    def backward(self) -> Iterator[str]:
        """All diagonals from the last to the first, for steps t to s."""
        yield f"# a wavefront back: each layer is {self.chunk} steps behind the layer above it"
        yield "start, stop = t, s"
        chunks = f"(stop - start + {self.chunk - 1}) // {self.chunk}"
        yield f"head = start + ({plus(chunks, self.layers - 2)}) * {self.chunk} if start < stop else start - 1"
        yield "while head >= start:"
        if self.unroll <= self.chunk:
            yield from indented(self._backward_diagonal(self.unroll))
            return
        earliest = plus("head", (1 - self.whole) * self.chunk)
        yield f"    if {earliest} >= start and max(head - {self.lead}, start) + {self.chunk} <= stop:"
        for _ in range(self.whole):
            yield from indented((line for k in reversed(range(self.chunk)) for line in self._back_step("", k)), 2)
            yield from indented(self._d_inputs(), 2)
            yield f"        head -= {self.chunk}"
        yield "    else:"
        yield from indented(self._backward_diagonal(1), 2)

    # ------------------------------------------------------------ one diagonal

    @property
    def _depth(self) -> str:
        """Super-steps of a diagonal: the steps of the earliest chunk there, since only the last one can be short."""
        return f"depth = min({self.chunk}, stop - max(head - {self.lead}, start))"

    def _forward_diagonal(self, unroll: int) -> Iterator[str]:
        yield self._depth
        yield from self._project()
        yield "k = 0"
        for count, test in copies(unroll, "k + {} <= depth", "k < depth"):
            yield f"while {test}:"
            for copy in range(count):
                yield from indented(self._step("k", copy))
            yield f"    k += {count}"
        yield f"head += {self.chunk}"

    def _backward_diagonal(self, unroll: int) -> Iterator[str]:
        yield self._depth
        yield "k = depth - 1"
        for count, test in copies(unroll, "k - {} >= -1", "k >= 0"):
            yield f"while {test}:"
            for copy in range(count):
                yield from indented(self._back_step("k", -copy))
            yield f"    k -= {count}"
        yield from self._d_inputs()
        yield f"head -= {self.chunk}"

    def _active(self, layer: int, at: str) -> str:
        """Whether the layer has a step where layer 0 is at time step `at`, if it goes on past the last one."""
        return f"if start <= {plus(at, -layer * self.chunk)} < stop:" if layer else f"if {at} < stop:"

    def _slots(self, variable: str, k: int, t: str) -> tuple[str, str]:
        """s and n at step k of a chunk, which is time step t: of the chunk, or of the window where that is swapped."""
        if self.shape.swaps:
            return f"{t} - start", f"{t} - start + 1"
        return plus(variable, k), plus(variable, k + 1)

    def _of_chunk(self, name: str, layer: int) -> str:
        """A call for all steps of the layer's chunk."""
        first, steps = plus("head", -layer * self.chunk), f"{plus('stop', layer * self.chunk)} - head"
        return call(f"{name}_{layer}", first, *self._slots("", 0, first), f"min({self.chunk}, {steps})")

    def _project(self) -> Iterator[str]:
        for layer in range(self.layers):
            yield self._active(layer, "head")
            yield from indented([*self._carry(layer), self._of_chunk("project", layer)])
        yield BARRIER

    def _carry(self, layer: int) -> list[str]:
        """Slot 0 is the state before the chunk: the one after the chunk before it, or after the window before this."""
        if not self.shape.carries(layer):
            return []
        first = plus("head", -layer * self.chunk)
        if self.shape.swaps:
            return [f"if {first} == start and last > 0:", f"    {call(f'carry_{layer}', '0', 'last', 'source')}"]
        return [f"if {first} > start:", f"    {call(f'carry_{layer}', '0', f'{self.chunk}', 'base')}"]

    def _d_inputs(self) -> Iterator[str]:
        """What the chunks' gradients still owe: the states before them, and the layers below, which wait for it."""
        for layer in reversed(range(self.layers)):
            yield self._active(layer, "head")
            yield from indented(self._of_chunk(name, layer) for name in ("finish", "d_inputs")[: 1 + (layer > 0)])
        yield BARRIER

    # ------------------------------------------------------------ one super-step

    def _step(self, variable: str, k: int) -> Iterator[str]:
        names = [[f"forward_{x.index}_{s.index}" for s in x.stages] for x in self.shape.layouts]
        return self._super_step(variable, k, names, lambda behind: "0")

    def _back_step(self, variable: str, k: int) -> Iterator[str]:
        """Each layer is told how many steps of its chunk come later."""
        names = [[f"backward_{x.index}_{s.index}" for s in reversed(x.stages)] for x in self.shape.layouts]
        later = plus("", self.chunk - 1 - k) + (f" - {variable}" if variable else "")
        return self._super_step(variable, k, names, lambda behind: f"min({later}, {plus('stop', behind - 1)} - now)")

    def _super_step(self, variable: str, k: int, stages: list[list[str]], count: Callable[[int], str]) -> Iterator[str]:
        """Step `variable` + k of every layer's chunk. count: the calls' last argument, by how far a layer is behind."""
        yield f"now = {plus(f'head + {variable}' if variable else 'head', k)}"
        for turn in range(max(len(names) for names in stages)):
            for layer, names in enumerate(stages):
                if turn < len(names):
                    behind = layer * self.chunk
                    t = plus("now", -behind)
                    yield self._active(layer, "now")
                    yield f"    {call(names[turn], t, *self._slots(variable, k, t), count(behind))}"
            yield BARRIER

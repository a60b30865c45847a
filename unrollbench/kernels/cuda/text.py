"""Expressions that the generated text shares: fields, and arrays at a step.

Every device function and kernel has the arguments ARGUMENTS. t is the time step; s and n are the slots of the window
that hold the state before and after it; base is added to the place of a window's arrays, where windows alternate;
count is what the function says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unrollbench.kernels.cuda.layout import LIMIT, LayerLayout, Slots, StageLayout

ARGUMENTS = "m, w, f, lengths, t, s, n, base, count"


@dataclass(frozen=True)
class Places:
    """Expressions for the arrays of one layer."""

    layout: LayerLayout
    positions: Mapping[tuple[int, str], int]

    def field(self, name: str) -> str:
        """The first element of an array, or of its window in the first of the alternating places."""
        return f"f[{self.positions[self.layout.index, name]}]"

    def _slot(self, slots: Slots, elements: int, after: bool) -> str:
        if slots == "time":
            return f" + (t + 1) * {elements}" if after else f" + t * {elements}"
        if slots == "window":
            return f" + base + {'n' if after else 's'} * {elements}"
        return ""

    def array(self, name: str, after: bool = False) -> str:
        """An array at this step: the state before it, or with `after` past it; temporaries have but one."""
        a = self.layout.arrays[name]
        return self.field(name) + self._slot(a.slots, self.layout.batch * a.size, after and a.is_state)

    def gates(self, s: StageLayout, after: bool = False) -> str:
        """A stage's gates at this step, or with `after` at the next one."""
        slots: Slots = self.layout.saved
        return self.field(f"gates_{s.index}") + self._slot(slots, self.layout.batch * s.width, after)

    def x(self) -> str:
        """The layer's input at this step: the user's, or the new output of the layer below."""
        layout, inputs = self.layout, self.layout.spec.input_size
        if layout.index == 0:
            return f"{self.field('x')} + t * {layout.batch * inputs}"
        below = f"f[{self.positions[layout.index - 1, 'h']}]"
        return below + self._slot(layout.saved, layout.batch * inputs, True)

    def d_x(self) -> str:
        """The gradient of the layer's input at this step; below the top it is of the window only."""
        layout = self.layout
        return f"{self.field('d_x')} + {'s' if layout.index else 't'} * {layout.batch * layout.spec.input_size}"


def limit() -> str:
    """The longest length, past which no step is computed."""
    return f"f[{LIMIT}]"


def call(name: str, t: str, s: str, n: str, count: str = "0", base: str = "base") -> str:
    """A call of one of the functions, in a function or kernel that has the same arguments."""
    return f"{name}(m, w, f, lengths, {t}, {s}, {n}, {base}, {count})"

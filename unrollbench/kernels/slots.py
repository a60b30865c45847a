"""Arrays of rows in memory: one time step's rows make up a slot, of all rows or of those of one thread.

Where threads have slots of their own, each thread's lie together, and begin on a page.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unrollbench.kernels import pack
from unrollbench.kernels.layout import LayerLayout
from unrollbench.tensors import Array


@dataclass(frozen=True)
class Extent:
    """How large an array of rows is: `slots` and, of a state, one more, of all rows or for each thread of its own.

    All layers of a network have the same rows, and so arrays with a slot per time step have as many of a thread.
    """

    slots: int
    width: int
    own: bool
    is_state: bool = False

    def memory(self, layout: LayerLayout) -> tuple[int, ...]:
        """The shape of the memory that it takes: (slots, B, width), or (threads, rows, width)."""
        if not self.own:
            return self.slots + self.is_state, layout.batch, self.width
        return layout.threads, block_rows(layout, self.slots), self.width

    def slots_of(self, memory: Array, layout: LayerLayout) -> Array:
        """The array in such memory: (slots, B, width), or (threads, slots, rows, width)."""
        if not self.own:
            return memory
        slots, rows = self.slots + self.is_state, layout.slot_rows
        return memory[:, : slots * rows].reshape(layout.threads, slots, rows, self.width)


def block_rows(layout: LayerLayout, slots: int) -> int:
    """Rows from a thread's own slots, one of them of a state, to those of the next: whole pages of rows."""
    page = pack.PAGE_BYTES // layout.width
    return -(-(slots + 1) * layout.slot_rows // page) * page


@dataclass
class LayerBuffers:
    """One layer's arrays by frame field. Arrays with a slot per time step are replaced when T changes.

    Arrays of rows are (slots, B, width), or (threads, slots, rows, width) where threads have slots of their own.
    """

    layout: LayerLayout
    fixed: dict[str, Array] = field(default_factory=dict)
    timed: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.timed[name] if name in self.timed else self.fixed[name]

    def parts(self, name: str) -> list[tuple[Array, slice]]:
        """Where an array has the rows of the batch: (slots, rows, width), and which ones these are, for each part.

        That is all of it, or the slots of a thread.
        """
        array = self[name]
        if array.ndim == 3:
            return [(array, slice(0, self.layout.batch))]
        threads = zip(array, self.layout.rows.items, strict=True)
        return [(own[:, :count], slice(first, first + count)) for own, (first, count) in threads]

    def rows(self, name: str, slots: npt.NDArray[np.int64], size: int) -> Array:
        """(B, size), a copy: of each row of the batch what that slot of an array holds."""
        taken = [part[slots[rows], np.arange(part.shape[1]), :size] for part, rows in self.parts(name)]
        return np.concatenate(taken)


def places(layout: LayerLayout, slots: int) -> npt.NDArray[np.int64]:
    """(threads, B): rows from a thread's first one to each row of the batch, in arrays with so many own slots."""
    starts = np.arange(layout.threads) * block_rows(layout, slots)
    rows = [start + np.arange(count) for start, (_, count) in zip(starts, layout.rows.items, strict=True)]
    return np.concatenate(rows) - starts[:, None]

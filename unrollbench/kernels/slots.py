"""Arrays of rows in memory: one time step's rows make up a slot, of all rows or of those of one thread.

Where threads have slots of their own, each thread's lie together, and begin on a page. So do gates, of all rows, where
threads have buffers of their own for these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

import numpy as np
import numpy.typing as npt

from unrollbench.kernels import pack
from unrollbench.kernels.layout import LayerLayout
from unrollbench.tensors import Array


@dataclass(frozen=True)
class Extent:
    """How large an array of rows is: so many slots of all rows of the batch, or of those of a thread for each of them.

    block_rows: rows from one thread's first slot to the next one's, or 0 where all threads have the same ones.
    """

    slots: int
    width: int
    block_rows: int = 0

    def memory(self, layout: LayerLayout) -> tuple[int, ...]:
        """The shape of the memory that it takes: (slots, B, width), or (threads, rows, width)."""
        if not self.block_rows:
            return self.slots, layout.batch, self.width
        return layout.threads, self.block_rows, self.width

    def slots_of(self, memory: Array, layout: LayerLayout) -> Array:
        """The array in such memory: (slots, B, width), or (threads, slots, rows, width)."""
        if not self.block_rows:
            return memory
        used = memory[:, : self.slots * layout.slot_rows]
        return used.reshape(layout.threads, self.slots, layout.slot_rows, self.width)


def whole_pages(rows: int, row_bytes: int) -> int:
    """So many rows, or the next number of them that take whole pages. row_bytes: of one, or a divisor of all sizes."""
    fitting = pack.PAGE_BYTES // gcd(pack.PAGE_BYTES, row_bytes)
    return -(-rows // fitting) * fitting


@dataclass
class LayerBuffers:
    """One layer's arrays by frame field. Arrays with a slot per time step are replaced when T changes.

    Arrays of rows are (slots, B, width), or (threads, slots, rows, width) where threads have slots of their own, or
    gates.
    """

    layout: LayerLayout
    fixed: dict[str, Array] = field(default_factory=dict)
    timed: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.timed[name] if name in self.timed else self.fixed[name]

    def parts(self, name: str) -> list[tuple[Array, slice]]:
        """Where an array has the rows of the batch: (slots, rows, width), and which ones these are, for each part.

        Not for gates that threads which share rows have of their own.

        That is all of it, or the slots of a thread.
        """
        array = self[name]
        if array.ndim == 3:
            return [(array, slice(0, self.layout.batch))]
        threads = zip(array, self.layout.rows.items, strict=True)
        return [(own[:, :count], slice(first, first + count)) for own, (first, count) in threads]

    def data_bytes(self, name: str) -> int:
        """Bytes of an array, without those between threads' own slots."""
        array = self[name]
        own_rows = array.ndim == 4 and self.layout.own_slots
        return sum(part.nbytes for part, _ in self.parts(name)) if own_rows else array.nbytes

    def rows(self, name: str, slots: npt.NDArray[np.int64], size: int) -> Array:
        """(B, size), a copy: of each row of the batch what that slot of an array holds."""
        taken = [part[slots[rows], np.arange(part.shape[1]), :size] for part, rows in self.parts(name)]
        return np.concatenate(taken)


def places(layout: LayerLayout, block_rows: int) -> npt.NDArray[np.int64]:
    """(threads, B): rows from a thread's first one to each row of the batch, where threads are so many rows apart."""
    starts = np.arange(layout.threads) * block_rows
    rows = [start + np.arange(count) for start, (_, count) in zip(starts, layout.rows.items, strict=True)]
    return np.concatenate(rows) - starts[:, None]

"""One stage's gate buffer, and which of its unit blocks a thread and a tile have. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unrollbench.cells import Stage
from unrollbench.kernels.partition import Partition

Slots = Literal["time", "window", "single", "two", "tile"]
"""How many slots an array has: `layout` says what they are."""


@dataclass(frozen=True)
class Group:
    """The unit blocks that one call of a step's tile spans, in parts if need be.

    `blocks` whole ones, or the last one with its gates packed.
    """

    blocks: int
    packed: bool = False

    @property
    def name(self) -> str:
        """What kernels of tiles that span it are called by."""
        return "packed" if self.packed else str(self.blocks)


@dataclass(frozen=True)
class StageLayout:
    """One stage's gate buffer, and how its unit blocks go to tiles and threads.

    A row has G gates of whole vectors of units. Where that takes fewer vectors, the gates of the `packed` units that
    fill no vector follow as one sequence, in `packed_columns` vectors.

    row_blocks: whole blocks of a gate in a row of the buffer, which may have those of one tile only, or, with
    `own_gates`, of one thread, each of which then has a buffer of its own. row_bytes: of such a row. width: of a
    vector. groups: of the whole blocks.
    """

    index: int
    stage: Stage
    units: int
    whole: int
    packed: int
    packed_columns: int
    operand_size: int
    gate_slots: Slots
    own_gates: bool
    row_blocks: int
    row_bytes: int
    width: int
    groups: Partition
    operand_groups: Partition

    @property
    def gate_bytes(self) -> int:
        """Bytes of one gate's whole vectors in a row of the buffer."""
        return self.width * self.row_blocks

    @property
    def packed_at(self) -> int:
        """Where the packed gates lie in a row of the buffer, in vectors.

        In a thread's own they follow its last block, which has the offset there that it has among those of all threads.
        """
        first, _ = self.groups.items[-1]
        return len(self.stage.gates) * self.row_blocks + (first if self.own_gates else 0)

    @property
    def own_columns(self) -> bool:
        """Whether W_x and the bias of a window have together what a thread multiplies, as its own gate buffer has."""
        return self.own_gates and self.gate_slots == "window"

    @property
    def columns(self) -> int:
        """Vectors of all gates of one row."""
        return len(self.stage.gates) * self.whole + self.packed_columns

    @property
    def blocks_by_thread(self) -> list[tuple[int, int]]:
        """Per thread (first unit block, how many); the last has the one whose gates are packed, too."""
        *others, (first, count) = self.groups.items
        return [*others, (first, count + (self.packed > 0))]

    def group_columns(self, group: Group) -> int:
        """Vectors of the gates of one row of a group."""
        return self.packed_columns if group.packed else len(self.stage.gates) * group.blocks

    @property
    def group_sizes(self) -> list[int]:
        """Vectors of the gates of one row of each group, in the order of the unit blocks."""
        found = [len(self.stage.gates) * size for size in self.groups.each]
        return [*found, self.packed_columns] if self.packed else found

    @property
    def tile_groups(self) -> tuple[Group, ...]:
        """What tiles of this stage span: the sizes of groups that there are."""
        return (*(Group(size) for size, _ in self.groups.sizes), *([Group(1, packed=True)] if self.packed else []))

"""Where a stage's equations find each value of a row, relative to the addresses that its kernel is given."""

from __future__ import annotations

from unrollbench.kernels.equations import Lanes, Place
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.source import gates
from unrollbench.kernels.stages import StageLayout


class Places:
    """The places of a stage's gates, arrays, diagonals and gradients; addresses are those of a row's first unit.

    packed: of the units whose gates are packed, in the block that follows the whole ones.
    """

    def __init__(self, layout: LayerLayout, s: StageLayout, *, packed: bool = False) -> None:
        self.layout, self.stage, self.packed = layout, s, packed
        self.owners = {name: owner for owner in layout.stages for name in owner.stage.exposed}

    @property
    def gates(self) -> list[Place]:
        """The stage's own gates, in their order."""
        s, count = self.stage, len(self.stage.stage.gates)
        if not self.packed:
            return [Place("gates", index * s.gate_bytes, s.row_bytes) for index in range(count)]
        before = 0 if s.gate_slots == "tile" else (s.packed_at - s.whole) * s.width  # beside this block's offset
        lanes = [Lanes(index * s.packed, s.packed) for index in range(count)]
        return [Place("gates", before, s.row_bytes, each) for each in lanes]

    @property
    def diagonals(self) -> list[Place]:
        """The stage's diagonal weights, which all rows share."""
        return [Place(name) for name in self.stage.stage.diagonals]

    def of(self, argument: str, name: str) -> Place:
        """A value of the array `name`, or one laid out like it, from the address that is called `argument`."""
        return Place(argument, 0, self.layout.arrays[name].row_bytes)

    def read(self, name: str) -> Place:
        """What the stage reads under that name: a gate of an earlier stage, or an array before the step."""
        owner = self.owners.get(name)
        if owner is None:
            return self.of(f"{name}_old", name)
        return Place(f"gates_of_{name}", owner.stage.gates.index(name) * owner.gate_bytes, owner.row_bytes)

    def gradient(self, name: str) -> Place:
        """The gradient of an array, of a gate that later stages read, or of a diagonal."""
        if name in self.layout.arrays:
            return self.of(f"d_{name}", name)
        if name in self.owners:
            return Place(f"d_{name}", 0, self.owners[name].gate_bytes)
        return Place(f"d_{name}")


def exposed(layout: LayerLayout, s: StageLayout) -> dict[str, str]:
    """Argument name -> address expression of the gate buffers of earlier stages that the stage reads from."""
    owners = Places(layout, s).owners
    return {f"gates_of_{name}": gates(layout, owners[name]) for name in s.stage.reads if name in owners}

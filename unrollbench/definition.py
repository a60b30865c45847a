"""A cell that another package brings, by the entry point group `unrollbench.cells`.

The entry point's name is the cell's; it leads to a `CellDefinition`. Everything here, from the kernels to the report,
then works on the cell as on a built-in one. The frameworks' backends decline it: they have equations of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from unrollbench.errors import CaseError

GROUP = "unrollbench.cells"


@dataclass(frozen=True)
class CellDefinition:
    """What a package says of its cell; I is the input size of a layer, H its num_units.

    gates: how many times H columns its kernels have together. state: how many (B,H) arrays its state has; the one that
    `equations` calls h is also the output. weight_shapes: (I, H) -> name -> shape; kernels end in `kernel`, with the
    rows of x above those of h. equations: NumPy type -> `cells.Cell`, from which the kernels are made. reference:
    (float64 weights, I) -> an object with the methods of `reference.equations.Cell` and H as `num_units`; it must not
    be made from the same equations, because results are held against it.
    """

    gates: int
    weight_shapes: Callable[[int, int], Mapping[str, tuple[int, ...]]]
    equations: Callable[[Any], Any]
    reference: Callable[[Mapping[str, Any], int], Any]
    state: int = 1


def names() -> tuple[str, ...]:
    """The cells that installed packages bring."""
    return tuple(sorted(_points()))


@cache
def load(name: str) -> CellDefinition:
    """The cell of that name. Raises CaseError if its package does not load, or is not what it should be."""
    point = _points()[name]
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise CaseError([f"cell {name!r} ({point.value}): {error}"]) from error
    if not isinstance(found, CellDefinition):
        raise CaseError([f"cell {name!r} ({point.value}): a {type(found).__name__}; expected a CellDefinition"])
    return found


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}

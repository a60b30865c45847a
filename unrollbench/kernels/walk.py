"""Text that applies equations to rows: to a tile at once where all its rows are live, otherwise row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unrollbench.kernels.equations import Equations, Touched, arguments, ask_for_row, ask_for_tile, on_tile
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.words import Emit

MOST_ROWS = 4
"""Rows that a loop takes at once at most: more would need more registers than there are."""
TILE_CACHE, LOOP_CACHE = 1, 2
"""The cache that a tile's lines are asked for in, during the product of the one before it (on a matrix unit, after it),
and those of a loop, which comes to them only when it has been through all units of as many rows."""


@dataclass(frozen=True)
class Walk:
    """Equations for rows within their length (`live`) and past it, in any layer (`finished`) or in the top one.

    Where the two differ, its functions take a last argument more, `top`, so that layers below the top share them.
    touched: places of the live equations whose lines are asked for before the rows that follow come to them, since no
    cache may have them and no hardware foresees rows that lie far apart.
    """

    layout: LayerLayout
    live: Equations
    finished: Equations
    finished_at_top: Equations | None = None
    touched: tuple[Touched, ...] = ()

    def loop(self, largest: int) -> tuple[list[str], dict[str, Any]]:
        """The body of a function (t, lengths, row, rows, block, blocks, *arguments), and what it calls.

        It applies the equations to `rows` rows from number `row` on and `blocks` vectors of units from number `block`
        on. largest: how many rows it takes at once at most; what is left over is never a single one of several. When
        it takes so many it asks for the lines of as many more, if there are that many.
        """
        lines = ["each_row = row", "while each_row < row + rows:", "    left = row + rows - each_row"]
        for part in range(largest, 0, -1):
            fits = f"left >= {part} and left != {part + 1} and " if part > 1 else ""
            lines.append(f"    {'if' if part == largest else 'elif'} {fits}{_all_live('each_row', part)}:")
            several = 1 < part == largest < self.layout.batch
            ask = self._ask(f"left >= {2 * part}", f"each_row + {part}", "unit_at") if several else []
            lines += _indented([*self._over_blocks(f"live_{part}", self.live, ask), f"each_row += {part}"], 8)
        lines += ["    else:", *_indented([*self._finished(), "each_row += 1"], 8)]
        dtype = self.layout.dtype
        called = {f"live_{part}": on_tile(dtype, part, 1, self.live) for part in range(1, largest + 1)}
        called["ask_for_tile"] = ask_for_tile(dtype, largest, 1, self.touched, LOOP_CACHE)
        past = {"finished": self.finished, "finished_at_top": self.finished_at_top}
        return lines, called | {name: on_tile(dtype, 1, 1, each) for name, each in past.items() if each is not None}

    def _finished(self) -> list[str]:
        past = self._over_blocks("finished", self.finished)
        if self.finished_at_top is None:
            return past
        at_top = self._over_blocks("finished_at_top", self.finished_at_top)
        return ["if top:", *_indented(at_top, 4), "else:", *_indented(past, 4)]

    def tile(self, rows: int, blocks: int) -> tuple[list[str], dict[str, Any]]:
        """The body of a function (t, lengths, row, next_row, end, block, *arguments) for a tile, and what it calls.

        next_row: the first of as many rows of the tile that follows, for whose lines it asks if that is before `end`,
        one past the last row, and the product has not done so. Beside that it calls `loop`, the function of that text,
        where not all rows are live. There is no loop around the equations here: constants stay where they are in
        memory, and registers are left for values.
        """
        unit, called = f"block * {self.layout.width}", {"live": on_tile(self.layout.dtype, rows, blocks, self.live)}
        called["ask_for_tile"] = ask_for_tile(self.layout.dtype, rows, blocks, self.touched, TILE_CACHE)
        asks = self.layout.rows.most_groups > 1 and self.layout.on_matrix_unit
        lines = self._ask("next_row < end", "next_row", unit) if asks else []
        at = self._at("row", unit, self.live.arguments)
        lines += [f"if {_all_live('row', rows)}:", f"    live({at})", "else:"]
        lines.append(f"    loop(t, lengths, row, {rows}, block, {blocks}, {', '.join(self.arguments)})")
        return lines, called

    @property
    def asked_by_products(self) -> bool:
        """Whether a tile's product asks for what the next tile's rows touch; a matrix unit's leaves it to `tile`."""
        return self.layout.rows.most_groups > 1 and not self.layout.on_matrix_unit

    def ask_for_row(self, blocks: int) -> Emit:
        """A function of a row's number and the addresses `touched_strides` that asks for what a tile's row touches."""
        return ask_for_row(self.layout.dtype, blocks, self.touched, TILE_CACHE)

    @property
    def touched_strides(self) -> dict[str, int]:
        """The names of the addresses of what is touched, and the stride of each over rows."""
        return arguments(each.place for each in self.touched)

    @property
    def addresses(self) -> list[str]:
        """The names of all addresses, those that the equations for rows past their length need included."""
        at_top = self.finished_at_top.arguments if self.finished_at_top else ()
        return list(dict.fromkeys((*self.live.arguments, *self.finished.arguments, *at_top)))

    @property
    def arguments(self) -> list[str]:
        """The last arguments of its functions: the addresses and, where that matters, `top`."""
        return [*self.addresses, *(["top"] if self.finished_at_top else [])]

    def _over_blocks(self, function: str, equations: Equations, before: Iterable[str] = ()) -> list[str]:
        """The call of a function for each unit block of the rows from each_row on, and lines before that."""
        return [
            f"unit_at = block * {self.layout.width}",
            "for _ in range(blocks):",
            *_indented(before, 4),
            f"    {function}({self._at('each_row', 'unit_at', equations.arguments)})",
            f"    unit_at += {self.layout.width}",
        ]

    def _ask(self, when: str, row: str, unit: str) -> list[str]:
        """Lines that ask for what is touched in the rows from `row` on, if there are such; none, if nothing is."""
        at = self._at(f"({row})", unit, self.touched_strides)
        return [f"if {when}:", f"    ask_for_tile({at})"] if self.touched else []

    def _at(self, row: str, unit: str, strides: Mapping[str, int]) -> str:
        return ", ".join(f"{name} + {row} * {stride} + {unit}" for name, stride in strides.items())


def _all_live(row: str, rows: int) -> str:
    return " and ".join(f"t < peek(lengths, 8 * ({row} + {index}))" for index in range(rows))


def _indented(lines: Iterable[str], columns: int) -> Iterator[str]:
    return (" " * columns + line for line in lines)

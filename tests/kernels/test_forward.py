"""A step's text, run as the Python that it is: which lines its tiles ask for, and which they touch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any

import pytest

from tests.kernels.stacks import sharing_rows
from unrollbench.case import Case
from unrollbench.kernels import division, forward, host
from unrollbench.kernels.layout import LayerLayout, inputs_of
from unrollbench.kernels.source import define
from unrollbench.kernels.spec import spec_of
from unrollbench.kernels.stages import Group, StageLayout
from unrollbench.schedule import of_case

APART = 1 << 32
"""Bytes between the arrays of a frame, whose addresses are made up."""
Lines = set[int]


@dataclass(frozen=True)
class Tile:
    """One tile of a step: where it stands, and the vectors that its product asks for and its equations touch."""

    stage: int
    rows: int
    group: Group
    asked: Lines
    touched: Lines


def frame(layout: LayerLayout, thread: int) -> dict[int, int]:
    """A frame's fields by offset: arrays far apart, and a thread's part of rows and unit blocks."""
    fields = {name: (1 + index) * APART for index, name in enumerate(layout.fields)}
    of_rows, of_units = (thread, 0) if layout.split == "rows" else (0, thread)
    names = ("row", "row_tiles_big", "row_tiles_small")
    fields |= dict(zip(names, layout.rows.shares[of_rows], strict=True))
    for s in layout.stages:
        names = (f"block_{s.index}", f"groups_big_{s.index}", f"groups_small_{s.index}")
        fields |= dict(zip(names, s.groups.shares[of_units], strict=True))
        own = layout.early_units(s)[of_units]
        fields |= {f"own_at_{s.index}": own[0], f"own_{s.index}": own[1]}
        fields[f"packed_{s.index}"] = int(s.packed > 0 and of_units == len(s.groups.shares) - 1)
    return {layout.fields[name]: value for name, value in fields.items()}


def step(case: Case, thread: int, t: int) -> list[Tile]:
    """The tiles of the bottom layer's step t, in order."""
    layouts = division.layouts(spec_of(case), of_case(case))
    layout, found = layouts[0], list[Tile]()
    fields = {**frame(layout, thread), layout.fields["limit"]: case.sequence_length}
    fields |= {at: 0 for name, at in layout.fields.items() if name.startswith("exponent")}

    def vectors(s: StageLayout, group: Group, rows: int, at: dict[str, int]) -> Lines:
        """The addresses of what rows touch, of which the first one's first unit lies at these."""
        touched = [each.place for each in forward.equations(layout, s, packed=group.packed).touched]
        columns = {p: range(group.blocks) if p.lanes is None else p.lanes.columns(layout.lanes) for p in touched}
        places = [(p, row, column) for p in touched for row in range(rows) for column in columns[p]]
        return {at[p.argument] + p.offset + row * p.stride + column * layout.width for p, row, column in places}

    def calls(s: StageLayout, group: Group, rows: int) -> dict[str, Any]:
        walk = forward.equations(layout, s, packed=group.packed)
        strides = walk.touched_strides

        def tile(*arguments: int) -> None:
            asked = vectors(s, group, rows, dict(zip(strides, arguments[-len(strides) :], strict=True)))
            found.append(Tile(s.index, rows, group, asked, set()))

        def equations(
            part: int, _t: int, _lengths: int, row: int, _next: int, _end: int, block: int, *arguments: int
        ) -> None:
            addresses = dict(zip(walk.addresses, arguments, strict=False))
            at = {name: addresses[name] + row * stride + block * layout.width for name, stride in strides.items()}
            found[-1].touched.update(vectors(s, group, part, at))

        shape = f"{s.index}_{rows}x{group.name}"
        tiles: dict[str, Any] = {f"paired_{shape}" if layout.in_pairs(rows) else f"tile_{shape}": tile}
        for part in forward.row_parts(rows):
            tiles[f"equations_{s.index}_{part}x{group.name}"] = partial(equations, part)
        return {**tiles, f"own_tile_{shape}": lambda *_: None}

    namespace: dict[str, Any] = dict.fromkeys(("ask", "meet", "arrive", "barrier", "put"), lambda *_: None)
    namespace["scale_row"] = lambda *_: 0
    namespace["peek"] = lambda address, offset: fields[offset] if address == 0 else APART
    for s in layout.stages:
        for rows, _ in layout.rows.sizes:
            for group in s.tile_groups:
                namespace |= calls(s, group, rows)
    define(forward.step(layout, inputs_of(layouts, 0)), "step", namespace)(0, t, t % 4)
    return found


SEVERAL_TILES: list[dict[str, Any]] = [
    {"batch_size": 13, "num_units": 112},
    {"batch_size": 20, "num_units": 70},
    {"batch_size": 20, "num_units": 70, "mode": "forward", "parallel_iterations": 1},
    {"batch_size": 28, "num_units": 128, "threads": 2},
    {"batch_size": 13, "num_units": 100, "threads": 2},
    {"batch_size": 13, "num_units": 256, "threads": 4},
    {"cell": "gru", "batch_size": 13, "num_units": 256, "threads": 4},
    {"cell": "gru", "batch_size": 13, "num_units": 100},
    {"cell": "basic_rnn", "batch_size": 20, "num_units": 200},
]
"""Networks whose threads have several tiles of rows, in pairs and otherwise."""


@pytest.mark.parametrize("t", [0, 1])
@pytest.mark.parametrize(
    ("axes", "in_pairs"),
    [
        ({"batch_size": 18, "num_units": 128, "threads": 2}, False),
        ({"batch_size": 7, "num_units": 100, "threads": 2}, False),
        *product(SEVERAL_TILES, (False, True)),
    ],
)
def test_tiles_ask_for_what_the_next_one_touches_and_for_no_line_of_another_thread(
    monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], in_pairs: bool, t: int
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    monkeypatch.setattr(host, "adds_apart", lambda: in_pairs)
    sharing_rows(monkeypatch)
    case = Case(**{"cell": "lstm", "mode": "train", "sequence_length": 6, "parallel_iterations": 4, **axes})
    for thread in range(case.threads):
        tiles = step(case, thread, t)
        own = set[int]().union(*(tile.touched for tile in tiles))
        assert own
        assert all(tile.asked <= own for tile in tiles)
        for tile, following in pairwise(tiles):
            if (following.stage, following.group) == (tile.stage, tile.group) and following.rows <= tile.rows:
                assert following.touched <= tile.asked

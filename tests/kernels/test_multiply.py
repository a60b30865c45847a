"""The product of any rows and columns: its tiles, its runs of rows, and that it writes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.vectors import call, drawn, with_registers
from unrollbench.kernels import host, multiply, pack, pairs
from unrollbench.kernels.multiply import BLOCK_ROWS, OFFSETS, heights
from unrollbench.kernels.source import define
from unrollbench.tensors import Array

CANARY = 777.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [0, 1, 4, 6, 7])
@pytest.mark.parametrize(
    ("rows", "depth"),
    [(0, 3), (1, 0), (5, 1), (6, 2), (10, 2), (13, 9), (29, 4), (BLOCK_ROWS + 7, 3), (BLOCK_ROWS + 1, 1024)],
)
def test_multiply_adds_a_product_to_its_start_and_writes_nothing_else(
    dtype: str, rows: int, columns: int, depth: int
) -> None:
    rng, lanes = np.random.default_rng(0), host.lanes(dtype)
    a, w = drawn(rng, (rows, depth), dtype), drawn(rng, (columns, depth, lanes), dtype)
    start = drawn(rng, (rows, (columns + 1) * lanes), dtype)
    out: Array = np.full((rows + 1, (columns + 1) * lanes), CANARY, dtype)
    call(
        multiply.multiply(dtype), rows, columns, depth, a.ctypes.data, w.ctypes.data, w.strides[0], w.strides[1],
        start.ctypes.data, 0, out.ctypes.data, a.strides[0], out.strides[0], max(1, rows), 0, 0,
    )  # fmt: skip
    wanted = np.full_like(out, CANARY)
    sums = np.einsum("rk,ckl->rcl", a, w).reshape(rows, columns * lanes)
    wanted[:rows, : columns * lanes] = start[:, : columns * lanes] + sums
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("rows", [5, 10, 13, 29, BLOCK_ROWS + 7])
def test_multiply_adds_to_what_it_overwrites_once(rows: int) -> None:
    rng, lanes, columns, depth = np.random.default_rng(1), host.lanes("float32"), 5, 3
    a, w = drawn(rng, (rows, depth), "float32"), drawn(rng, (columns, depth, lanes), "float32")
    out = drawn(rng, (rows, columns * lanes), "float32")
    wanted = out + np.einsum("rk,ckl->rcl", a, w).reshape(rows, columns * lanes)
    call(
        multiply.multiply("float32"), rows, columns, depth, a.ctypes.data, w.ctypes.data, w.strides[0], w.strides[1],
        out.ctypes.data, 0, out.ctypes.data, a.strides[0], out.strides[0], rows, 0, 0,
    )  # fmt: skip
    np.testing.assert_array_equal(out, wanted)


def test_multiply_takes_one_starting_row_for_all_rows() -> None:
    rng, lanes = np.random.default_rng(1), host.lanes("float32")
    a, w = drawn(rng, (14, 9), "float32"), drawn(rng, (5, 9, lanes), "float32")
    bias, out = drawn(rng, (1, 5 * lanes), "float32"), pack.aligned((14, 5 * lanes), "float32")
    call(
        multiply.multiply("float32"), 14, 5, 9, a.ctypes.data, w.ctypes.data, w.strides[0], w.strides[1],
        bias.ctypes.data, 1, out.ctypes.data, a.strides[0], out.strides[0], 14, 0, 0,
    )  # fmt: skip
    np.testing.assert_array_equal(out, bias + np.einsum("rk,ckl->rcl", a, w).reshape(14, -1))


@pytest.mark.parametrize("columns", [1, 3, 6])
@pytest.mark.parametrize(("steps", "own"), [(1, 7), (5, 1), (9, 2), (30, 4), (7, 13), (3, 50)])
@pytest.mark.parametrize("adds", [False, True])
def test_multiply_takes_a_threads_own_rows_of_several_steps(steps: int, own: int, columns: int, adds: bool) -> None:
    rng, lanes, depth, others = np.random.default_rng(2), host.lanes("float32"), 9, 3
    a, w = drawn(rng, (steps, own + others, depth), "float32"), drawn(rng, (columns, depth, lanes), "float32")
    out = drawn(rng, (steps, own + others, columns * lanes), "float32")
    bias = drawn(rng, (1, columns * lanes), "float32")
    wanted = out.copy()
    wanted[:, :own] = (out[:, :own] if adds else bias) + np.einsum("trk,ckl->trcl", a, w).reshape(*out.shape)[:, :own]
    a_row, out_row = a.strides[1], out.strides[1]
    call(
        multiply.multiply("float32"), steps * own, columns, depth, a.ctypes.data,
        w.ctypes.data, w.strides[0], w.strides[1], (out if adds else bias).ctypes.data, not adds,
        out.ctypes.data, a_row, out_row, own, others * a_row, others * out_row,
    )  # fmt: skip
    np.testing.assert_array_equal(out, wanted)


def test_tiles_of_a_product_fit_into_the_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    for registers, wanted in HEIGHTS.items():
        with_registers(monkeypatch, registers)
        assert heights() == wanted
        assert heights(in_pairs=True) == PAIRED


HEIGHTS = {32: {4: (6, 5, 4), 2: (6,), 1: (6,)}, 16: {4: (), 2: (6, 5, 4), 1: (6,)}}
PAIRED = {4: (), 2: (8, 4), 1: (8, 4)}


@given(st.sampled_from([0, 16, 32]), st.integers(1, 400), st.integers(1, 9), st.integers(1, 50))
def test_every_row_has_its_offsets_and_as_many_rows_as_can_be_share_a_tile(
    registers: int, rows: int, columns: int, run: int
) -> None:
    """registers: how many there are, or 0 for tiles in pairs, here of rows that do not allow that after all."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = HEIGHTS[registers] if registers else PAIRED
        patch.setattr(multiply, "heights", lambda _=False: sizes)
        every_row_has_its_offsets(sizes, registers == 0, rows, columns, run)


def every_row_has_its_offsets(
    found: dict[int, tuple[int, ...]], in_pairs: bool, rows: int, columns: int, run: int
) -> None:
    words: dict[int, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # rows, columns, the first column's address, of the offsets

    def tile(height: int, width: int) -> object:
        def note(count: int, a: int, w: int, w_column: int, w_k: int, s: int, shared: int, o: int, at: int) -> None:
            assert s == o + 10**6
            lies = [(words[at + 16 * r], words[at + 16 * r + 8]) for r in range(2 * height)]
            taken.extend((height, width, w + c, of_a) for c in range(width) for of_a, _ in lies[:height])
            assert [of_out for _, of_out in lies] == [of_a // 10 * 7 for of_a, _ in lies]

        return note

    sizes = [(height, width) for width, tall in found.items() for height in (1, *tall)]
    called: dict[str, Any] = {f"tile_{height}x{width}": tile(height, width) for height, width in sizes}
    called |= {"put": words.__setitem__, "peek": lambda address, offset: words[address + offset], "room": lambda: 0}
    a_row, a_gap, out_row, out_gap = 10, 1000, 7, 700
    arguments, unpaired = [rows, columns, 5, 0, 0, 1, 0, 10**6, 0, 0, a_row, out_row, run, a_gap, out_gap], 10**9
    words |= {unpaired: 0, unpaired + 8: 0}
    arguments += [0, pairs.NO_PAIRS, 0, unpaired] if in_pairs else []
    define(multiply.text(0, 64 * in_pairs), "multiply", called)(*arguments)
    blocks = -(-rows // BLOCK_ROWS)
    assert [words.pop(unpaired + at) for at in (0, 8)] == [0, blocks if in_pairs else 0]
    lies = [row * a_row + row // run * a_gap for row in range(rows)]
    cells = [(column, of_a) for _, _, column, of_a in taken]
    assert set(cells) == {(column, of_a) for column in range(columns) for of_a in lies}
    assert max(words) < 8 * OFFSETS
    widest = next(width for width, tall in found.items() if tall)
    wide = [height for height, width, *_ in taken if width == widest]
    if rows >= 8:
        assert 1 not in wide
        twice = len(wide) - rows * (columns // widest * widest)
        assert twice == (-rows % 4 if in_pairs else 0) * (columns // widest * widest)
    if rows < 4 and columns >= 4:
        assert {height for height, width, *_ in taken if width == 4} == {1}
    assert {height for height, width, *_ in taken if width != widest} <= {1, *found[1]}


@pytest.mark.parametrize("rows", [8, 20, 23, 100, BLOCK_ROWS, BLOCK_ROWS + 9])
def test_tiles_in_pairs_ask_together_for_all_of_the_columns_that_follow(rows: int) -> None:
    depth, width = 60, 64
    asked: dict[int, set[tuple[int, int]]] = {}  # panel -> (address, bytes) of the parts that are asked for

    def tile(height: int, wide: int) -> object:
        def note(a: int, panel: int, w_column: int, w_k: int, *rest: int) -> None:
            *_, at, each_k = rest
            asked.setdefault(panel + wide * w_column, set()).add((at, depth * each_k))

        return note

    words: dict[int, int] = {10**9: 0, 10**9 + 8: 0}
    sizes = [(height, wide) for wide, tall in PAIRED.items() for height in (1, *tall)]
    called: dict[str, Any] = {f"paired_{height}x{wide}": tile(height, wide) for height, wide in sizes if height > 1}
    called |= {f"tile_{height}x{wide}": None for height, wide in sizes}
    called |= {"put": words.__setitem__, "peek": lambda address, offset: words[address + offset], "room": lambda: 0}
    called |= {"scale_row": lambda *_: 0}
    arguments = [rows, 4, depth, 0, 10**6, depth * width, width, 0, 1, 10**7, 8, 8, rows, 0, 0, 0, 0, 0, 10**9]
    define(multiply.text(width, 2 * width, asks=True), "multiply", called)(*arguments)
    assert set(asked) == {10**6 + columns * depth * width for columns in (2, 4)}
    for following, parts in asked.items():
        end = following
        for at, size in sorted(parts):
            assert at <= end
            end = max(end, at + size)
        assert end >= following + 2 * depth * width - width

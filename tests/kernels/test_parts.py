"""float32 numbers cut into bfloat16 parts: the parts are the number, and lie where a matrix unit reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.vectors import call
from unrollbench.kernels import pack, parts
from unrollbench.kernels.amx import ROWS, TILE_BYTES
from unrollbench.kernels.parts import CHUNK, PARTS
from unrollbench.tensors import Array

NUMBERS = st.floats(-(2.0**127), 2.0**127, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-102)
"""From 2^-102 on all parts are numbers that a matrix unit does not take for zero."""
CANARY = 777.0


def halves(words: Array) -> tuple[Array, Array]:
    """The two bfloat16 numbers of each word, the lower half first, as float32."""
    bits: npt.NDArray[np.uint32] = np.ascontiguousarray(words).view(np.uint32)
    return (bits << np.uint32(16)).view(np.float32), (bits & np.uint32(0xFFFF0000)).view(np.float32)


def uncut_rows(tile: Array, depth: int) -> tuple[Array, Array, int]:
    """(16 rows, parts, depth), the first parts without infinities, and whether there are any, of a tile of rows."""
    chunks, words = parts.chunks(depth), TILE_BYTES // 4
    of_parts = tile[: chunks * PARTS * words].reshape(chunks, PARTS, ROWS, ROWS)
    of_finite = tile[chunks * PARTS * words : chunks * (PARTS + 1) * words].reshape(chunks, 1, ROWS, ROWS)
    found = []
    for each in (of_parts, of_finite):
        low, high = halves(each)
        k_last = np.concatenate([low, high], axis=-1).transpose(2, 1, 0, 3)
        found.append(k_last.reshape(ROWS, each.shape[1], -1)[:, :, :depth])
    flag = int(tile[chunks * (PARTS + 1) * words :].view(np.int64)[0])
    return found[0], found[1][:, 0], flag


def uncut_columns(packed: Array, depth: int) -> Array:
    """(columns, parts, depth, 16) of what `pack.split` packs."""
    low, high = halves(packed)
    of_chunks = np.concatenate([low, high], axis=3).transpose(0, 2, 1, 3, 4)
    return of_chunks.reshape(len(packed), PARTS, -1, ROWS)[:, :, :depth]


def cut_rows(a: Array) -> Array:
    """The tiles of rows that `parts.split` makes of a, with a canary behind them."""
    depth, tiles = a.shape[1], -(-len(a) // ROWS)
    words = parts.tile_bytes(depth) // 4
    out: Array = np.full(tiles * words + 1, CANARY, np.float32)
    call(parts.split(), len(a), depth, a.ctypes.data, a.strides[0], out.ctypes.data)
    assert out[-1] == CANARY
    return out[:-1].reshape(tiles, words)


@given(st.lists(NUMBERS, min_size=1, max_size=70))
def test_the_parts_of_a_weight_are_the_weight_and_fall_by_2_to_the_8(numbers: list[float]) -> None:
    vectors: Array = np.zeros((1, len(numbers), ROWS), np.float32)
    vectors[0, :, 3] = numbers
    found = uncut_columns(pack.split(vectors), len(numbers)).astype(np.float64)
    np.testing.assert_array_equal(found.sum(axis=1), vectors)
    assert np.all(abs(found[:, 1]) <= abs(found[:, 0]) * 2.0**-8)
    assert np.all(abs(found[:, 2]) <= abs(found[:, 0]) * 2.0**-16)


@pytest.mark.parametrize("depth", [1, 15, 16, 31, 32, 33, 100])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
def test_rows_are_cut_as_weights_are(rows: int, depth: int) -> None:
    a = np.random.default_rng(rows).standard_normal((rows, depth + 3)).astype(np.float32)[:, :depth]
    tiles = [uncut_rows(tile, depth) for tile in cut_rows(a)]
    as_weights = uncut_columns(pack.split(np.repeat(a[:, :, np.newaxis], ROWS, 2)), depth)[..., 0]
    np.testing.assert_array_equal(np.concatenate([each for each, _, _ in tiles])[:rows], as_weights)
    assert [flag for _, _, flag in tiles] == [0] * len(tiles)


@pytest.mark.parametrize("depth", [1, 16, 17, 32, 50])
def test_columns_of_gradients_are_cut_as_weights_are(depth: int) -> None:
    columns, others = 3, 2
    rng, zeros = np.random.default_rng(depth), pack.aligned((ROWS,), "float32")
    rows = rng.standard_normal((depth, columns + others, ROWS)).astype(np.float32)
    wanted = pack.split(rows[:, :columns].transpose(1, 0, 2))
    out: Array = np.full(wanted.size + 1, CANARY, np.float32)
    call(
        parts.split_columns(), depth, columns, rows.ctypes.data, rows.strides[0], zeros.ctypes.data, out.ctypes.data
    )  # fmt: skip
    np.testing.assert_array_equal(out[:-1].view(np.uint32), wanted.reshape(-1).view(np.uint32))
    assert out[-1] == CANARY


@pytest.mark.parametrize("at", [0, 17, CHUNK, CHUNK + 5])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_its_first_part_and_its_tile_has_others_without_it(value: float, at: int) -> None:
    depth, row = CHUNK + 9, 2
    a = np.random.default_rng(8).standard_normal((ROWS + 4, depth)).astype(np.float32)
    a[row, at] = value
    found, finite, flag = uncut_rows(cut_rows(a)[0], depth)
    assert flag == 1
    np.testing.assert_array_equal(found[row, :, at], [value, 0, 0])
    wanted = found[:, 0].copy()
    wanted[row, at] = 0
    np.testing.assert_array_equal(finite, wanted)
    assert uncut_rows(cut_rows(a)[1], depth)[2] == 0
    vectors: Array = np.zeros((1, depth, ROWS), np.float32)
    vectors[0, at, 3] = value
    np.testing.assert_array_equal(uncut_columns(pack.split(vectors), depth)[0, :, at, 3], [value, 0, 0])


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_no_nan_becomes_a_number(bits: int) -> None:
    a: Array = np.full((1, 1), bits, np.uint32).view(np.float32)
    found, _, _ = uncut_rows(cut_rows(a)[0], 1)
    assert np.isnan(found[0, 0, 0])
    assert np.isnan(uncut_columns(pack.split(np.repeat(a[:, :, np.newaxis], ROWS, 2)), 1)[0, 0]).all()


def test_the_largest_numbers_have_finite_parts_that_are_the_number() -> None:
    largest = np.finfo(np.float32).max
    a: Array = np.array([[largest, -largest, 3.397e38]], np.float32)
    found, _, flag = uncut_rows(cut_rows(a)[0], 3)
    assert flag == 0
    np.testing.assert_array_equal(found[0].astype(np.float64).sum(axis=0), a[0])
    weights = uncut_columns(pack.split(np.repeat(a[:, :, np.newaxis], ROWS, 2)), 3)[0, ..., 0]
    np.testing.assert_array_equal(weights, found[0])

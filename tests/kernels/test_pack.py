"""Packed weights: the same numbers in the order in which the tiles read them, and zeros around them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench.kernels import pack
from unrollbench.kernels.partition import partition
from unrollbench.tensors import Array

LANES = 4


def matrix(rows: int, gates: int, units: int) -> Array:
    """Distinct numbers, none of them 0."""
    return np.arange(1, 1 + rows * gates * units, dtype=np.float32).reshape(rows, gates * units)


SIZES = st.integers(1, 11).flatmap(lambda units: st.tuples(st.just(units), st.integers(0, units % LANES)))
"""(units, how many of them have their gates packed): no more than are left beside whole vectors."""


def lane_of(gates: int, units: int, packed: int, gate: int, unit: int) -> int:
    """Where a gate of a unit lies in a row of the gate buffer, in elements."""
    whole = units - packed
    padded = -(-whole // LANES) * LANES
    return gate * padded + unit if unit < whole else gates * padded + gate * packed + unit - whole


@given(st.integers(0, 9), st.integers(1, 4), SIZES)
def test_columns_by_gate_follow_a_row_of_the_gate_buffer(rows: int, gates: int, sizes: tuple[int, int]) -> None:
    units, left = sizes
    given_weights = matrix(rows, gates, units)
    packed = pack.columns(given_weights, pack.by_gate(units, gates, LANES, left))
    whole = units - left
    assert packed.shape == (gates * -(-whole // LANES) + -(-gates * left // LANES), rows, LANES)
    for gate in range(gates):
        for unit in range(units):
            column, lane = divmod(lane_of(gates, units, left, gate, unit), LANES)
            np.testing.assert_array_equal(packed[column, :, lane], given_weights[:, gate * units + unit])
    assert np.count_nonzero(packed) == given_weights.size


@given(st.integers(1, 4), SIZES)
def test_columns_by_block_hold_all_gates_of_a_unit_block_together(gates: int, sizes: tuple[int, int]) -> None:
    units, left = sizes
    by_gate, blocks = pack.by_gate(units, gates, LANES, left), -(-(units - left) // LANES)
    by_block = pack.by_block(by_gate, gates, blocks)
    for block in range(blocks):
        for gate in range(gates):
            np.testing.assert_array_equal(by_block[block * gates + gate], by_gate[gate * blocks + block])
    np.testing.assert_array_equal(by_block[gates * blocks :], by_gate[gates * blocks :])


@given(st.integers(1, 4), SIZES, st.integers(1, 5))
def test_columns_by_thread_hold_all_that_a_thread_has_of_every_gate(
    gates: int, sizes: tuple[int, int], threads: int
) -> None:
    units, left = sizes
    by_gate, blocks = pack.by_gate(units, gates, LANES, left), -(-(units - left) // LANES)
    shares = partition(blocks, threads, 2).items
    found, most = pack.by_thread(by_gate, gates, blocks, shares), -(-blocks // threads)
    each = found[: threads * gates * most].reshape(threads, gates, most, LANES)
    for own, (first, count) in zip(each, shares, strict=True):
        for gate in range(gates):
            np.testing.assert_array_equal(own[gate, :count], by_gate[gate * blocks + first :][:count])
            assert np.all(own[gate, count:] == pack.EMPTY)
    np.testing.assert_array_equal(found[threads * gates * most :], by_gate[gates * blocks :])


@given(st.integers(1, 9), st.integers(1, 4), SIZES)
def test_transposed_weights_contract_over_a_row_of_the_gate_buffer(
    rows: int, gates: int, sizes: tuple[int, int]
) -> None:
    units, left = sizes
    given_weights, order = matrix(rows, gates, units), pack.by_gate(units, gates, LANES, left)
    packed = pack.transposed(given_weights, order)
    gate_row = pack.row(np.ones(gates * units, np.float32), order)
    sums = np.einsum("k,bkl->bl", gate_row, packed).reshape(-1)
    np.testing.assert_array_equal(sums[:rows], given_weights.sum(axis=1))
    assert not sums[rows:].any()
    assert np.count_nonzero(packed) == given_weights.size


@given(st.integers(0, 3), st.integers(1, 4), SIZES)
def test_rows_that_are_packed_and_unpacked_are_what_they_were(rows: int, gates: int, sizes: tuple[int, int]) -> None:
    units, left = sizes
    order, values = pack.by_gate(units, gates, LANES, left), matrix(rows, gates, units)
    packed = np.array([pack.row(each, order) for each in values]).reshape(rows, order.size)
    np.testing.assert_array_equal(pack.unpacked(packed, order), values)


def test_streamed_weights_hold_all_columns_of_a_group_step_by_step() -> None:
    vectors = matrix(5, 3, LANES).reshape(5, 3, LANES)
    packed = pack.streamed(vectors, [2, 3])
    assert packed.shape == vectors.shape
    flat = packed.reshape(-1, LANES)
    wanted = [vectors[c, k] for first, count in ((0, 2), (2, 3)) for k in range(3) for c in range(first, first + count)]
    np.testing.assert_array_equal(flat, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 0, 4), (7, 16)])
def test_aligned_arrays_start_at_a_cache_line_and_are_zero(dtype: str, shape: tuple[int, ...]) -> None:
    array = pack.aligned(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.ctypes.data % pack.ALIGNMENT == 0 or array.size == 0
    assert array.flags.c_contiguous
    assert not array.any()


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (0,), (1024,), (7, 300)])
def test_arrays_of_threads_lie_on_pages_of_their_own_and_are_zero(dtype: str, shape: tuple[int, ...]) -> None:
    arrays = pack.on_own_pages(3, shape, dtype)
    assert arrays.shape == (3, *shape)
    assert arrays.dtype == dtype
    assert not arrays.any()
    begin = [each.ctypes.data for each in arrays]
    assert all(address % pack.PAGE_BYTES == 0 for address in begin) or arrays.size == 0
    assert all(following - address >= arrays[0].nbytes for address, following in pairwise(begin))
    assert all(each.flags.c_contiguous for each in arrays)


def test_packing_keeps_the_dtype_and_copies() -> None:
    given_weights = matrix(2, 1, 3).astype(np.float64)
    packed = pack.columns(given_weights, pack.padded(3, LANES))
    given_weights[...] = 0
    assert packed.dtype == np.float64
    assert packed.any()

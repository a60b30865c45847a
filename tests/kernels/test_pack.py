"""Packed weights: the same numbers in the order in which the tiles read them, and zeros around them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench.kernels import pack
from unrollbench.tensors import Array

LANES = 4


def matrix(rows: int, gates: int, units: int) -> Array:
    """Distinct numbers, none of them 0."""
    return np.arange(1, 1 + rows * gates * units, dtype=np.float32).reshape(rows, gates * units)


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 11))
def test_interleaved_weights_hold_all_gates_of_a_unit_block_together(rows: int, gates: int, units: int) -> None:
    given_weights = matrix(rows, gates, units)
    packed = pack.interleaved(given_weights, gates, LANES)
    assert packed.shape == (-(-units // LANES), gates, rows, LANES)
    for gate in range(gates):
        for unit in range(units):
            column = packed[unit // LANES, gate, :, unit % LANES]
            np.testing.assert_array_equal(column, given_weights[:, gate * units + unit])
    assert np.count_nonzero(packed) == given_weights.size


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 11))
def test_natural_weights_follow_the_columns_of_the_gate_buffer(rows: int, gates: int, units: int) -> None:
    given_weights = matrix(rows, gates, units)
    packed = pack.natural(given_weights, gates, LANES)
    assert packed.shape == (gates, -(-units // LANES), rows, LANES)
    for gate in range(gates):
        columns = np.concatenate(packed[gate], axis=1)[:, :units]
        np.testing.assert_array_equal(columns, given_weights[:, gate * units : (gate + 1) * units])
    assert np.count_nonzero(packed) == given_weights.size


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 11))
def test_transposed_weights_contract_over_a_row_of_the_gate_buffer(rows: int, gates: int, units: int) -> None:
    given_weights = matrix(rows, gates, units)
    packed = pack.transposed(given_weights, gates, LANES)
    gate_row = pack.by_gate(np.ones((1, gates * units), np.float32), gates, LANES).reshape(-1)
    sums = np.einsum("k,bkl->bl", gate_row, packed).reshape(-1)
    np.testing.assert_array_equal(sums[:rows], given_weights.sum(axis=1))
    assert not sums[rows:].any()
    assert np.count_nonzero(packed) == given_weights.size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 0, 4), (7, 16)])
def test_aligned_arrays_start_at_a_cache_line_and_are_zero(dtype: str, shape: tuple[int, ...]) -> None:
    array = pack.aligned(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.ctypes.data % pack.ALIGNMENT == 0 or array.size == 0
    assert array.flags.c_contiguous
    assert not array.any()


def test_packing_keeps_the_dtype_and_copies() -> None:
    given_weights = matrix(2, 1, 3).astype(np.float64)
    packed = pack.natural(given_weights, 1, LANES)
    given_weights[...] = 0
    assert packed.dtype == np.float64
    assert packed.any()

"""Rows scaled for products in pairs: by which power of two, what is told of them, and which cannot be."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.guarded import guarded, guarded_copy
from tests.kernels.vectors import call
from unrollbench.kernels import host, pairs, scaling
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.words import put
from unrollbench.tensors import Array

DTYPES = ["float32", "float64"]
CANARY = 777.0


@cache
def _kernel(dtype: str) -> Kernel:
    text = "def scale(depth, a, out, exponent, told):\n    put(told, scale_row(depth, a, out, exponent))\n"
    return kernel(text, "scale", {"put": put, "scale_row": scaling.scale_row(dtype)})


def scaled(row: Array, exponent: int = 0) -> tuple[Array, bool]:
    """The scaled row with its numbers, and whether it can be multiplied in pairs; nothing beyond either is touched."""
    dtype, told = row.dtype.name, np.full(1, -1)
    out = guarded((pairs.row_bytes(dtype, len(row)) // row.itemsize,), dtype)
    out[...] = CANARY
    call(_kernel(dtype), len(row), guarded_copy(row).ctypes.data, out.ctypes.data, exponent, told.ctypes.data)
    assert told[0] in (0, 1)
    return out, told[0] == 0


def pair_products(row: Array) -> float:
    """By the definition: of every six numbers the first two are a pair, and the last two one that counts against it."""
    numbers = [float(number) for number in row]
    signs = {0: 1, 4: -1}
    return sum(signs.get(k % 6, 0) * a * b for k, (a, b) in enumerate(pairwise(numbers)))


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(1, 200), st.integers(-20, 8), st.integers(-40, 40), st.randoms())
def test_a_row_is_scaled_to_the_weights_and_told_exactly_by_what(
    dtype: str, depth: int, exponent: int, size: int, random: object
) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    row = (rng.uniform(0.25, 1, depth) * rng.choice([-1, 1], depth) * 2.0**size).astype(dtype)
    out, able = scaled(row, exponent)
    lanes = host.lanes(dtype)
    factor, inverse, products = (float(number) for number in out[:3])
    wanted = exponent - (np.frexp(np.abs(row).max())[1] - 1)
    assert able == (wanted <= 20)
    assert factor == 2.0 ** (wanted if able else 40)
    assert factor * inverse == 1
    numbers = out[lanes:]
    np.testing.assert_array_equal(numbers[:depth], row * row.dtype.type(factor))
    assert not numbers[depth:].any()
    magnitudes = float(np.square(numbers.astype(np.float64)).sum())
    bound = (depth + 4) * float(np.finfo(dtype).eps) * magnitudes
    assert products == pytest.approx(pair_products(numbers[:depth]), abs=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [1, 5, 16, 37])
def test_a_row_of_zeros_can_be_multiplied_in_pairs(dtype: str, depth: int) -> None:
    out, able = scaled(np.zeros(depth, dtype))
    assert able
    assert np.isfinite(out[:3]).all()
    assert not out[2:3].any()
    assert not out[host.lanes(dtype) :].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 15, 16, 36])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2.0**40, -1e30])
def test_a_row_with_a_number_beyond_the_largest_cannot(dtype: str, place: int, number: float) -> None:
    row = np.full(37, 2.0**39, dtype)
    assert scaled(row)[1]
    row[place] = number
    assert not scaled(row)[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_repeats_in_step_with_the_pairs_cannot(dtype: str) -> None:
    row = np.random.default_rng(0).standard_normal(300).astype(dtype)
    assert scaled(row)[1]
    assert scaled(np.ones_like(row))[1]
    assert not scaled(np.resize([1, 1, 0.5, 0.5, 1, -1], 300).astype(dtype))[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("largest", "able"), [(pairs.SPREAD - 2, True), (pairs.SPREAD + 3, False)])
def test_a_row_with_a_number_far_larger_than_most_cannot(dtype: str, largest: float, able: bool) -> None:
    row = np.full(1000, -1, dtype)
    row[77] = largest
    assert scaled(row)[1] == able

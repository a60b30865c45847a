"""Element-wise functions and the register tile, against NumPy in extended precision."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.vectors import SIMD, applied, call
from unrollbench.cells import functions
from unrollbench.kernels import host, pack
from unrollbench.kernels.build import Kernel
from unrollbench.tensors import Array

DTYPES = ("float32", "float64")
ULPS = 4
"""Polynomial, sum, reciprocal and product are off by 1, 0.5, 1 and 0.5 ulp at most: 3, and one to spare."""
LOWEST = {"float32": -80.0, "float64": -700.0}
"""Where sigmoid stops falling: below it the true result is smaller than SMALLEST."""
SMALLEST = {"float32": 2e-35, "float64": 1e-304}

Extended = npt.NDArray[np.longdouble]


@cache
def arguments(dtype: str) -> Array:
    """Ordered arguments: evenly spread, around 0, and of every size down to the smallest."""
    rng, bound = np.random.default_rng(0), -LOWEST[dtype] * 1.1
    smallest = np.log(float(np.finfo(dtype).tiny) * 4)
    sizes = np.exp(rng.uniform(smallest, np.log(bound), 50_000)) * rng.choice([-1.0, 1.0], 50_000)
    parts = (np.linspace(-bound, bound, 100_001), rng.standard_normal(50_000), sizes)
    return np.sort(np.concatenate(parts).astype(dtype))


def true_sigmoid(x: Array) -> Extended:
    tail = np.exp(-np.abs(x.astype(np.longdouble)))
    return np.where(x >= 0, 1 / (1 + tail), tail / (1 + tail))


def ulps(got: Array, wanted: Extended) -> float:
    """The largest distance in units in the last place of the wanted values, over those that are normal numbers."""
    limits = np.finfo(got.dtype)
    size = np.maximum(np.abs(wanted), np.longdouble(limits.tiny))
    distance = np.abs(got - wanted) / np.exp2(np.floor(np.log2(size)) - limits.nmant)
    return float(distance[np.abs(wanted) >= limits.tiny].max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_is_exact_to_4_ulp_down_to_its_smallest_value(dtype: str) -> None:
    x = arguments(dtype)
    got, wanted = applied(functions.sigmoid, x), true_sigmoid(x)
    above = x >= LOWEST[dtype]
    assert ulps(got[above], wanted[above]) <= ULPS
    assert np.all(np.abs(got[~above] - wanted[~above]) <= SMALLEST[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_exact_to_4_ulp_everywhere(dtype: str) -> None:
    x = arguments(dtype)
    assert ulps(applied(functions.tanh, x), np.tanh(x.astype(np.longdouble))) <= ULPS


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_tanh_stay_within_their_range_and_saturate_without_going_back(dtype: str) -> None:
    x = arguments(dtype)
    sigmoid, tanh = applied(functions.sigmoid, x), applied(functions.tanh, x)
    assert sigmoid.min() >= 0
    assert sigmoid.max() == 1
    assert (tanh.min(), tanh.max()) == (-1, 1)
    eps = np.finfo(dtype).eps
    for values, size in ((sigmoid, 1.0), (tanh, 2.0)):
        assert np.diff(values).min() >= -ULPS * size * eps  # neighbours may differ by their rounding errors
    saturated = np.abs(x) > 25
    for end in (saturated & (x > 0), saturated & (x < 0)):
        assert np.all(np.diff(tanh[end]) == 0)
        assert np.all(np.diff(sigmoid[end]) >= 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_tanh_pass_nan_through_and_take_infinities_to_their_limits(dtype: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min, 0.0, -0.0], dtype)
    sigmoid, tanh = applied(functions.sigmoid, x), applied(functions.tanh, x)
    assert np.isnan([sigmoid[0], tanh[0]]).all()
    np.testing.assert_array_equal(tanh[1:], np.array([1, -1, 1, -1, 0, 0], dtype))
    np.testing.assert_array_equal(sigmoid[[1, 3, 5, 6]], np.array([1, 1, 0.5, 0.5], dtype))
    assert np.all((sigmoid[[2, 4]] >= 0) & (sigmoid[[2, 4]] <= SMALLEST[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_of_a_subnormal_number_is_that_number(dtype: str) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    x = np.array([smallest, -smallest, 1000 * smallest, np.finfo(dtype).tiny], dtype)
    np.testing.assert_array_equal(applied(functions.tanh, x), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_limits_to_the_bound_and_keeps_nan(dtype: str) -> None:
    x = np.array([-np.inf, -2, -1.5, -1, -0.0, 1, 1.5, 2, np.inf, np.nan], dtype)
    bound = np.full_like(x, 1.5)
    np.testing.assert_array_equal(applied(functions.clip, x, bound), np.clip(x, -bound, bound))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_clip_is_zero_outside_the_bound_only(dtype: str) -> None:
    above = np.nextafter(np.array(1.5, dtype), np.array(2, dtype))
    x = np.array([-np.inf, -above, -1.5, -1, 0, 1.5, above, np.inf, np.nan], dtype)
    gradient = np.arange(1, 10).astype(dtype)
    got = applied(functions.clip_gradient, x, np.full_like(x, 1.5), gradient)
    np.testing.assert_array_equal(got, np.array([0, 0, 3, 4, 5, 6, 0, 0, 9], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_of_nan_passes_a_clip_only_inside_its_bound(dtype: str) -> None:
    x, nan = np.array([0, 2], dtype), np.full(2, np.nan, dtype)
    got = applied(functions.clip_gradient, x, np.ones_like(x), nan)
    np.testing.assert_array_equal(got, np.array([np.nan, 0], dtype))


# ---------------------------------------------------------------- the register tile


def tile_kernel(dtype: str, rows: int, offsets: tuple[int, ...]) -> Kernel:
    """A kernel with the arguments of `simd.tile`."""
    tile = SIMD.tile(dtype, rows, offsets)

    def run(K, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row):  # type: ignore[no-untyped-def]
        tile(K, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row)

    return Kernel("run", run, 11)


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Small integers, whose products and sums every float type holds exactly."""
    array = pack.aligned(shape, dtype)
    array[...] = rng.integers(-4, 5, shape)
    return array


def run_tile(
    kernel: Kernel, a: Array, w: Array, start: Array, out: Array, K: int, *, shared_start: bool = False
) -> None:
    """a (rows, K'), w (columns, K', lanes), start and out (rows, ...), with the strides that the arrays have."""
    start_row = 0 if shared_start else start.strides[0]
    call(
        kernel, K, a.ctypes.data, a.strides[0], a.strides[1], w.ctypes.data, w.strides[0], w.strides[1],
        start.ctypes.data, start_row, out.ctypes.data, out.strides[0],
    )  # fmt: skip


def placed(start: Array, sums: Array, offsets: tuple[int, ...]) -> Array:
    """start with the tile's sums (rows, columns, lanes) added at the byte offsets of its columns."""
    wanted, lanes = start.copy(), sums.shape[2]
    for column, offset in enumerate(offsets):
        at = offset // start.itemsize
        wanted[:, at : at + lanes] += sums[:, column]
    return wanted


@pytest.mark.parametrize(
    ("dtype", "rows", "blocks"),
    [
        ("float32", 1, (0,)),
        ("float32", 3, (0, 2, 3)),
        ("float64", 6, (1, 0, 2, 4)),
        ("float64", 2, (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_a_tile_is_a_matrix_product_whatever_its_rows_and_offsets(
    dtype: str, rows: int, blocks: tuple[int, ...]
) -> None:
    rng, lanes = np.random.default_rng(1), host.lanes(dtype)
    offsets = tuple(block * lanes * np.dtype(dtype).itemsize for block in blocks)
    kernel = tile_kernel(dtype, rows, offsets)
    for K in (0, 1, 2, 7, 33):
        a, w = drawn(rng, (rows, K + 3), dtype), drawn(rng, (len(blocks), K + 1, lanes), dtype)
        start = drawn(rng, (rows, (max(blocks) + 2) * lanes), dtype)
        out = start.copy()
        run_tile(kernel, a, w, start, out, K)
        sums = np.einsum("rk,ckl->rcl", a[:, :K], w[:, :K])
        np.testing.assert_array_equal(out, placed(start, sums, offsets))


def test_a_tile_reads_a_transposed_operand_through_its_strides() -> None:
    rng, lanes = np.random.default_rng(2), host.lanes("float32")
    kernel = tile_kernel("float32", 2, (0,))
    a, w = drawn(rng, (5, 2), "float32").T, drawn(rng, (1, 5, lanes), "float32")
    start, out = drawn(rng, (2, lanes), "float32"), pack.aligned((2, lanes), "float32")
    run_tile(kernel, a, w, start, out, 5)
    np.testing.assert_array_equal(out, start + a @ w[0])


def test_a_tile_may_start_from_one_row_that_all_rows_share_or_from_its_own_result() -> None:
    rng, lanes = np.random.default_rng(3), host.lanes("float32")
    kernel = tile_kernel("float32", 3, (0,))
    a, w, bias = drawn(rng, (3, 4), "float32"), drawn(rng, (1, 4, lanes), "float32"), drawn(rng, (1, lanes), "float32")
    out = pack.aligned((3, lanes), "float32")
    run_tile(kernel, a, w, bias, out, 4, shared_start=True)
    np.testing.assert_array_equal(out, bias + a @ w[0])
    run_tile(kernel, a, w, out, out, 4)
    np.testing.assert_array_equal(out, bias + 2 * (a @ w[0]))


def test_a_tile_multiplies_rows_that_are_nan_apart_from_the_others() -> None:
    lanes = host.lanes("float32")
    kernel = tile_kernel("float32", 3, (0,))
    a, w = np.ones((3, 2), np.float32), np.ones((1, 2, lanes), np.float32)
    a[1, 0] = np.nan
    start: Array = np.zeros((3, lanes), np.float32)
    out: Any = np.empty_like(start)
    run_tile(kernel, a, w, start, out, 2)
    np.testing.assert_array_equal(np.isnan(out).all(axis=1), [False, True, False])
    assert np.all(out[[0, 2]] == 2)


def test_accumulate_is_a_tile_that_adds_to_its_result() -> None:
    rng, lanes, dtype = np.random.default_rng(4), host.lanes("float32"), "float32"
    width = 4 * lanes
    accumulate = SIMD.accumulate(dtype, 2, (0, 2 * width), 5, 7 * 4, 3 * width)

    def run(a, w, out):  # type: ignore[no-untyped-def]
        accumulate(a, w, out)

    a, w, start = drawn(rng, (2, 7), dtype), drawn(rng, (2, 5, lanes), dtype), drawn(rng, (2, 3 * lanes), dtype)
    out = start.copy()
    call(Kernel("run", run, 3), a.ctypes.data, w.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out, placed(start, np.einsum("rk,ckl->rcl", a[:, :5], w), (0, 2 * width)))

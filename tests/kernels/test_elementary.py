"""The equations' functions on vector registers, against NumPy in extended precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.vectors import applied
from unrollbench.cells import functions
from unrollbench.kernels import host
from unrollbench.tensors import Array

DTYPES = ("float32", "float64")
ULPS = 4
"""Polynomial, sum, reciprocal and product are off by 1, 0.5, 1 and 0.5 ulp at most: 3. With a table tanh may be off by
one more: T has half a mantissa, so that the difference of 2^n T and 1 is rounded where 2^n is small."""
LOWEST = {"float32": -60.0, "float64": -650.0}
"""Where sigmoid stops falling: below it the true result is smaller than SMALLEST."""
SMALLEST = {"float32": 1e-26, "float64": 1e-282}

Extended = npt.NDArray[np.longdouble]


@pytest.fixture(autouse=True, params=[True, False], ids=["AVX-512", "without"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX-512F's own instructions are used, where the host has them, or they are not."""
    unit = host.vector_unit()
    monkeypatch.setattr(host, "vector_unit", lambda: replace(unit, avx512=unit.avx512 and request.param))


@cache
def arguments(dtype: str) -> Array:
    """Ordered arguments: evenly spread, around 0, and of every size down to the smallest."""
    rng, bound = np.random.default_rng(0), -LOWEST[dtype] * 1.1
    smallest = np.log(float(np.finfo(dtype).tiny) * 4)
    sizes = np.exp(rng.uniform(smallest, np.log(bound), 50_000)) * rng.choice([-1.0, 1.0], 50_000)
    worst = (np.linspace(-9.43, -9.36, 50_001), np.linspace(-4.8, -4.3, 50_001))  # where tanh rounds most
    parts = (np.linspace(-bound, bound, 100_001), rng.standard_normal(50_000), sizes, *worst)
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
def test_every_nan_stays_nan_whatever_its_bits(dtype: str) -> None:
    integer, mantissa = {"float32": (np.int32, 23), "float64": (np.int64, 52)}[dtype]
    quiet = np.array([np.nan], dtype).view(integer)
    payloads = np.random.default_rng(4).integers(0, 2 ** (mantissa - 1), 1000).astype(integer)
    nan = (quiet | payloads).view(dtype)
    assert np.isnan(nan).all()
    for function in (functions.sigmoid, functions.tanh):
        assert np.isnan(applied(function, nan)).all()
    assert np.isnan(applied(sigmoid_times_tanh, nan, np.ones_like(nan))).all()


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


def sigmoid_times_tanh(x: Any, y: Any) -> Any:
    return functions.sigmoid(x) * functions.tanh(y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_times_tanh_is_exact_as_one_division_too(dtype: str) -> None:
    rng, x = np.random.default_rng(3), arguments(dtype)
    y = rng.permutation(x)
    got, wanted = applied(sigmoid_times_tanh, x, y), true_sigmoid(x) * np.tanh(y.astype(np.longdouble))
    above = x >= LOWEST[dtype]
    assert ulps(got[above], wanted[above]) <= 1.5 * ULPS  # one product more, and both functions' errors
    assert np.all(np.abs(got[~above] - wanted[~above]) <= SMALLEST[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_times_tanh_passes_nan_through_and_takes_infinities_to_their_limits(dtype: str) -> None:
    ends = np.array([np.nan, np.inf, -np.inf, np.finfo(dtype).max, np.finfo(dtype).min, 0.0], dtype)
    x, y = (grid.ravel() for grid in np.meshgrid(ends, ends))
    got = applied(sigmoid_times_tanh, x, y)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x) | np.isnan(y))
    wanted = true_sigmoid(x) * np.tanh(y.astype(np.longdouble))
    known = ~np.isnan(got)
    assert np.all(np.abs(got[known] - wanted[known]) <= SMALLEST[dtype])


@pytest.mark.parametrize("function", [functions.sigmoid, functions.tanh], ids=["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_registers_at_once_give_the_same_bits_as_one(dtype: str, function: Callable[..., Any]) -> None:
    x = arguments(dtype)[::7]
    for registers in (2, 3, 4):
        np.testing.assert_array_equal(applied(function, x, registers=registers), applied(function, x))

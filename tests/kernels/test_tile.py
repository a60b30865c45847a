"""The register tile of a matrix product, against NumPy on numbers whose sums are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from tests.kernels.vectors import call, drawn
from unrollbench.kernels import host, pack, words
from unrollbench.kernels import tile as tiles
from unrollbench.kernels.build import Kernel
from unrollbench.tensors import Array

I64 = ir.IntType(64)
TILES: Any = tiles  # untyped, as what writes LLVM's instructions is
WORDS: Any = words


def tile_kernel(dtype: str, rows: int, columns: int) -> Kernel:
    """A kernel with the arguments of `tile.tile`."""
    return Kernel("run", TILES.tile(dtype, rows, columns), 9)


def run_tile(
    kernel: Kernel, a: Array, w: Array, start: Array, out: Array, K: int, *, shared_start: bool = False
) -> None:
    """a (rows, K'), w (columns, K', lanes), start and out (rows, ...), with the strides that the arrays have."""
    offsets = np.arange(2 * len(a))[:, np.newaxis] * [a.strides[0], out.strides[0]]
    call(
        kernel, K, a.ctypes.data, w.ctypes.data, w.strides[0], w.strides[1],
        start.ctypes.data, shared_start, out.ctypes.data, offsets.ctypes.data,
    )  # fmt: skip


def placed(start: Array, sums: Array, offsets: tuple[int, ...]) -> Array:
    """start with the tile's sums (rows, columns, lanes) added at the byte offsets of its columns."""
    wanted, lanes = start.copy(), sums.shape[2]
    for column, offset in enumerate(offsets):
        at = offset // start.itemsize
        wanted[:, at : at + lanes] += sums[:, column]
    return wanted


@pytest.mark.parametrize(
    ("dtype", "rows", "columns"), [("float32", 1, 1), ("float32", 3, 3), ("float64", 6, 4), ("float64", 2, 8)]
)
def test_a_tile_is_a_matrix_product_whatever_its_rows_and_columns(dtype: str, rows: int, columns: int) -> None:
    rng, lanes = np.random.default_rng(1), host.lanes(dtype)
    kernel = tile_kernel(dtype, rows, columns)
    for K in (0, 1, 2, 7, 33):
        a, w = drawn(rng, (rows, K + 3), dtype), drawn(rng, (columns, K + 1, lanes), dtype)
        start = drawn(rng, (rows, (columns + 1) * lanes), dtype)
        out = start.copy()
        run_tile(kernel, a, w, start, out, K)
        sums = np.einsum("rk,ckl->rcl", a[:, :K], w[:, :K])
        offsets = tuple(column * lanes * a.itemsize for column in range(columns))
        np.testing.assert_array_equal(out, placed(start, sums, offsets))


def test_a_tiles_rows_lie_where_their_offsets_say() -> None:
    rng, lanes, rows = np.random.default_rng(2), host.lanes("float32"), [3, 0, 4]
    kernel = tile_kernel("float32", len(rows), 1)
    a, w = drawn(rng, (5, 7), "float32"), drawn(rng, (1, 7, lanes), "float32")
    start, out = drawn(rng, (5, lanes), "float32"), pack.aligned((5, lanes), "float32")
    offsets = np.array([[row * a.strides[0], row * out.strides[0]] for row in (*rows, 0, 0, 0)])
    call(
        kernel, 7, a.ctypes.data, w.ctypes.data, w.strides[0], w.strides[1], start.ctypes.data, 0, out.ctypes.data,
        offsets.ctypes.data,
    )  # fmt: skip
    wanted = np.zeros_like(out)
    wanted[rows] = (start + a @ w[0])[rows]
    np.testing.assert_array_equal(out, wanted)


def test_a_tile_may_start_from_one_row_that_all_rows_share_or_from_its_own_result() -> None:
    rng, lanes = np.random.default_rng(3), host.lanes("float32")
    kernel = tile_kernel("float32", 3, 1)
    a, w, bias = drawn(rng, (3, 4), "float32"), drawn(rng, (1, 4, lanes), "float32"), drawn(rng, (1, lanes), "float32")
    out = pack.aligned((3, lanes), "float32")
    run_tile(kernel, a, w, bias, out, 4, shared_start=True)
    np.testing.assert_array_equal(out, bias + a @ w[0])
    run_tile(kernel, a, w, out, out, 4)
    np.testing.assert_array_equal(out, bias + 2 * (a @ w[0]))


def test_a_tile_multiplies_rows_that_are_nan_apart_from_the_others() -> None:
    lanes = host.lanes("float32")
    kernel = tile_kernel("float32", 3, 1)
    a, w = np.ones((3, 2), np.float32), np.ones((1, 2, lanes), np.float32)
    a[1, 0] = np.nan
    start: Array = np.zeros((3, lanes), np.float32)
    out: Any = np.empty_like(start)
    run_tile(kernel, a, w, start, out, 2)
    np.testing.assert_array_equal(np.isnan(out).all(axis=1), [False, True, False])
    assert np.all(out[[0, 2]] == 2)


@pytest.mark.parametrize("parts", [(2,), (1, 1)])
def test_a_steps_tile_adds_to_its_result_whatever_it_asks_for_meanwhile(parts: tuple[int, ...]) -> None:
    rng, rows, lanes, dtype = np.random.default_rng(4), 2, host.lanes("float32"), "float32"
    width = 4 * lanes
    ends = TILES.Ends(3 * width, (0, 2 * width))
    tile = TILES.step_tile(dtype, rows, ends, ends, (TILES.Product(5, 7 * 4),), parts, True)
    kernel = Kernel("run", tile, 6)
    a, w, start = drawn(rng, (rows, 7), dtype), drawn(rng, (2, 5, lanes), dtype), drawn(rng, (rows, 3 * lanes), dtype)
    wanted = placed(start, np.einsum("rk,ckl->rcl", a[:, :5], w), (0, 2 * width))
    w = pack.streamed(w, parts)
    for ahead, ahead_k in ((w.ctypes.data, width), (0, 0), (0, 1 << 40)):  # no address that is asked for can fail
        out = start.copy()
        call(kernel, out.ctypes.data, out.ctypes.data, a.ctypes.data, w.ctypes.data, ahead, ahead_k)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("depth", [0, 2, 7])
@pytest.mark.parametrize(("parts", "ranges"), [((2,), 0), ((1, 1), 0), ((2,), 2)])
def test_a_steps_tile_asks_for_each_row_once_and_multiplies_all_the_same(
    parts: tuple[int, ...], ranges: int, depth: int, asks: bool
) -> None:
    rng, rows, lanes, dtype = np.random.default_rng(8), 3, host.lanes("float32"), "float32"
    width, asked, stop = 4 * lanes, np.zeros(rows, np.int64), depth // 2
    ends, products = TILES.Ends(2 * width, (0, width)), (TILES.Product(4, 4 * 4), TILES.Product(depth, 7 * 4, ranges))

    def count(builder: Any, row: Any, address: Any) -> None:
        place = builder.add(address, builder.mul(row, ir.Constant(I64, 8)))
        before = WORDS.peek(builder, place, ir.Constant(I64, 0))
        WORDS.put(builder, place, builder.add(before, ir.Constant(I64, 1)))

    tile = TILES.step_tile(dtype, rows, ends, ends, products, parts, asks, count)
    told, ahead = (0, stop, stop, depth - stop)[: 2 * ranges], (0, 1 << 40)[: 2 * asks]
    x, h = drawn(rng, (rows, 4), dtype), drawn(rng, (rows, 7), dtype)
    W_x, W_h = drawn(rng, (2, 4, lanes), dtype), drawn(rng, (2, depth, lanes), dtype)
    start, out = drawn(rng, (rows, 2, lanes), dtype), pack.aligned((rows, 2, lanes), dtype)
    x_stream, h_stream = pack.streamed(W_x, parts), pack.streamed(W_h, parts)
    ends_at, of_x, of_h = ([a.ctypes.data, b.ctypes.data] for a, b in ((start, out), (x, x_stream), (h, h_stream)))
    arguments = [*ends_at, *of_x, *ahead, *of_h, *told, *ahead, asked.ctypes.data]
    call(Kernel("run", tile, len(arguments)), *arguments)
    sums = np.einsum("rk,ckl->rcl", x, W_x) + np.einsum("rk,ckl->rcl", h[:, :depth], W_h)
    np.testing.assert_array_equal(out, start + sums)
    np.testing.assert_array_equal(asked, [1, 1, 1])


@pytest.mark.parametrize("parts", [(3,), (2, 1)])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_steps_tile_adds_up_two_products_from_a_row_that_all_rows_share(rows: int, parts: tuple[int, ...]) -> None:
    rng, lanes, dtype = np.random.default_rng(5), host.lanes("float64"), "float64"
    width = 8 * lanes
    start_ends, out_ends = TILES.Ends(0, (0, 3 * width, width)), TILES.Ends(3 * width, (0, width, 2 * width))
    products = (TILES.Product(5, 7 * 8), TILES.Product(9, 9 * 8))
    tile = TILES.step_tile(dtype, rows, start_ends, out_ends, products, parts, False)
    kernel = Kernel("run", tile, 6)
    x, h = drawn(rng, (rows, 7), dtype), drawn(rng, (rows, 9), dtype)
    W_x, W_h = drawn(rng, (3, 5, lanes), dtype), drawn(rng, (3, 9, lanes), dtype)
    bias, out = drawn(rng, (4, lanes), dtype), pack.aligned((rows, 3, lanes), dtype)
    x_stream, h_stream = pack.streamed(W_x, parts), pack.streamed(W_h, parts)
    call(kernel, *(array.ctypes.data for array in (bias, out, x, x_stream, h, h_stream)))
    sums = np.einsum("rk,ckl->rcl", x[:, :5], W_x) + np.einsum("rk,ckl->rcl", h, W_h)
    np.testing.assert_array_equal(out, bias[[0, 3, 1]] + sums)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("depth", "later_depth"), [(5, 5), (9, 4), (3, 8), (8, 4), (0, 3)])
def test_a_projecting_tile_is_a_row_s_product_and_that_of_later_rows_with_one_column(
    depth: int, later_depth: int, steps: int
) -> None:
    rng, lanes, dtype, rows = np.random.default_rng(6), host.lanes("float32"), "float32", 3
    width = 4 * lanes
    ends = TILES.Ends(0, (0, 2 * width))
    product, ahead = TILES.Product(depth, 0), TILES.Product(later_depth, (later_depth + 2) * 4)
    kernel = Kernel("run", TILES.projecting_tile(dtype, ends, product, ahead, rows, 2 * width, steps), 10)
    a, w, own = drawn(rng, (1, depth), dtype), drawn(rng, (2, depth, lanes), dtype), drawn(rng, (1, 4 * lanes), dtype)
    x, w_x = drawn(rng, (rows, later_depth + 2), dtype), drawn(rng, (later_depth, lanes), dtype)
    bias, later = drawn(rng, (lanes,), dtype), drawn(rng, (rows, 2 * lanes), dtype)
    wanted, wanted_later = placed(own, np.einsum("rk,ckl->rcl", a, w), (0, 2 * width)), later.copy()
    wanted_later[:, :lanes] = bias + x[:, :later_depth] @ w_x
    stream = pack.streamed(w, [2])
    operands = [array.ctypes.data for array in (own, a, stream, x, w_x)]
    call(kernel, *operands, 0, later_depth, bias.ctypes.data, 0, later.ctypes.data)
    np.testing.assert_array_equal(own, wanted)
    np.testing.assert_array_equal(later, wanted_later)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("cut", [0, 2, 7])
def test_later_rows_are_added_up_in_parts(cut: int, steps: int) -> None:
    rng, lanes, dtype, rows, depth = np.random.default_rng(9), host.lanes("float32"), "float32", 3, 7
    width, nothing = 4 * lanes, TILES.Product(3, 0, 1)
    ahead = TILES.Product(depth, depth * 4)
    kernel = Kernel("run", TILES.projecting_tile(dtype, TILES.Ends(0, (0,)), nothing, ahead, rows, width, steps), 12)
    x, w_x, bias = (drawn(rng, shape, dtype) for shape in ((rows, depth), (depth, lanes), (lanes,)))
    own, a, w = (drawn(rng, shape, dtype) for shape in ((1, lanes), (1, 3), (1, 3, lanes)))
    later, wanted = pack.aligned((rows, lanes), dtype), own + a @ w[0]
    begun = [(0, cut, bias.ctypes.data, 0), (cut, depth - cut, later.ctypes.data, width)]
    for (first, count, start, row), of_row in zip(begun, ((0, 1), (1, 2)), strict=True):
        operands = [own.ctypes.data, a.ctypes.data, w.ctypes.data, *of_row, x.ctypes.data, w_x.ctypes.data]
        call(kernel, *operands, first, count, start, row, later.ctypes.data)
    np.testing.assert_array_equal(own, wanted)
    np.testing.assert_array_equal(later, bias + x @ w_x)


@pytest.mark.parametrize("cuts", [(0, 0), (0, 4), (3, 7), (5, 9), (9, 9)])
def test_tiles_add_up_those_parts_of_a_product_that_they_are_told(cuts: tuple[int, int]) -> None:
    rng, lanes, dtype, rows, depth, later_depth = np.random.default_rng(7), host.lanes("float32"), "float32", 3, 9, 4
    width, (stop, begin) = 4 * lanes, cuts
    ends, product = TILES.Ends(2 * width, (0, width)), TILES.Product(depth, depth * 4, 2)
    told = (0, stop, begin, depth - begin)
    a, w = drawn(rng, (rows, depth), dtype), drawn(rng, (2, depth, lanes), dtype)
    start, kept = drawn(rng, (rows, 2, lanes), dtype), [k for k in range(depth) if not stop <= k < begin]
    wanted = start + np.einsum("rk,ckl->rcl", a[:, kept], w[:, kept])
    for parts in ((1, 1), (2,)):
        out, stream = start.copy(), pack.streamed(w, parts)
        tile = Kernel("run", TILES.step_tile(dtype, rows, ends, ends, (product,), parts, False), 8)
        call(tile, out.ctypes.data, out.ctypes.data, a.ctypes.data, stream.ctypes.data, *told)
        np.testing.assert_array_equal(out, wanted)
    ahead = TILES.Product(later_depth, later_depth * 4)
    x, w_x, bias = (drawn(rng, shape, dtype) for shape in ((rows, later_depth), (later_depth, lanes), (lanes,)))
    row, later = start[:1].copy(), pack.aligned((rows, lanes), dtype)
    projecting = Kernel("run", TILES.projecting_tile(dtype, ends, product, ahead, rows, width, 2), 14)
    others = [x.ctypes.data, w_x.ctypes.data, 0, later_depth, bias.ctypes.data, 0, later.ctypes.data]
    call(projecting, row.ctypes.data, a.ctypes.data, stream.ctypes.data, *told, *others)
    np.testing.assert_array_equal(row, wanted[:1])
    np.testing.assert_array_equal(later, bias + x @ w_x)

"""Products on a matrix unit, where this machine has one: as accurate as float32, for infinities too.

`ENGINES` is what this machine can multiply with: the vector unit computes the same products everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.stacks import bottom, planned, stack
from tests.kernels.vectors import call
from unrollbench.case import CellOptions
from unrollbench.kernels import amx, buffers, host, matrix, multiply, pack, parts
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.source import function
from unrollbench.kernels.tile import Ends
from unrollbench.kernels.weight_gradient import PANEL_ROWS
from unrollbench.tensors import Array

CANARY = 777.0
ENGINES = ["vector unit", *(["matrix unit"] if host.matrix_unit() else [])]
LANES = host.lanes("float32")


def product(engine: str, a: Array, w: Array, start: Array, out: Array, *, run: int, own: int) -> None:
    """out = start + a . w for the first `own` of every `run` rows; start is one row for all, or is out."""
    rows, depth = len(a) // run * own, a.shape[1]
    gaps = [(run - own) * each.strides[0] for each in (a, out)]
    strides = [a.strides[0], out.strides[0], own, *gaps]
    begin = [start.ctypes.data, int(start is not out), out.ctypes.data]
    if engine == "vector unit":
        packed = pack.columns(w, pack.padded(w.shape[1], LANES))
        lies = [packed.ctypes.data, packed.strides[0], packed.strides[1]]
        call(multiply.multiply("float32"), rows, len(packed), depth, a.ctypes.data, *lies, *begin, *strides)
        return
    packed = pack.split(pack.columns(w, pack.padded(w.shape[1], LANES)))
    room = pack.aligned((matrix.room_bytes(depth) // 4,), "float32")
    room[...] = np.nan
    lies = [packed.ctypes.data, packed.strides[0]]
    call(
        _with_unit(matrix.multiply()),
        rows,
        len(packed),
        depth,
        a.ctypes.data,
        *lies,
        *begin,
        *strides,
        matrix.rows_at_once(depth),
        room.ctypes.data,
    )


def _with_unit(called: Kernel) -> Kernel:
    """The kernel, and then the unit is released."""
    names = ", ".join(f"a{index}" for index in range(called.arguments))
    text = f"def run({names}):\n    called({names})\n    release()\n"
    return kernel(text, "run", {"called": called.call, "release": amx.release}, [called])


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    ("rows", "run", "own"),
    [(1, 1, 1), (16, 16, 16), (17, 17, 17), (33, 33, 33), (300, 300, 300), (80, 40, 17), (9, 3, 2)],
)
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (32, 2), (45, 3), (700, 4)])
def test_products_are_as_accurate_as_in_float32_and_nothing_else_is_written(
    engine: str, rows: int, run: int, own: int, depth: int, columns: int, adds: bool
) -> None:
    rng, width = np.random.default_rng(rows), columns * LANES
    a, w = normal(rng, rows, depth), normal(rng, depth, width)
    out, bias = normal(rng, rows + 1, width + LANES), normal(rng, 1, width)
    before = out.copy()
    product(engine, a, w, out if adds else bias, out, run=run, own=own)
    taken = np.arange(rows) % run < own
    first = before[:rows, :width] if adds else np.broadcast_to(bias, (rows, width))
    exact = first.astype(np.float64) + a.astype(np.float64) @ w.astype(np.float64)
    size = abs(first) + abs(a) @ abs(w)
    found = out[:rows, :width]
    assert np.all(abs(found - exact)[taken] <= 2.0**-22 * np.sqrt(depth) * size[taken])
    np.testing.assert_array_equal(found[~taken], before[:rows, :width][~taken])
    np.testing.assert_array_equal(out[:, width:], before[:, width:])
    np.testing.assert_array_equal(out[rows], before[rows])


@pytest.mark.parametrize("engine", ENGINES)
def test_infinities_and_nan_of_a_row_are_multiplied_as_they_are(engine: str) -> None:
    rng, rows, depth, width = np.random.default_rng(3), 40, 70, 2 * LANES
    a, w, bias, out = (
        normal(rng, rows, depth),
        normal(rng, depth, width),
        *(np.zeros((n, width), np.float32) for n in (1, rows)),
    )
    w[:, 0], w[5, 1] = 1, 0
    a[3, 5], a[20, 7], a[21, 8], a[33, 40], a[33, 41] = np.inf, -np.inf, np.nan, np.inf, -np.inf
    product(engine, a, w, bias, out, run=rows, own=rows)
    with np.errstate(invalid="ignore"):
        wanted = a @ w
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-4)
    assert np.isnan(wanted[3, 1])
    assert np.isposinf(wanted[3, 0])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_smallest_numbers_come_to_nothing_that_float32_would_notice_beside_others(engine: str) -> None:
    a: Array = np.array([[1e-40, 1.0], [1e-30, 0.0]], np.float32)
    w: Array = np.ones((2, LANES), np.float32)
    bias, out = np.zeros((1, LANES), np.float32), np.zeros((2, LANES), np.float32)
    product(engine, a, w, bias, out, run=2, own=2)
    np.testing.assert_array_equal(out[0], 1.0)
    np.testing.assert_allclose(out[1], 1e-30, rtol=1e-7)


def test_a_steps_tile_adds_two_products_part_by_part() -> None:
    """Where there is no matrix unit, there is nothing to try."""
    for rows in (1, 16, 17, 32) if host.matrix_unit() else ():
        rng, depths = np.random.default_rng(rows), (20, 40)
        x, h = (normal(rng, rows, depth) for depth in depths)
        W_x, W_h = (normal(rng, 3, depth, 16) for depth in depths)
        bias, out = normal(rng, 3, 16), np.full((rows + 1, 5, 16), CANARY, np.float32)
        run_step_tile(bias, out, (x, h), (W_x, W_h))
        sums = np.einsum("rk,ckl->rcl", x, W_x) + np.einsum("rk,ckl->rcl", h, W_h)
        wanted = np.full_like(out, CANARY)
        wanted[:rows, [1, 3, 0]] = bias[[0, 2, 1]] + sums
        np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)


def run_step_tile(bias: Array, out: Array, operands: tuple[Array, Array], weights: tuple[Array, Array]) -> None:
    """A tile of three columns, which begin at bias[0, 2, 1] and end at out[:, 1, 3, 0]."""
    rows, depths, addresses = len(operands[0]), tuple(a.shape[1] for a in operands), [bias.ctypes.data, out.ctypes.data]
    kept = []
    for a, w in zip(operands, weights, strict=True):
        kept += [pack.aligned((2 * parts.tile_bytes(a.shape[1]) // 4,), "float32"), pack.split(w)]
        call(parts.split(), rows, a.shape[1], a.ctypes.data, a.strides[0], kept[-2].ctypes.data)
        addresses += [each.ctypes.data for each in kept[-2:]]
    tile = matrix.step_tile(-(-rows // amx.ROWS), Ends(0, (0, 128, 64)), Ends(5 * 64, (64, 192, 0)), depths, (2, 1))
    lines = [f"configure({rows})", "tile(start, out, a, w, b, v)", "release()"]
    called: dict[str, Any] = {"configure": amx.configure, "release": amx.release, "tile": tile.call}
    call(kernel(function("run", "start, out, a, w, b, v", lines), "run", called, [tile]), *addresses)


UNIT: dict[str, Any] = {"batch": 32, "units": 64}


@pytest.mark.parametrize(
    ("axes", "taken"),
    [
        ({}, True),
        ({"batch": 64, "threads": 2}, True),
        ({"batch": 32, "threads": 2, "units": 32}, True),
        ({"dtype": "float64"}, False),
        ({"batch": 11}, False),
        ({"batch": 17}, False),
        ({"batch": 26}, True),
        ({"units": 40}, False),
        ({"units": 100}, False),
        ({"batch": 6, "threads": 2}, False),
        ({"batch": 16, "units": 800}, False),
        ({"batch": 32, "units": 800}, True),
        ({"batch": 32, "threads": 2, "units": 800}, True),
        ({"batch": 10, "threads": 2, "units": 800}, False),
    ],
)
def test_layers_are_on_the_matrix_unit_where_its_tiles_are_full_enough(
    monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], taken: bool
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: True)
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 2**21)
    spec = stack("lstm", layers=2, **{**UNIT, **axes})
    assert {layout.on_matrix_unit for layout in planned(spec)} == {taken}
    by_units = "threads" in axes and axes.get("units") == 800 and taken
    assert {layout.split for layout in planned(spec)} == {"units" if by_units else "rows"}
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    assert {layout.on_matrix_unit for layout in planned(spec)} == {False}


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_there_is_room_for_rows_of_fewer_numbers_too(depth: int, fewer: int) -> None:
    depth, fewer = max(depth, fewer), min(depth, fewer)
    rows = matrix.rows_at_once(depth)
    assert rows % (2 * amx.ROWS) == 0
    assert rows // amx.ROWS * parts.tile_bytes(fewer) <= matrix.room_bytes(depth)


@given(
    st.booleans(),
    st.sampled_from([1, 4]),
    st.sampled_from([("basic_rnn", None), ("gru", None), ("lstm", None), ("lstm", 50), ("lstm", 1000)]),
    st.integers(12, 400),
    st.integers(16, 900),
)
def test_a_thread_has_room_for_all_that_it_cuts_into_parts(
    train: bool, window: int, cell: tuple[str, int | None], batch: int, units: int
) -> None:
    spec = stack(cell[0], units=units, batch=batch, train=train, options=CellOptions(num_proj=cell[1]))
    layout = replace(bottom(spec, window=window), on_matrix_unit=True, pairs=False)
    room, inputs = buffers.room_bytes(layout), layout.spec.input_size
    tiles = -(-layout.rows.big // amx.ROWS) * layout.rows.most_groups
    for s in layout.stages:
        gates = s.row_bytes // layout.itemsize
        in_step = parts.tile_bytes(s.operand_size) + (parts.tile_bytes(inputs) if layout.fused else 0)
        products = [] if layout.fused else [inputs]
        if train:
            in_step, products = max(in_step, parts.tile_bytes(gates)), [*products, gates, PANEL_ROWS]
        assert room >= tiles * in_step
        assert all(room >= matrix.room_bytes(depth) for depth in products)


@pytest.mark.parametrize(
    ("batch", "big", "most"),
    [(16, 16, 1), (32, 32, 1), (48, 16, 3), (64, 32, 2), (96, 32, 3), (112, 16, 7), (256, 32, 8)],
)
def test_rows_are_shared_out_among_as_few_tiles_as_can_be_and_two_at_once_where_that_costs_none(
    monkeypatch: pytest.MonkeyPatch, batch: int, big: int, most: int
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: True)
    layout = bottom(stack("lstm", batch=batch, units=64))
    assert (layout.rows.big, layout.rows.most_groups) == (big, most)
    (stage,) = layout.stages
    assert stage.groups.big == 1
    assert layout.columns_at_once(4) == ((2, 2) if big > 16 else (4,))

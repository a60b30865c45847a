"""Products in pairs: their sums, their accuracy, and where they are not taken.

Their tiles are assembly of AVX-512, so that they are run where a host has that; which networks take them is planned
alike everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.numba_programs import check, identical, run
from tests.kernels.stacks import bottom, sharing_rows, stack
from tests.kernels.vectors import call
from unrollbench import reference
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case, CellOptions
from unrollbench.kernels import division, host, multiply, pack, pairs
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import Array, Outputs, Tensors, draw

CANARY = 777.0
ABLE = [False, *([True] if host.vector_unit().avx512 else [])]
"""Whether to multiply in pairs: where a host cannot, plain products are tried in their place, which hold as much."""
DTYPES = ["float32", "float64"]


# ---------------------------------------------------------------- products of any rows


def product(in_pairs: bool, a: Array, w: Array, start: Array, out: Array, *, run: int, own: int) -> int:
    """out = start + a . w for the first `own` of every `run` rows; start is one row for all, or is out.

    Returns how many blocks were not multiplied in pairs though that was asked for; all others were.
    """
    rows, depth, dtype = len(a) // run * own, a.shape[1], a.dtype.name
    packed = pack.columns(w, pack.padded(w.shape[1], host.lanes(dtype)))
    arguments = [rows, len(packed), depth, a.ctypes.data, packed.ctypes.data, packed.strides[0], packed.strides[1]]
    arguments += [start.ctypes.data, int(start is not out), out.ctypes.data, a.strides[0], out.strides[0], own]
    arguments += [(run - own) * each.strides[0] for each in (a, out)]
    if not in_pairs:
        call(multiply.multiply(dtype), *arguments)
        return 0
    room = pack.aligned((multiply.room_bytes(dtype, depth) // a.itemsize + 1,), dtype)
    room[...] = np.nan
    own_products, counts = pairs.own_products(packed), np.zeros(2, np.int64)
    arguments += [own_products.ctypes.data, pairs.weights_exponent(w), room.ctypes.data, counts.ctypes.data]
    asking = out.copy()
    in_asking = asking.ctypes.data - out.ctypes.data
    same = [*arguments[:7], start.ctypes.data + in_asking * (start is out), arguments[8], asking.ctypes.data]
    call(multiply.multiply(dtype, depth, asks=True), *same, *arguments[10:])
    counts[:], room[...] = 0, np.nan
    call(multiply.multiply(dtype, depth), *arguments)
    np.testing.assert_array_equal(asking, out)
    assert np.isnan(room[-1])
    assert counts.sum() == -(-rows // multiply.BLOCK_ROWS)
    return int(counts[1])


def even(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of either sign, all of about the same size, which always allow pairs."""
    found: Array = rng.uniform(0.25, 1, shape) * rng.choice([-1, 1], shape)
    return found


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize(
    ("rows", "run", "own"), [(1, 1, 1), (7, 7, 7), (10, 10, 10), (45, 45, 45), (101, 101, 101), (80, 40, 17), (9, 3, 2)]
)
@pytest.mark.parametrize("depth", [1, 2, 5, 6, 11, 35, 600])
def test_products_are_as_accurate_as_multiply_adds_and_nothing_else_is_written(
    in_pairs: bool, dtype: str, rows: int, run: int, own: int, depth: int, columns: int, adds: bool
) -> None:
    rng, lanes = np.random.default_rng(rows + depth), host.lanes(dtype)
    a, w = (even(rng, shape).astype(dtype) for shape in ((rows, depth), (depth, columns * lanes)))
    out = np.full((rows + 1, (columns + 1) * lanes), CANARY, dtype)
    start = rng.standard_normal((1, columns * lanes)).astype(dtype)
    taken = np.arange(rows) % run < own
    if adds:
        out[:-1][taken, :-lanes] = rng.standard_normal((taken.sum(), columns * lanes)).astype(dtype)
    before = out.copy()
    few = in_pairs and rows // run * own < 4
    assert product(in_pairs, a, w, out if adds else start, out, run=run, own=own) == few
    begun = (before[:-1, :-lanes] if adds else start).astype(np.longdouble)
    wanted, size = begun + a.astype(np.longdouble) @ w, np.abs(begun) + np.abs(a).astype(np.longdouble) @ np.abs(w)
    bound = np.finfo(dtype).eps * (8 + np.sqrt(depth)) * np.max(size[taken], axis=1, keepdims=True)
    assert (np.abs(out[:-1, :-lanes] - wanted)[taken] <= bound).all()
    out[:-1][taken, :-lanes] = before[:-1][taken, :-lanes]
    np.testing.assert_array_equal(out, before)


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "of one sign": lambda rng, shape: rng.uniform(0, 1, shape),
    "constant": lambda rng, shape: np.full(shape, 1 / 3),
    "far from zero": lambda rng, shape: rng.standard_normal(shape) + 5,
    "in turn": lambda rng, shape: np.resize([1.0, -1.0], shape) * rng.uniform(0.5, 1, shape),
    "period 6": lambda rng, shape: np.resize([1, 1, 0.5, 0.5, 1, -1], (shape[-1],)) * rng.uniform(0.5, 1, shape),
    "period 12": lambda rng, shape: np.cos(np.arange(shape[-1]) * np.pi / 6 + rng.uniform(0, 6, (shape[0], 1))),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape).clip(-15, 15),
    "large and tiny rows": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 7, (shape[0], 1)),
}


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("depth", [30, 512, 4096])
@pytest.mark.parametrize("weights", [kind for kind in KINDS if kind != "large and tiny rows"])
@pytest.mark.parametrize("rows", KINDS)
def test_errors_are_at_most_a_few_times_those_of_multiply_adds_whatever_the_numbers(
    in_pairs: bool, depth: int, rows: str, weights: str
) -> None:
    """Relative to the largest product of a row's and a column's magnitudes, whose rounding no sum avoids."""
    rng, lanes = np.random.default_rng(depth), host.lanes("float32")
    a = KINDS[rows](rng, (64, depth)).astype(np.float32)
    w = np.ascontiguousarray(KINDS[weights](rng, (4 * lanes, depth)).T, np.float32)
    start, errors = np.zeros((1, 4 * lanes), np.float32), []
    exact, size = a.astype(np.float64) @ w, np.abs(a).astype(np.float64) @ np.abs(w)
    for way in (False, in_pairs):
        out = np.zeros((64, 4 * lanes), np.float32)
        product(way, a, w, start, out, run=64, own=64)
        errors.append(np.sqrt(np.mean(((out - exact) / size.max(1, keepdims=True)) ** 2)))
    assert errors[1] <= max(7 * errors[0], 1e-7)


@pytest.mark.parametrize("in_pairs", ABLE)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_products_of_small_integers_are_exact(in_pairs: bool, rows: int, columns: int, depth: int, seed: int) -> None:
    """Their factor is a power of two, and all sums are whole multiples of a number that float32 holds."""
    rng, lanes = np.random.default_rng(seed), host.lanes("float32")
    a, w = (np.rint(4 * even(rng, shape)).astype(np.float32) for shape in ((rows, depth), (depth, columns * lanes)))
    out, start = np.zeros((rows, columns * lanes), np.float32), np.ones((1, columns * lanes), np.float32)
    product(in_pairs, a, w, start, out, run=rows, own=rows)
    np.testing.assert_array_equal(out, 1 + a @ w)


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30, 1e4])
def test_a_block_of_rows_one_of_which_does_not_allow_it_is_multiplied_as_it_is_and_counted(
    in_pairs: bool, number: float
) -> None:
    rng = np.random.default_rng(0)
    rows, depth, lanes = 2 * multiply.BLOCK_ROWS, 50, host.lanes("float32")
    a, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, depth), (depth, 3 * lanes)))
    start, found, plain = (np.zeros((count, 3 * lanes), np.float32) for count in (1, rows, rows))
    product(in_pairs, a, w, start, found, run=rows, own=rows)
    a[3, 5] = number
    again = np.zeros_like(found)
    assert product(in_pairs, a, w, start, again, run=rows, own=rows) == int(in_pairs)
    product(False, a, w, start, plain, run=rows, own=rows)
    block = slice(0, multiply.BLOCK_ROWS)
    np.testing.assert_array_equal(again[block], plain[block])
    np.testing.assert_array_equal(again[multiply.BLOCK_ROWS :], found[multiply.BLOCK_ROWS :])


# ---------------------------------------------------------------- weights


def test_rows_are_scaled_to_the_largest_weight() -> None:
    weights = np.full((3, 4), 0.1, np.float32)
    assert pairs.weights_exponent(weights) == -4
    weights[1, 2] = -1
    assert pairs.weights_exponent(weights) == 0
    assert pairs.weights_exponent(weights * np.float32(1.99)) == 0
    assert pairs.weights_exponent(weights * 2) == 1


def test_weights_that_repeat_in_step_with_the_pairs_are_not_multiplied_in_pairs() -> None:
    weights = np.random.default_rng(0).standard_normal((300, 50)).astype(np.float32)
    assert pairs.weights_exponent(weights) < pairs.NO_PAIRS
    weights[:, 7] = np.resize([1, 1, 0.5, 0.5, 1, -1], 300)
    assert pairs.weights_exponent(weights) == pairs.NO_PAIRS


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2.0**9, 70.0])
def test_weights_with_a_number_that_does_not_allow_it_are_not_multiplied_in_pairs(number: float) -> None:
    weights = np.ones((30, 30), np.float32)
    assert pairs.weights_exponent(weights) == 0
    weights[3, 4] = number
    assert pairs.weights_exponent(weights) == pairs.NO_PAIRS


@pytest.mark.parametrize("small", [np.s_[:, 3], np.s_[4, :]])
def test_weights_of_which_a_row_or_column_is_far_smaller_than_others_are_not_multiplied_in_pairs(small: Any) -> None:
    weights = np.ones((30, 30), np.float32)
    weights[small] = 1 / 15
    assert pairs.weights_exponent(weights) == 0
    weights[small] = 1 / 17
    assert pairs.weights_exponent(weights) == pairs.NO_PAIRS


@pytest.mark.parametrize("factor", [0.0, 2.0**-21, 2.0**9])
def test_weights_that_are_zero_or_next_to_it_or_very_large_are_not_multiplied_in_pairs(factor: float) -> None:
    assert pairs.weights_exponent(np.full((5, 5), factor)) == pairs.NO_PAIRS


@pytest.mark.parametrize("depth", [1, 2, 4, 5, 6, 7, 8, 12, 20])
def test_a_columns_own_products_are_those_of_the_first_two_of_every_six_less_those_of_the_last_two(depth: int) -> None:
    vectors = np.random.default_rng(0).integers(-9, 10, (3, depth, 4)).astype(np.float32)
    wanted = np.zeros((3, 4), np.float32)
    for k in range(depth - 1):
        wanted += {0: 1, 4: -1}.get(k % 6, 0) * vectors[:, k] * vectors[:, k + 1]
    np.testing.assert_array_equal(pairs.own_products(vectors), wanted)


# ---------------------------------------------------------------- which networks


@pytest.mark.parametrize(
    ("axes", "inputs", "steps"),
    [
        ({"batch_size": 4}, True, True),
        ({"batch_size": 3}, True, False),
        ({"batch_size": 8, "threads": 2}, True, True),
        ({"batch_size": 6, "threads": 2, "num_units": 600}, True, True),
        ({"batch_size": 3, "threads": 2, "num_units": 600}, True, False),
        ({"batch_size": 40, "dtype": "float64", "cell": "basic_rnn", "parallel_iterations": 2}, True, True),
        ({"batch_size": 40, "parallel_iterations": 1}, False, True),
        ({"batch_size": 2, "parallel_iterations": 1}, False, False),
        ({"batch_size": 40, "input_size": 23}, False, True),
        ({"batch_size": 40, "num_units": 23}, True, False),
        ({"batch_size": 40, "num_units": 10, "parallel_iterations": 1}, False, False),
        ({"batch_size": 40, "input_size": 10, "parallel_iterations": 1}, False, True),
        ({"batch_size": 40, "cell": "lstm", "cell_options": CellOptions(num_proj=20)}, True, False),
    ],
)
def test_inputs_of_a_window_and_states_of_rows_enough_are_multiplied_in_pairs(
    monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], inputs: bool, steps: bool
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    case = Case(**{"cell": "gru", "sequence_length": 40, "input_size": 24, "num_units": 24, **axes})
    for apart in (False, True):
        monkeypatch.setattr(host, "adds_apart", lambda apart=apart: apart)
        (layout,) = division.layouts(spec_of(case), of_case(case))
        assert layout.projects_in_pairs == (inputs and apart)
        assert layout.steps_in_pairs == (steps and apart)


@pytest.mark.parametrize("batch", range(4, 40))
def test_tiles_have_at_least_as_many_rows_as_pairs_pay_with_and_no_more_than_registers_hold(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    monkeypatch.setattr(host, "adds_apart", lambda: True)
    layout = bottom(stack("lstm", batch=batch, units=64))
    sizes = [rows for rows, _ in layout.rows.sizes]
    assert all(layout.in_pairs(rows) for rows in sizes)
    assert max(sizes) * max(layout.columns_at_once(*layout.stages[0].group_sizes)) <= 24


# ---------------------------------------------------------------- networks

SCHEDULES: list[dict[str, Any]] = [
    {"execution": "dynamic", "parallel_iterations": 3},
    {"execution": "static", "swap_memory": None},
    {"execution": "dynamic", "parallel_iterations": 1},
    {"execution": "stepwise", "swap_memory": None},
]
"""The last two have windows of one step, which multiplies its inputs and its state together."""
EVERYTHING = CellOptions(use_peepholes=True, num_proj=29, cell_clip=0.5, proj_clip=0.3, forget_bias=0.5)
SMALL: dict[str, Any] = {"mode": "forward", "sequence_length": 7, "batch_size": 11, "input_size": 26, "num_units": 35}


def program_of(monkeypatch: pytest.MonkeyPatch, case: Case, in_pairs: bool) -> NetworkProgram:
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    monkeypatch.setattr(host, "adds_apart", lambda: in_pairs)
    program = NetworkProgram(spec_of(case), of_case(case))
    assert {layout.pairs for layout in program.network.layouts} == {in_pairs}
    return program


def results_of(monkeypatch: pytest.MonkeyPatch, case: Case, tensors: Tensors, in_pairs: bool) -> tuple[Outputs, str]:
    """The results, and what the program says that it multiplied by."""
    with closing(program_of(monkeypatch, case, in_pairs)) as program:
        found = run(program, case, tensors)
        by = program.listing().multiplied_by
        assert by is not None
        return found, by


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(map(str, schedule.values())))
@pytest.mark.parametrize(
    "axes",
    [
        {"cell": "basic_rnn", "num_layers": 2},
        {"cell": "gru", "num_layers": 2, "batch_size": 26, "threads": 2},
        {"cell": "lstm", "num_layers": 2, "mode": "train"},
        {"cell": "lstm", "cell_options": EVERYTHING, "num_layers": 2, "mode": "train"},
        {"cell": "lstm", "lengths": "uniform", "time_major": False, "batch_size": 53, "num_units": 64},
        {"cell": "gru", "mode": "train", "swap_memory": True, "batch_size": 16, "threads": 2, "input_size": 1},
        {"cell": "lstm", "batch_size": 4, "num_units": 24, "input_size": 2},
        {"cell": "lstm", "batch_size": 30, "num_units": 20, "input_size": 60},
        {"cell": "lstm", "batch_size": 5, "num_units": 170, "threads": 2, "mode": "train", "num_layers": 2},
        {"cell": "gru", "batch_size": 7, "num_units": 150, "threads": 2, "lengths": "uniform"},
        {"cell": "lstm", "batch_size": 1, "num_units": 170, "threads": 2, "sequence_length": 20},
    ],
    ids=lambda axes: " ".join(f"{name}={value}" for name, value in axes.items() if name != "cell_options"),
)
def test_results_are_the_references(
    monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], schedule: dict[str, Any], dtype: str, in_pairs: bool
) -> None:
    case = Case(**{**SMALL, "dtype": dtype, **axes, **schedule})
    tensors = draw(case)
    sharing_rows(monkeypatch)
    results, by = results_of(monkeypatch, case, tensors, in_pairs)
    check(case, tensors, results)
    forward = ", forward" if case.mode == "train" else ""
    if case.batch_size < 4:  # windows of three steps have too few rows of inputs
        assert by.endswith(" bits, of inputs in pairs") == (in_pairs and schedule is SCHEDULES[1])
    elif case.input_size < 24 and in_pairs:
        assert by.endswith(f" bits{forward} in pairs where rows and numbers allow")
    elif case.num_units == 20:
        assert by.endswith(" bits, of inputs in pairs") == (in_pairs and schedule in SCHEDULES[:2])
    else:
        assert (f" bits{forward} in pairs" in by) == in_pairs


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("window", [32, 1])
@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_errors_of_drawn_networks_are_about_those_of_multiply_adds(
    monkeypatch: pytest.MonkeyPatch, cell: str, window: int, in_pairs: bool
) -> None:
    sizes = {"sequence_length": 40, "batch_size": 30, "input_size": 70, "num_units": 200}
    case = Case(**{**SMALL, **sizes, "cell": cell, "parallel_iterations": window})
    tensors = draw(case)
    expected = reference.expected(case, tensors).outputs
    errors = []
    for way in (False, in_pairs):
        found, _ = results_of(monkeypatch, case, tensors, way)
        errors.append(np.sqrt(np.mean((found.outputs - expected) ** 2)))
    assert errors[1] <= 1.5 * errors[0]


@pytest.mark.parametrize("in_pairs", ABLE)
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("where", ["inputs", "initial state", "weights"])
def test_numbers_that_do_not_allow_it_give_what_multiply_adds_give_and_the_program_tells(
    monkeypatch: pytest.MonkeyPatch, where: str, number: float, in_pairs: bool
) -> None:
    case = Case(**{**SMALL, "cell": "gru", "parallel_iterations": 7})
    tensors = draw(case)
    plain = tensors
    if where == "inputs":
        inputs = tensors.inputs.copy()
        inputs[:, 2, 3] = number
        tensors = replace(tensors, inputs=inputs)
    elif where == "initial state":
        (state,) = tensors.initial_state[0] if tensors.initial_state else (np.zeros((11, 35), np.float32),)
        state = state.copy()
        state[2, 3] = number
        tensors = replace(tensors, initial_state=((state,),))
    else:
        weights = {name: array.copy() for name, array in tensors.weights[0].items()}
        for array in weights.values():
            array[..., 3] = number
        tensors = replace(tensors, weights=(weights,))
    with np.errstate(all="ignore"):
        results, by = results_of(monkeypatch, case, tensors, in_pairs)
        wanted, _ = results_of(monkeypatch, case, tensors, False)
    if where != "weights":
        others = np.arange(11) != 2
        np.testing.assert_array_equal(results.outputs[:, 2], wanted.outputs[:, 2])
        np.testing.assert_allclose(results.outputs[:, others], wanted.outputs[:, others], atol=1e-5)
    else:
        np.testing.assert_array_equal(results.outputs, wanted.outputs)
    if where != "weights":
        assert by.endswith(" in pairs where rows and numbers allow") == in_pairs
    else:
        assert by.endswith(" bits")
    assert results_of(monkeypatch, case, plain, in_pairs)[1].endswith(" in pairs") == in_pairs


@pytest.mark.parametrize("in_pairs", ABLE)
def test_static_and_dynamic_programs_differ_in_no_bit(monkeypatch: pytest.MonkeyPatch, in_pairs: bool) -> None:
    case = Case(**{**SMALL, "cell": "lstm", "num_layers": 2, "parallel_iterations": 7})
    static = replace(case, execution="static", parallel_iterations=None, unroll=None, swap_memory=None)
    tensors = draw(case)
    found = [results_of(monkeypatch, each, tensors, in_pairs)[0] for each in (case, static)]
    assert identical(*found)


@pytest.mark.parametrize("in_pairs", ABLE)
def test_results_depend_on_nothing_that_buffers_held_before(monkeypatch: pytest.MonkeyPatch, in_pairs: bool) -> None:
    case = Case(**{**SMALL, "cell": "gru", "mode": "train", "parallel_iterations": 3})
    tensors = draw(case)
    with closing(program_of(monkeypatch, case, in_pairs)) as program:
        before = run(program, case, tensors)
        program._buffers._room[...] = np.nan
        assert identical(before, run(program, case, tensors))

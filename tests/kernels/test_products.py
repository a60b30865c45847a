"""Products over many rows: blocks, remainders and shares of threads, and that none touches memory beyond its arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.stacks import planned, stack
from tests.kernels.vectors import call, drawn
from unrollbench.kernels import host, multiply, products
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import inputs_of
from unrollbench.kernels.source import define, function
from unrollbench.kernels.tile import ROW_TILE
from unrollbench.kernels.transpose import transpose
from unrollbench.tensors import Array

ROOT = Path(__file__).parents[2]
CANARY = 777.0


@given(st.integers(0, 500), st.integers(1, 20))
def test_the_threads_shares_cover_all_rows_once_and_in_whole_tiles(rows: int, threads: int) -> None:
    text = function("part", "rows, thread", [*products.part_of_rows(threads), "return first, first + rows"])
    part = define(text, "part", {})
    shares = [part(rows, thread) for thread in range(threads)]
    assert [row for first, last in shares for row in range(first, last)] == list(range(rows))
    assert all((last - first) % ROW_TILE == 0 for first, last in shares if last < rows)


@given(st.integers(0, 500), st.integers(1, 20))
def test_the_threads_parts_cover_all_items_once_and_are_as_even_as_they_go(count: int, threads: int) -> None:
    text = function("part", "thread", [f"return {products.part_of(count, threads)}"])
    parts = [define(text, "part", {})(thread) for thread in range(threads)]
    assert [item for first, last in parts for item in range(first, last)] == list(range(count))
    assert {last - first for first, last in parts} <= {count // threads, -(-count // threads)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 5), (1, 1), (3, 40), (16, 16), (37, 8), (128, 33), (40, 0), (37, 33)]
)
def test_a_transpose_is_numpys_and_writes_nothing_else(dtype: str, rows: int, columns: int) -> None:
    rng = np.random.default_rng(6)
    origin = drawn(rng, (rows, columns + 3), dtype)
    target: Array = np.full((columns + 1, rows + 2), CANARY, dtype)
    numbers = np.concatenate([rng.permutation(rows), np.zeros(host.lanes(dtype), np.int64)])  # and those to ask for
    addresses = [origin.ctypes.data, origin.strides[0], numbers.ctypes.data, target.ctypes.data, target.strides[0]]
    call(transpose(dtype), rows, columns, *addresses)
    np.testing.assert_array_equal(target[:columns, :rows], origin[numbers[:rows], :columns].T)
    assert np.all(target[columns] == CANARY)
    assert np.all(target[:, rows:] == CANARY)


@pytest.mark.parametrize(("units", "asks"), [(512, False), (1024, True)])
def test_inputs_ask_for_weights_that_a_cache_which_others_use_may_not_keep(
    monkeypatch: pytest.MonkeyPatch, units: int, asks: bool
) -> None:
    asked, called = list[bool](), multiply.multiply("float32")

    def multiplier(dtype: str, depth: int, *, asks: bool) -> Kernel:
        asked.append(asks)
        return called

    monkeypatch.setattr(products, "multiply", multiplier)
    monkeypatch.setattr(products, "kernel", lambda *_: called)
    layouts = [replace(each, pairs=True) for each in planned(stack("lstm", layers=2, units=units))]
    for index, layout in enumerate(layouts):
        for s in layout.stages:
            products.project.__wrapped__(layout, s, inputs_of(tuple(layouts), index))
    assert asked == [False, asks]


GUARDED = """
from dataclasses import replace
from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import check, run
from tests.kernels.guarded import guarded, guarded_copy
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case, CellOptions
from unrollbench.kernels import pack
from unrollbench.schedule import of_case
from unrollbench.tensors import draw
from unrollbench.kernels.spec import spec_of
pack.aligned = guarded
pack.on_own_pages = lambda threads, shape, dtype: guarded((threads, *shape), dtype)
wide = CellOptions(num_proj=200)
for axes in (
    {**CELLS["lstm with everything"], "batch_size": 5, "num_units": 19},
    {**CELLS["gru"], "num_units": (7, 60), "num_layers": 2, "threads": 2, "mode": "forward"},
    {**CELLS["basic_rnn"], "batch_size": 1, "num_units": 1, "input_size": 1, "execution": "static", "dtype": "float64"},
    {**CELLS["gru"], "num_units": 70, "num_layers": 2, "mode": "forward", "parallel_iterations": 1},
    {"cell": "lstm", "cell_options": wide, "num_units": 210, "mode": "forward", "parallel_iterations": 1},
    {"cell": "lstm", "cell_options": wide, "num_units": 210, "mode": "forward", "execution": "stepwise", "threads": 2},
    {"cell": "lstm", "batch_size": 1, "input_size": 50, "num_units": 100, "sequence_length": 53, "execution": "static"},
    {"cell": "lstm", "batch_size": 9, "num_units": 19, "threads": 2},
    {"cell": "lstm", "batch_size": 3, "num_units": 130, "input_size": 100, "threads": 2},
    {"cell": "lstm", "batch_size": 1, "input_size": 50, "num_units": 200, "sequence_length": 53, "threads": 2,
     "execution": "static"},
    {"cell": "lstm", "batch_size": 1, "input_size": 50, "num_units": 213, "sequence_length": 69, "threads": 2,
     "execution": "static", "mode": "forward"},
    {"cell": "lstm", "batch_size": 3, "num_units": 130, "input_size": 100, "threads": 2, "mode": "forward"},
    {"cell": "gru", "batch_size": 1, "num_units": 147, "threads": 3, "mode": "forward", "parallel_iterations": 4},
    {"cell": "lstm", "batch_size": 45, "num_units": 61, "input_size": 37, "num_layers": 2},
    {"cell": "gru", "batch_size": 30, "num_units": 32, "threads": 2, "parallel_iterations": 1},
    {"cell": "lstm", "batch_size": 45, "num_units": 61, "threads": 2, "sequence_length": 40, "parallel_iterations": 32},
    {"cell": "lstm", "num_units": 12, "cell_options": CellOptions(num_proj=3)},
    {"cell": "gru", "batch_size": 32, "num_units": 352},
    {"cell": "gru", "batch_size": 48, "num_units": 512, "parallel_iterations": 7},
    {"cell": "lstm", "batch_size": 16, "num_units": 200, "cell_options": CellOptions(num_proj=256)},
    {"cell": "lstm", "batch_size": 16, "num_units": 63, "mode": "forward", "parallel_iterations": 1},
):
    case = Case(**{**SMALL, **axes})
    tensors = draw(case)
    tensors = replace(tensors, inputs=guarded_copy(tensors.inputs))
    if tensors.d_outputs is not None:
        tensors = replace(tensors, d_outputs=guarded_copy(tensors.d_outputs))
    program = NetworkProgram(spec_of(case), of_case(case))
    check(case, tensors, run(program, case, tensors))
    program.close()
"""
"""In a process of its own, since a kernel that reads too far ends it."""


def test_no_kernel_touches_memory_beyond_its_arrays() -> None:
    process = subprocess.run(
        [sys.executable, "-c", GUARDED],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_such_memory_does_end_a_process_that_reads_one_byte_too_far() -> None:
    script = "import ctypes; from tests.kernels.guarded import guarded; a = guarded((3,), 'float64'); "
    for beyond in ("a.ctypes.data + a.nbytes", "a.ctypes.data - 4096"):
        process = subprocess.run(
            [sys.executable, "-c", script + f"print(a.sum(), flush=True); ctypes.string_at({beyond}, 1)"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.stdout == "0.0\n"
        assert process.returncode < 0

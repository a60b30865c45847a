"""CPU programs of several threads: those that share rows and those that share units."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import (
    check,
    identical,
    run,
    small,
)
from tests.kernels.stacks import sharing_rows
from tests.kernels.vectors import call
from unrollbench.backends.numba_cpu import NetworkProgram, NumbaCpu
from unrollbench.case import Case
from unrollbench.kernels import cpu
from unrollbench.kernels.pack import PAGE_BYTES
from unrollbench.kernels.slots import LayerBuffers
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import Array, draw


@pytest.mark.parametrize(
    ("name", "axes", "split"),
    [
        pytest.param("gru", {"batch_size": 9, "num_units": 19}, "rows", id="rows"),
        pytest.param("lstm with everything", {"batch_size": 8}, "rows", id="rows, as few as can be"),
        pytest.param("gru", {"batch_size": 3, "num_units": 35, "num_layers": 2}, "units", id="units, two layers"),
        pytest.param("lstm with everything", {"batch_size": 3, "num_units": 40}, "units", id="units"),
        pytest.param("lstm", {"batch_size": 1, "num_units": 20}, "units", id="units, some packed"),
        pytest.param(
            "lstm", {"batch_size": 3, "num_units": 130, "input_size": 100}, "units", id="units, and uneven inputs"
        ),
        pytest.param("gru", {"batch_size": 3, "num_units": 144, "input_size": 70}, "units", id="units, uneven blocks"),
        pytest.param("lstm", {"batch_size": 5, "num_units": 20}, "rows", id="rows, since weights are small"),
        pytest.param("lstm", {"batch_size": 4, "num_units": 150}, "rows", id="rows, since a cache keeps the weights"),
        pytest.param("gru", {"batch_size": 1, "num_units": 40, "num_layers": 2}, "rows", id="rows, one thread's alone"),
        pytest.param("lstm", {"batch_size": 3, "threads": 5}, "rows", id="more threads than rows"),
        pytest.param("gru", {"batch_size": 1, "num_units": 1, "threads": 3}, "units", id="more threads than blocks"),
        pytest.param("lstm", {"batch_size": 5, "threads": 3, "swap_memory": True}, "units", id="units, swapping"),
        pytest.param(
            "gru",
            {"batch_size": 9, "num_units": (19, 7), "num_layers": 2, "mode": "forward"},
            "rows",
            id="rows, two layers without a gradient",
        ),
        pytest.param(
            "lstm",
            {"batch_size": 13, "num_units": 20, "num_layers": 2, "threads": 3, "swap_memory": True},
            "rows",
            id="rows, swapping",
        ),
    ],
)
def test_threads_share_the_work_and_change_no_result(
    monkeypatch: pytest.MonkeyPatch, name: str, axes: dict[str, Any], split: str
) -> None:
    if split == "units":
        sharing_rows(monkeypatch)
    case = Case(**{**SMALL, **CELLS[name], "threads": 2, "sequence_length": 9, **axes})
    tensors = draw(case)
    program = NetworkProgram(spec_of(case), of_case(case))
    try:
        assert {layout.split for layout in program.network.layouts} == {split}
        first = run(program, case, tensors)
        check(case, tensors, first)
        for _ in range(20):  # a race would show in some run
            assert identical(run(program, case, tensors), first)
    finally:
        program.close()


@pytest.mark.parametrize("layer", [0, 1])
def test_a_thread_with_rows_of_its_own_touches_no_others(layer: int) -> None:
    T, canary = 5, 777.0
    axes = {"cell": "lstm", "batch_size": 9, "num_units": 20, "num_layers": 2, "threads": 2, "sequence_length": T}
    case = Case(**{**SMALL, **axes, "parallel_iterations": T})  # so that all T steps have slots everywhere
    tensors = draw(case)
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        run(program, case, tensors)
        layouts, buffers = program.network.layouts, program._buffers.layers[layer]
        kernels = cpu.forward_kernels(layouts, layer) | cpu.backward_kernels(layouts, layer)
        frame = program._buffers.frames[1, layer].ctypes.data
        theirs, mine = ({name: _rows(buffers, name, thread) for name in ROWS} for thread in range(2))
        expected = mine["h"].copy()
        for array in theirs.values():
            array[...] = canary
        call(kernels["project"], frame, 0, 0, T)
        for t in range(T):
            call(kernels["step"], frame, t, t)
        call(kernels["d_inputs"], frame, 0, 0, T)
        np.testing.assert_array_equal(mine["h"], expected)
        assert all(np.all(array == canary) for array in theirs.values())
        assert not np.any(mine["gates_0"] == canary)


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("name", ["gru", "lstm with everything", "basic_rnn"])
def test_no_two_threads_with_rows_of_their_own_write_to_one_page_but_of_results(name: str, mode: str) -> None:
    axes = {"batch_size": 9, "num_units": 20, "num_layers": 2, "threads": 2, "mode": mode}
    case = Case(**{**SMALL, **CELLS[name], **axes})
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        run(program, case, draw(case))
        bottom, top = program._buffers.layers
        for buffers, seen in ((bottom, {"x", "d_x"}), (top, {"h", "d_out"})):
            tiles = {f"gates_{s.index}" for s in buffers.layout.stages if s.gate_slots == "tile"}
            arrays = {field for field, a in {**buffers.fixed, **buffers.timed}.items() if a.ndim > 2} - tiles
            arrays = {field for field in arrays if not field.startswith("W_")}
            assert {"h", "d_h"} <= arrays | seen if mode == "train" else arrays
            for array in arrays - seen:
                theirs, mine = (_pages(_rows(buffers, array, thread)) for thread in range(2))
                assert theirs.isdisjoint(mine), array


@pytest.mark.parametrize("window", [1, 4, 32])
@pytest.mark.parametrize(("threads", "batch"), [(2, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("units", [3, 19, 48, 100, 150])
@pytest.mark.parametrize("name", ["gru", "lstm with everything", "lstm", "basic_rnn"])
def test_no_two_threads_that_share_rows_write_gates_to_one_page_unless_products_take_all_of_a_row(
    monkeypatch: pytest.MonkeyPatch, name: str, units: int, threads: int, batch: int, window: int
) -> None:
    sharing_rows(monkeypatch)
    axes = {"batch_size": batch, "num_units": units, "num_layers": 2, "threads": threads, "mode": "forward"}
    case = Case(**{**SMALL, **CELLS[name], **axes, "sequence_length": 34, "parallel_iterations": window})
    tensors = draw(case)
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        check(case, tensors, run(program, case, tensors))
        for buffers in program._buffers.layers:
            for s in (s for s in buffers.layout.stages if s.gate_slots != "tile"):
                pages = [_pages(own) for own in buffers.timed[f"gates_{s.index}"]]
                assert len(pages) == threads
                assert sum(map(len, pages)) == len(set[int]().union(*pages))
        assert buffers.layout.splits_gates
        assert not replace(buffers.layout, train=True).splits_gates
        program.set_inputs(tensors.inputs[:0], None, tensors.initial_state)
        program.run_forward()
        assert program.outputs().shape[:2] == (0, batch)
        check(case, tensors, run(program, case, tensors))


@pytest.mark.parametrize("batch", [16, 17])
def test_slots_of_their_own_take_hardly_more_than_all_rows_would(batch: int) -> None:
    taken = []
    for threads in (1, 4):
        axes = {"cell": "lstm", "batch_size": batch, "num_units": 100, "sequence_length": 50, "threads": threads}
        case = Case(**{**SMALL, **axes})
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            run(program, case, draw(case))
            memory, (buffers,) = program.memory(), program._buffers.layers
            gates = buffers["gates_0"]
            assert gates.ndim == (3 if threads == 1 else 4)
            taken.append((memory.saved_bytes, gates.shape[0] * gates.strides[0]))
    (saved, alone), (saved_apart, apart) = taken
    assert saved == saved_apart  # rows that a thread does not have, and what fills pages, are no activations
    rows = -(-batch // 4) * 4
    assert apart <= alone * rows / batch * 51 / 50 + 4 * 64 * gates.strides[-2]


ROWS = ("h", "c", "gates_0", "d_x")
"""Arrays with rows that a pass writes."""


def _rows(buffers: LayerBuffers, name: str, thread: int) -> Array:
    """The rows of a thread in an array, (slots, rows, width)."""
    parts, (first, count) = buffers.parts(name), buffers.layout.rows.items[thread]
    return parts[thread][0] if len(parts) > 1 else parts[0][0][:, first : first + count]


def _pages(array: Array) -> set[int]:
    """The numbers of the pages that hold the array's rows."""
    starts = [row.ctypes.data for slot in array for row in slot]
    return {(start + at) // PAGE_BYTES for start in starts for at in (0, array.strides[-2] - 1)}


@pytest.mark.parametrize("execution", ["static", "stepwise"])
@pytest.mark.parametrize("split", ["rows", "units"])
def test_threads_share_the_work_of_every_execution(monkeypatch: pytest.MonkeyPatch, execution: str, split: str) -> None:
    if split == "units":
        sharing_rows(monkeypatch)
    case = Case(**{**SMALL, **CELLS["gru"], "threads": 2, "num_units": 35, "num_layers": 2, "execution": execution})
    tensors = draw(case)
    program = NetworkProgram(spec_of(case), of_case(case))
    try:
        assert {layout.split for layout in program.network.layouts} == {split}
        check(case, tensors, run(program, case, tensors))
    finally:
        program.close()


def test_a_closed_program_says_so() -> None:
    case, tensors, _ = small("gru", mode="forward")
    program = NumbaCpu().build(case, tensors)
    program.close()
    program.close()
    with pytest.raises(RuntimeError, match="closed"):
        program.run()


@pytest.mark.parametrize(("T", "units", "brief"), [(1, 8, True), (1000, 8, True), (4000, 8, False), (20, 600, False)])
def test_only_few_steps_with_few_multiplies_are_a_brief_run(
    monkeypatch: pytest.MonkeyPatch, T: int, units: int, brief: bool
) -> None:
    case = Case(**{**SMALL, "cell": "lstm", "mode": "forward", "threads": 2, "sequence_length": T, "num_units": units})
    tensors = draw(case)
    said: list[bool] = []
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        launch = program._team.run

        def noted(*args: Any, brief: bool) -> None:
            said.append(brief)
            launch(*args, brief=brief)

        monkeypatch.setattr(program._team, "run", noted)
        run(program, case, tensors)
    assert said == [brief]

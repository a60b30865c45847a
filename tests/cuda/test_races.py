"""No kernel has a race, and a loop on the device is right with several blocks at once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import cuda

from tests.cuda.grid import GridDevice, RaceError
from tests.cuda.programs import EXECUTIONS, limits, small
from unrollbench import reference
from unrollbench.backends.numba_cuda import CaseProgram
from unrollbench.case import Case
from unrollbench.kernels.cuda.device import Launch
from unrollbench.kernels.cuda.network import Plan, plan_of
from unrollbench.kernels.cuda.tiling import Block, Limits
from unrollbench.tensors import draw

FOUR = replace(limits(Block(2, 2, 1), rows=1, blocks=3), processors=4)
"""Blocks of four threads, four of them at once."""
BARRIER = "grid.sync()"
TALL = replace(limits(Block(1, 1, 2), rows=2, blocks=2), processors=3, shared_bytes=600)


def run(case: Case, wanted: Limits) -> None:
    tensors = draw(case)
    with closing(CaseProgram(case, tensors, GridDevice(wanted))) as program:
        program.run()
        reference.check(case, program.outputs(), reference.expected(case, tensors))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm with everything"])
def test_no_kernel_of_a_cell_has_a_race(name: str, execution: str) -> None:
    axes: dict[str, Any] = {"num_units": 5, "sequence_length": 3, "parallel_iterations": 2, "unroll": 1}
    run(small(name, execution=execution, **axes), FOUR)


@pytest.mark.parametrize(
    "axes",
    [
        {"num_layers": 2, "num_units": (5, 3), "lengths": (3, 0, 2)},
        {"unroll": 3, "parallel_iterations": 2, "time_major": False},
        {"swap_memory": True, "parallel_iterations": 1, "unroll": 1, "num_layers": 2},
        {"mode": "forward", "num_layers": 2, "parallel_iterations": 1, "unroll": 1},
        {"mode": "forward", "num_layers": 3, "parallel_iterations": 3, "unroll": 2},
        {"num_layers": 2, "num_units": (5, 3), "parallel_iterations": 5, "sequence_length": 5},
        {"num_layers": 2, "parallel_iterations": 4, "sequence_length": 6, "unroll": 4},
        {"swap_memory": True, "num_layers": 2, "parallel_iterations": 4, "sequence_length": 6, "unroll": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("wanted", [FOUR, TALL], ids=["four blocks", "two along the rows"])
def test_no_loop_on_the_device_has_a_race(axes: dict[str, Any], wanted: Limits) -> None:
    run(small("lstm with projection", **{"sequence_length": 3, "num_units": 5, **axes}), wanted)


def test_the_grids_of_these_tests_have_several_blocks_both_ways() -> None:
    case = small("lstm with projection", num_units=5, batch_size=9)
    assert plan_of(case, FOUR).loop_grid("forward") == (3, 1)
    assert plan_of(case, replace(TALL, processors=8)).loop_grid("forward") == (2, 3)


def test_a_grid_of_blocks_both_ways_has_no_race() -> None:
    run(small("gru", num_units=5, batch_size=9, sequence_length=3), replace(TALL, processors=8))


# ---------------------------------------------------------------- the detector itself


def started(body: Any, blocks: int = 2) -> None:
    """Runs a kernel of one argument, with two threads per block, on an array of zeros."""
    device = GridDevice(FOUR)
    scope = device.scope("float32")

    def kernel(m: Any) -> None:
        body(scope["cuda"], m)

    device.bind(kernel, Launch((blocks, 1), (2, 1, 1), 64))(cuda.to_device(np.zeros(8, np.float32)))


def test_the_detector_sees_two_writes_and_a_read_of_what_another_writes() -> None:
    def two_writes(cuda: Any, m: Any) -> None:
        m[0] = 1.0

    def read_beside_write(cuda: Any, m: Any) -> None:
        m[cuda.threadIdx.x] = 1.0
        m[4 + cuda.threadIdx.x] = m[1 - cuda.threadIdx.x]

    for body in (two_writes, read_beside_write):
        with pytest.raises(RaceError):
            started(body, blocks=1)


def test_a_barrier_of_the_block_orders_its_threads_and_no_others() -> None:
    def swap(cuda: Any, m: Any) -> None:
        own = 2 * cuda.blockIdx.x + cuda.threadIdx.x
        m[own] = 1.0
        cuda.syncthreads()
        m[4 + own] = m[2 * cuda.blockIdx.x + 1 - cuda.threadIdx.x]

    def other_block(cuda: Any, m: Any) -> None:
        own = 2 * cuda.blockIdx.x + cuda.threadIdx.x
        m[own] = 1.0
        cuda.syncthreads()
        m[4 + own] = m[3 - own]

    started(swap)
    with pytest.raises(RaceError):
        started(other_block)


def test_a_barrier_of_the_grid_orders_all() -> None:
    def other_block(cuda: Any, m: Any) -> None:
        own = 2 * cuda.blockIdx.x + cuda.threadIdx.x
        m[own] = 1.0
        cuda.cg.this_grid().sync()
        m[4 + own] = m[3 - own]

    started(other_block)


@pytest.mark.parametrize(
    "axes",
    [
        {"num_layers": 1, "parallel_iterations": 2},
        {"num_layers": 3, "parallel_iterations": 2},
        {"num_layers": 2, "parallel_iterations": 2},
        {"num_layers": 2, "parallel_iterations": 6, "unroll": 2, "sequence_length": 7},
        {"num_layers": 3, "parallel_iterations": 6, "mode": "forward"},
    ],
    ids=str,
)
def test_a_loop_without_one_of_its_barriers_is_found_out(axes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each barrier in the loops' texts in turn is left out: the detector must see that it was needed."""
    case, whole = small("gru", **{"num_units": 5, "sequence_length": 4, "unroll": 1, **axes}), Plan.kernel_texts
    texts = plan_of(case, FOUR).kernel_texts()
    barriers = [
        (name, n)
        for name in ("loop_forward", "loop_backward")
        if name in texts
        for n in range(texts[name].count(BARRIER))
    ]
    unnoticed = []
    for name, left_out in barriers:

        def without(plan: Plan, name: str = name, left_out: int = left_out) -> dict[str, str]:
            found = whole(plan)
            pieces = found[name].split(BARRIER)
            head, tail = pieces[: left_out + 1], pieces[left_out + 1 :]
            return {**found, name: BARRIER.join(head) + "pass" + BARRIER.join(tail)}

        monkeypatch.setattr(Plan, "kernel_texts", without)
        try:
            run(case, FOUR)
        except RaceError:
            continue
        unnoticed.append((name, left_out))
    assert unnoticed == []

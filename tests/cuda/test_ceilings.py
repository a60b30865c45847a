"""What a GPU's ceilings count is what their kernels do; in the simulator, which never times them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from unrollbench.backends.numba_cuda import NumbaCuda
from unrollbench.errors import BackendUnavailable
from unrollbench.kernels.cuda import ceiling_text as text
from unrollbench.kernels.cuda import ceilings
from unrollbench.kernels.cuda.ceilings import Work
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.kernels.cuda.tiling import Block, Limits

THREADS = 2
STEP = text.SHARED_LOADS * THREADS * 16
"""Bytes that a block of so many threads reads of shared memory at a time."""


def device(processors: int = 2, shared_bytes: int = 3 * STEP) -> SimulatedDevice:
    return SimulatedDevice(Limits(processors, shared_bytes, block=Block(THREADS, 1, 1)))


def found(work: Work, on: SimulatedDevice, rounds: int) -> Any:
    """What each thread stored."""
    work.starter(on)(rounds)
    return on.download(work.found, 0, work.launch.grid[0] * THREADS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_thread_does_the_multiply_adds_that_are_counted(dtype: str) -> None:
    on, rounds = device(processors=1), 2
    work = ceilings.multiply_adds(on, dtype)
    each = text.COPIES * rounds
    assert rounds * work.per_round == 2 * each * text.CHAINS * THREADS * work.launch.grid[0]
    power = 0.999**each
    wanted = sum(power * first + 0.999 * (1 - power) / (1 - 0.999) for first in range(text.CHAINS))
    np.testing.assert_allclose(found(work, on, rounds), wanted, rtol=each * 4 * float(np.finfo(dtype).eps))


SIZES = (16, 32, 3 * 32, 2 * 128, 2 * (128 + 40), 2 * STEP, 2 * (2 * STEP + 48), 6 * STEP, 6 * STEP + 16, 12 * STEP)
"""Of two blocks: next to nothing, shares below and above a step, all shared memory, and more."""


@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_that_are_counted_are_those_that_are_read(size: int) -> None:
    on, rounds = device(), 3
    work = ceilings.reads(on, size)
    words = work.arguments[0]
    on.upload(words, 0, np.ones(words.size, np.int64))
    assert found(work, on, rounds).sum() * text.WORD_BYTES == rounds * work.per_round
    assert work.place == ("shared memory" if size <= 6 * STEP else "global memory")


@pytest.mark.parametrize("size", [2 * 128, 2 * STEP, 6 * STEP, 8 * STEP])
def test_every_word_of_a_working_set_is_read_equally_often(size: int) -> None:
    on = device()
    work = ceilings.reads(on, size)
    words = work.arguments[0]
    values = np.random.default_rng(0).integers(0, 2**40, words.size)
    on.upload(words, 0, values)
    rounds = 2 * work.least_rounds
    times, rest = divmod(rounds * work.per_round, words.size * text.WORD_BYTES)
    assert rest == 0
    assert found(work, on, rounds).sum() == values.sum() * times


def test_a_share_in_shared_memory_is_that_of_its_own_block() -> None:
    on = device()
    work = ceilings.reads(on, 2 * STEP)
    words = work.arguments[0]
    on.upload(words, 0, np.repeat([1, 100], words.size // 2))
    assert found(work, on, 1).tolist() == [16, 16, 1600, 1600]


def test_no_two_blocks_that_read_shared_memory_fit_onto_one_multiprocessor() -> None:
    work = ceilings.reads(device(shared_bytes=3 * STEP), 64)
    assert work.launch.shared_bytes == 3 * STEP
    assert work.launch.grid == (2, 1)


def test_a_working_set_in_global_memory_is_read_once_around_at_the_least() -> None:
    work = ceilings.reads(device(), 100 * STEP)
    assert work.least_rounds * work.per_round >= 100 * STEP > (work.least_rounds - 1) * work.per_round


class Timed(SimulatedDevice):
    """A device that takes a microsecond per round, more at every other try, and runs nothing."""

    def event_s(self, run: Callable[[], None], runs: int, cold: bool) -> tuple[float, ...]:
        assert isinstance(run, partial)
        self.rounds = run.args[0]
        return tuple(self.rounds * 1e-6 * (1 + attempt % 2) for attempt in range(runs))

    def free_bytes(self) -> int:
        return 2**22


def test_the_rates_are_what_is_counted_by_the_best_time_and_what_does_not_fit_is_left_out() -> None:
    on = Timed(Limits(2, 3 * STEP, block=Block(THREADS, 1, 1)))
    peak, shared, beyond = ceilings.measure(on, "float32", (2 * STEP, 12 * STEP, 2**23), 0.002)
    assert (peak.device, peak.threads, peak.unit, peak.place) == ("cuda", None, "GFLOP/s", None)
    assert peak.value == pytest.approx(ceilings.multiply_adds(on, "float32").per_round * 1e6 / 1e9)
    assert [(c.working_set_bytes, c.place) for c in (shared, beyond)] == [
        (2 * STEP, "shared memory"),
        (12 * STEP, "global memory"),
    ]
    assert shared.value == pytest.approx(2 * STEP * 1e6 / 1e9)
    assert on.rounds == 2000  # 0.002 s for a try


def test_the_simulator_s_time_is_no_ceiling() -> None:
    with pytest.raises(BackendUnavailable, match="simulator's time is not a measurement"):
        NumbaCuda().ceilings("float32", None, None)
    with pytest.raises(BackendUnavailable, match="simulator's time is not a measurement"):
        list(ceilings.measure(SimulatedDevice(), "float32", (), 0.0))

"""The team of threads and its barrier: everyone takes part, nobody overtakes, nobody stays behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from unrollbench.kernels import threads, words
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.source import function
from unrollbench.kernels.threads import Team

WORDS: Any = words
THREADS: Any = threads
ARRIVALS, CELLS, OWN, OTHERS, ROUNDS, SIZE = range(6)
"""Fields of a frame in these tests: the threads' arrivals, a shared array, this thread's place in it, and so on."""


@contextmanager
def team_of(size: int) -> Iterator[Team]:
    team = Team(size)
    try:
        yield team
    finally:
        team.close()


@cache
def count() -> int:
    """The address of a function that adds 1 to field 0 of its frame."""
    text = function("run", "frame", ["poke(frame, peek(frame, 0) + 1)"])
    return kernel(text, "run", {"peek": WORDS.peek, "poke": WORDS.poke}).address


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_thread_of_a_team_runs_the_function_once_per_run(size: int) -> None:
    frames = np.zeros((size, 5), np.int64)
    with team_of(size) as team:
        for _ in range(300):
            team.run(count(), frames)
    np.testing.assert_array_equal(frames[:, 0], 300)
    assert not frames[:, 1:].any()


@pytest.mark.parametrize("size", [1, 2])
def test_a_team_runs_on_the_frames_that_it_is_given_and_not_on_those_before(size: int) -> None:
    frames = [np.zeros((size, 5), np.int64) for _ in range(2)]
    with team_of(size) as team:
        for which in (0, 1, 1, 0, 1):
            team.run(count(), frames[which])
    assert [each[:, 0].tolist() for each in frames] == [[2] * size, [3] * size]


@cache
def take_turns(size: int) -> Kernel:
    """Each round every thread writes the round into its cell, waits, adds up what it sees of the others, and waits."""
    text = f"""
def run(frame):
    arrivals, cells, own = peek(frame, {8 * ARRIVALS}), peek(frame, {8 * CELLS}), peek(frame, {8 * OWN})
    for number in range(peek(frame, {8 * ROUNDS})):
        poke(cells + 64 * own, number)
        barrier(arrivals, own, {size})
        for other in range({size}):
            if peek(cells, 64 * other) != number:
                poke(frame + {8 * OTHERS}, peek(frame, {8 * OTHERS}) + 1)
        barrier(arrivals, own, {size})
"""
    waits = THREADS.compiled("barrier")
    return kernel(text, "run", {"peek": WORDS.peek, "poke": WORDS.poke, "barrier": waits.call}, [waits])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nobody_passes_a_barrier_before_all_have_reached_it(size: int) -> None:
    arrivals, cells = np.zeros((size, THREADS.ARRIVAL_BYTES // 8), np.int64), np.zeros((size, 8), np.int64)
    frames = np.zeros((size, SIZE), np.int64)
    frames[:, ARRIVALS], frames[:, CELLS] = arrivals.ctypes.data, cells.ctypes.data
    frames[:, OWN], frames[:, ROUNDS] = np.arange(size), 200
    with team_of(size) as team:
        for _ in range(5):
            team.run(take_turns(size).address, frames)
    assert not frames[:, OTHERS].any()
    np.testing.assert_array_equal(arrivals[:, 0], 5 * 2 * 200)


def started_since(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


def test_close_ends_the_threads_and_may_be_called_again() -> None:
    before = set(threading.enumerate())
    team = Team(3)
    assert len(started_since(before)) == 2
    team.close()
    assert started_since(before) == []
    team.close()


FORKED = """
import os, sys
import numpy as np
from tests.kernels.test_threads import count
from unrollbench.kernels.threads import Team
frames = np.zeros((2, 1), np.int64)
alone, team = Team(1), Team(2)
if child := os.fork():
    _, status = os.waitpid(child, 0)
    team.run(count(), frames)  # where its threads are it still runs
    sys.exit(os.waitstatus_to_exitcode(status))
alone.run(count(), frames)
try:
    team.run(count(), frames)
except RuntimeError as error:
    sys.exit(error)
"""


def test_a_team_says_so_where_a_fork_has_left_its_threads_behind() -> None:
    process = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert process.stderr == "this program was closed, or its process was forked: its threads are not here\n"


def test_a_team_that_is_garbage_takes_its_threads_along() -> None:
    before = set(threading.enumerate())
    team = Team(3)
    frames = np.zeros((3, 1), np.int64)
    team.run(count(), frames)
    del team
    gc.collect()
    assert started_since(before) == []


def test_teams_run_side_by_side_and_one_after_the_other() -> None:
    frames: npt.NDArray[np.int64] = np.zeros((2, 1), np.int64)
    with team_of(2) as first, team_of(2) as second:
        for _ in range(20):
            first.run(count(), frames)
            second.run(count(), frames)
    for _ in range(5):
        with team_of(2) as team:
            team.run(count(), frames)
    np.testing.assert_array_equal(frames, 45)


@pytest.mark.parametrize("size", [1, 2])
def test_a_closed_team_runs_nothing(size: int) -> None:
    team = Team(size)
    team.close()
    with pytest.raises(RuntimeError, match="closed"):
        team.run(count(), np.zeros((size, 1), np.int64))


def test_the_callers_own_processors_stay_as_they_are() -> None:
    before = os.sched_getaffinity(0)
    with team_of(2) as team:
        team.run(count(), np.zeros((2, 1), np.int64))
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


def test_processor_time_is_that_of_every_thread() -> None:
    with team_of(2) as team:
        before, own = team.cpu_s(), time.thread_time()
        for _ in range(300):
            team.run(count(), np.zeros((2, 5), np.int64))
        others_s = (team.cpu_s() - before) - (time.thread_time() - own)
    assert others_s > 0


@cache
def place() -> int:
    """The address of a function that writes the number of the processor that it runs on to field 0 of its frame."""
    processor = WORDS.c_function("sched_getcpu", [])
    text = function("place", "f", ["poke(f, processor())"])
    return kernel(text, "place", {"poke": WORDS.poke, "processor": processor}).address


def test_every_thread_of_a_team_has_a_processor_to_itself_during_a_run() -> None:
    frames = np.zeros((2, 1), np.int64)
    with team_of(2) as team:
        for _ in range(50):
            team.run(place(), frames)
            assert [int(cpu) for cpu in frames[:, 0]] == THREADS.processors(2)


def test_a_caller_who_is_elsewhere_comes_to_its_processor_for_a_brief_run_too() -> None:
    before, frames = os.sched_getaffinity(0), np.zeros((2, 1), np.int64)
    with team_of(2) as team:
        try:
            os.sched_setaffinity(0, {max(before)})
            team.run(place(), frames, brief=True)
            assert os.sched_getaffinity(0) == {max(before)}
        finally:
            os.sched_setaffinity(0, before)
    assert [int(cpu) for cpu in frames[:, 0]] == THREADS.processors(2)


@pytest.mark.parametrize("cpu", [1024, 5000])
def test_a_caller_whose_processor_is_beyond_a_set_of_processors_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch, cpu: int
) -> None:
    monkeypatch.setattr(threads, "processors", lambda size: [cpu, None])
    before, frames = os.sched_getaffinity(0), np.zeros((2, 1), np.int64)
    with team_of(2) as team:
        team.run(count(), frames)
    np.testing.assert_array_equal(frames, 1)
    assert os.sched_getaffinity(0) == before


def test_a_team_that_is_gathered_stays_on_its_processors_between_runs_and_no_longer() -> None:
    before, frames = os.sched_getaffinity(0), np.zeros((2, 1), np.int64)
    with team_of(2) as team:
        with team.gathered():
            for _ in range(3):
                team.run(place(), frames)
                assert [int(cpu) for cpu in frames[:, 0]] == sorted(before)[:2]
                assert os.sched_getaffinity(0) == {min(before)}
        assert os.sched_getaffinity(0) == before
        team.run(place(), frames)
        assert [int(cpu) for cpu in frames[:, 0]] == sorted(before)[:2]
    with team_of(1) as alone, alone.gathered():
        assert os.sched_getaffinity(0) == before


def test_the_callers_processors_come_back_when_a_gathered_run_fails() -> None:
    before, team = os.sched_getaffinity(0), Team(2)
    team.close()
    with pytest.raises(RuntimeError, match="closed"), team.gathered():
        team.run(count(), np.zeros((2, 1), np.int64))
    assert os.sched_getaffinity(0) == before

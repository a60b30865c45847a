"""Sampling against a clock that only the program moves."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.measure.fake_clock import FakeClock
from unrollbench.errors import UnrollbenchError
from unrollbench.measure.sampling import SAMPLE_S, SAMPLES_AIMED_AT, Effort, sample

TICK_S = FakeClock.TICK_S


class Program:
    """Each run takes the next of `runs_s`, the last of them for ever."""

    def __init__(self, clock: FakeClock, *runs_s: float) -> None:
        self.clock, self.runs_s = clock, runs_s
        self.runs = 0
        self.synchronized = 0
        self.collected = False

    def run(self) -> None:
        self.clock.pass_s(self.runs_s[min(self.runs, len(self.runs_s) - 1)])
        self.runs += 1
        self.collected |= gc.isenabled()

    def synchronize(self) -> None:
        self.synchronized += 1


class EventProgram(Program):
    """Each run takes `device_s` by the device's events; the host waits `flush_s` more for each when it is cold."""

    def __init__(self, clock: FakeClock, device_s: float, flush_s: float = 0.0) -> None:
        super().__init__(clock, device_s)
        self.device_s, self.flush_s = device_s, flush_s
        self.colds: set[bool] = set()

    def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
        self.colds.add(cold)
        self.clock.pass_s(runs * (self.device_s + (self.flush_s if cold else 0.0)))
        return (self.device_s,) * runs


def test_a_program_with_events_is_timed_by_them_and_the_walls_time_is_kept() -> None:
    clock = FakeClock()
    program = EventProgram(clock, 2e-5, flush_s=8e-5)
    sampling = sample(program, clock, Effort(5, 0.05, 100.0), cold=True)
    assert program.colds == {True}
    assert program.runs == 0
    for timed in sampling.samples:
        assert timed.run_s == pytest.approx(2e-5)
        assert timed.host_s == pytest.approx(timed.loops * 1e-4, rel=1e-3)
    assert sum(timed.elapsed_s for timed in sampling.samples) >= 0.05


def test_a_program_without_events_has_no_second_time() -> None:
    clock = FakeClock()
    assert {timed.host_s for timed in sample(Program(clock, 0.01), clock, Effort(3, 0.0, 100.0)).samples} == {None}


def test_the_time_that_there_is_runs_by_the_wall_whatever_the_events_say() -> None:
    clock = FakeClock()
    start_s = clock.now_s()
    sampling = sample(EventProgram(clock, 1.0, flush_s=4.0), clock, Effort(5, 0.1, 12.0), cold=True)
    assert (len(sampling.samples), sampling.cut) == (2, True)
    assert clock.now_s() - start_s < 12.0


@pytest.mark.parametrize("told", [(), (0.0,), (float("nan"),), (float("inf"),), (1e-3, 1e-3)])
def test_events_that_tell_no_time_are_an_error_and_no_number(told: tuple[float, ...]) -> None:
    clock = FakeClock()

    class Broken(EventProgram):
        def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
            return told

    with pytest.raises(UnrollbenchError, match="the device's events do not tell the time of 1 runs"):
        sample(Broken(clock, 1e-3), clock, Effort(3, 0.0, 100.0))


def test_a_short_run_is_looped_until_a_sample_is_long_enough() -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, 1e-6), clock, Effort(5, 0.0, 100.0))
    assert all(timed.elapsed_s >= SAMPLE_S for timed in sampling.samples)
    assert all(abs(timed.run_s - 1e-6) < 1e-8 for timed in sampling.samples)


def test_every_run_is_synchronized_and_counted() -> None:
    clock = FakeClock()
    program = Program(clock, 1e-4)
    sampling = sample(program, clock, Effort(5, 0.1, 100.0))
    assert program.synchronized == program.runs
    assert program.runs == sampling.warmup_runs + sum(timed.loops for timed in sampling.samples)


def test_samples_go_on_until_both_minima_are_reached() -> None:
    clock = FakeClock()
    assert len(sample(Program(clock, 0.01), clock, Effort(7, 0.0, 100.0)).samples) == 7
    many = sample(Program(clock, 0.01), clock, Effort(2, 1.0, 100.0))
    assert sum(timed.elapsed_s for timed in many.samples) >= 1.0
    assert len(many.samples) <= SAMPLES_AIMED_AT + 1


def test_slow_first_runs_are_warm_up_and_no_samples() -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, *[0.05 - 0.002 * i for i in range(20)], 0.01), clock, Effort(5, 3.0, 100.0))
    assert sampling.warmup_runs >= 20
    assert all(abs(timed.run_s - 0.01) < 1e-6 for timed in sampling.samples)


def test_loops_follow_the_warm_speed() -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, 1e-3, 1e-3, 1e-5), clock, Effort(5, 0.05, 100.0))
    assert all(timed.elapsed_s >= SAMPLE_S for timed in sampling.samples)


def test_a_run_longer_than_the_sampling_is_a_sample_at_once() -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, 5.0), clock, Effort(3, 0.1, 100.0))
    assert (len(sampling.samples), sampling.warmup_runs, sampling.cut) == (3, 0, False)


def test_time_that_runs_out_cuts_the_samples_and_says_so() -> None:
    clock = FakeClock()
    start_s = clock.now_s()
    sampling = sample(Program(clock, 5.0), clock, Effort(5, 0.1, 12.0))
    assert (len(sampling.samples), sampling.cut) == (2, True)
    assert clock.now_s() - start_s < 12.0


def test_there_is_always_a_sample() -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, 5.0), clock, Effort(5, 0.1, 0.0))
    assert (len(sampling.samples), sampling.cut) == (1, True)


def test_garbage_is_not_collected_while_samples_are_timed() -> None:
    clock = FakeClock()
    program = Program(clock, 0.01)
    sample(program, clock, Effort(3, 0.0, 100.0))
    assert not program.collected
    assert gc.isenabled()


@given(st.floats(1e-7, 10.0), st.integers(1, 20), st.floats(0.0, 1.0))
def test_a_steady_program_is_measured_as_it_is(run_s: float, min_samples: int, min_time_s: float) -> None:
    clock = FakeClock()
    sampling = sample(Program(clock, run_s), clock, Effort(min_samples, min_time_s, 1e6))
    assert len(sampling.samples) >= min_samples
    assert sum(timed.elapsed_s for timed in sampling.samples) >= min_time_s
    for timed in sampling.samples:
        assert abs(timed.elapsed_s - timed.loops * run_s) <= 2 * TICK_S + 1e-9 * timed.elapsed_s

"""Timed samples of a program that already runs correctly.

        loops found             steady              min_samples and min_time_s
    |-- calibrate --|------- warm up -------|-------------- samples --------------|
     1, 2, 9, 40 runs    until three samples         every one is kept
     per sample          bring no gain

One run is `run` and `synchronize` together: from the call to the finished result. A program that is timed by events
is timed by them, each run by its own: the clock is the device's, and its resolution of about half a microsecond
averages out over the runs of a sample. The wall's seconds are kept beside.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from unrollbench.backends import TimedByEvents
from unrollbench.errors import UnrollbenchError
from unrollbench.measure.clock import Clock, resolution_s
from unrollbench.records import Sample

SAMPLE_S = 1e-3
"""Shortest sample aimed at: far above the clock's tick and above the cost of an interrupt (some 10 us)."""
TICKS = 1000
"""A sample lasts at least so many ticks of the clock: rounding is below 0.1 %."""
SAMPLES_AIMED_AT = 100
"""Where time allows it, `min_time_s` is cut into about so many samples: enough for quartiles, few enough to keep."""
GROWTH = 10.0
"""Most by which one calibration step multiplies the loops, as a first sample may be far too short to extrapolate."""
GAIN = 0.02
"""A warm-up sample that is faster than the best so far by less than this fraction brings no gain."""
STALE = 3
"""So many warm-up samples in a row without gain, and the program counts as warm."""


class Runnable(Protocol):
    def run(self) -> None: ...

    def synchronize(self) -> None: ...


Timer = Callable[[int], Sample]
"""Times so many runs back to back."""


@dataclass(frozen=True)
class Effort:
    """How long to sample: `min_samples` and `min_time_s` at least, but nothing that would end after `max_time_s`."""

    min_samples: int
    min_time_s: float
    max_time_s: float


@dataclass(frozen=True)
class Sampling:
    """What was timed. samples: all, in order, warm-up excluded. cut: `max_time_s` ended it before its minimum."""

    samples: tuple[Sample, ...]
    warmup_runs: int
    cut: bool


def sample(program: Runnable, clock: Clock, effort: Effort, cold: bool = False) -> Sampling:
    """Calibrates, warms up and times the program; at least one sample, whatever the effort.

    cold: the device's cache is flushed before every run, of a program that is timed by events. Garbage is not collected
    meanwhile. Where one sample takes longer than all the warm-up may, it counts at once.
    """
    target_s = max(SAMPLE_S, TICKS * resolution_s(clock), effort.min_time_s / SAMPLES_AIMED_AT)
    timer = _timer(program, clock, cold)
    start_s = clock.now_s()
    with _no_garbage_collection():
        *warmup, calibrated = _calibration(timer, target_s)
        warm = list(_warm_up(timer, calibrated, min(effort.min_time_s, effort.max_time_s / 4)))
        samples = [] if warm else [calibrated]
        warmup += [calibrated, *warm] if warm else []
        loops = _loops(target_s, min(timed.run_s for timed in (calibrated, *warm)))
        total_s = sum(timed.elapsed_s for timed in samples)
        while len(samples) < effort.min_samples or total_s < effort.min_time_s:
            if samples and clock.now_s() - start_s + _taken_s(samples[-1]) > effort.max_time_s:
                break
            samples.append(timer(loops))
            total_s += samples[-1].elapsed_s
    cut = len(samples) < effort.min_samples or total_s < effort.min_time_s
    return Sampling(tuple(samples), sum(timed.loops for timed in warmup), cut)


def _timer(program: Runnable, clock: Clock, cold: bool) -> Timer:
    """Times so many runs of the program by its device's events if it has them, else by the clock."""

    def by_clock(loops: int) -> Sample:
        run, synchronize = program.run, program.synchronize
        start_s = clock.now_s()
        for _ in range(loops):
            run()
            synchronize()
        return Sample(loops, clock.now_s() - start_s)

    if not isinstance(program, TimedByEvents):
        return by_clock
    events: TimedByEvents = program

    def by_events(loops: int) -> Sample:
        start_s = clock.now_s()
        runs_s = events.event_s(loops, cold)
        host_s = clock.now_s() - start_s
        if len(runs_s) != loops or not all(0 < run_s < math.inf for run_s in runs_s):
            told = ", ".join(f"{run_s:g}" for run_s in runs_s[:5])
            raise UnrollbenchError(f"the device's events do not tell the time of {loops} runs: {told or 'nothing'} s")
        return Sample(loops, math.fsum(runs_s), host_s)

    return by_events


def _taken_s(timed: Sample) -> float:
    """What the sample took of the time that there is, whichever clock it is by."""
    return timed.elapsed_s if timed.host_s is None else timed.host_s


def _calibration(timer: Timer, target_s: float) -> Iterator[Sample]:
    """Samples of more and more loops, the last of which is long enough."""
    loops = 1
    while True:
        timed = timer(loops)
        yield timed
        if timed.elapsed_s >= target_s:
            return
        factor = target_s / timed.elapsed_s if timed.elapsed_s > 0 else GROWTH
        loops = math.ceil(loops * min(GROWTH, max(1.5, 1.2 * factor)))


def _warm_up(timer: Timer, calibrated: Sample, limit_s: float) -> Iterator[Sample]:
    """Samples until STALE of them in a row bring no gain, or for `limit_s`; none where one sample takes longer."""
    best_s, stale, total_s = calibrated.run_s, 0, _taken_s(calibrated)
    while stale < STALE and total_s < limit_s:
        timed = timer(calibrated.loops)
        yield timed
        total_s += _taken_s(timed)
        stale = 0 if timed.run_s < (1 - GAIN) * best_s else stale + 1
        best_s = min(best_s, timed.run_s)


def _loops(target_s: float, run_s: float) -> int:
    return max(1, math.ceil(target_s / run_s))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

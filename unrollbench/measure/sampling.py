"""Timed samples of a program that already runs correctly.

        loops found             steady              min_samples and min_time_s
    |-- calibrate --|------- warm up -------|-------------- samples --------------|
     1, 2, 9, 40 runs    until three samples         every one is kept
     per sample          bring no gain

One run is `run` and `synchronize` together: from the call to the finished result.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

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


def sample(program: Runnable, clock: Clock, effort: Effort) -> Sampling:
    """Calibrates, warms up and times the program; at least one sample, whatever the effort.

    Garbage is not collected meanwhile. Where one sample takes longer than all the warm-up may, it counts at once.
    """
    target_s = max(SAMPLE_S, TICKS * resolution_s(clock), effort.min_time_s / SAMPLES_AIMED_AT)
    start_s = clock.now_s()
    with _no_garbage_collection():
        *warmup, calibrated = _calibration(program, clock, target_s)
        warm = list(_warm_up(program, clock, calibrated, min(effort.min_time_s, effort.max_time_s / 4)))
        samples = [] if warm else [calibrated]
        warmup += [calibrated, *warm] if warm else []
        loops = _loops(target_s, min(timed.run_s for timed in (calibrated, *warm)))
        total_s = sum(timed.elapsed_s for timed in samples)
        while len(samples) < effort.min_samples or total_s < effort.min_time_s:
            if samples and clock.now_s() - start_s + samples[-1].elapsed_s > effort.max_time_s:
                break
            samples.append(_timed(program, loops, clock))
            total_s += samples[-1].elapsed_s
    cut = len(samples) < effort.min_samples or total_s < effort.min_time_s
    return Sampling(tuple(samples), sum(timed.loops for timed in warmup), cut)


def _timed(program: Runnable, loops: int, clock: Clock) -> Sample:
    run, synchronize = program.run, program.synchronize
    start_s = clock.now_s()
    for _ in range(loops):
        run()
        synchronize()
    return Sample(loops, clock.now_s() - start_s)


def _calibration(program: Runnable, clock: Clock, target_s: float) -> Iterator[Sample]:
    """Samples of more and more loops, the last of which is long enough."""
    loops = 1
    while True:
        timed = _timed(program, loops, clock)
        yield timed
        if timed.elapsed_s >= target_s:
            return
        factor = target_s / timed.elapsed_s if timed.elapsed_s > 0 else GROWTH
        loops = math.ceil(loops * min(GROWTH, max(1.5, 1.2 * factor)))


def _warm_up(program: Runnable, clock: Clock, calibrated: Sample, limit_s: float) -> Iterator[Sample]:
    """Samples until STALE of them in a row bring no gain, or for `limit_s`; none where one sample takes longer."""
    best_s, stale, total_s = calibrated.run_s, 0, calibrated.elapsed_s
    while stale < STALE and total_s < limit_s:
        timed = _timed(program, calibrated.loops, clock)
        yield timed
        total_s += timed.elapsed_s
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

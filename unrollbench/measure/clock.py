"""The clock of every timing: monotonic, and injectable so that tests need no real time."""

from __future__ import annotations

import time
from typing import Protocol

_PROBES = 50


class Clock(Protocol):
    """Seconds since some fixed moment, of the wall and of this process's processors; neither ever goes back."""

    def now_s(self) -> float: ...

    def cpu_s(self) -> float: ...


class MonotonicClock:
    """The machine's finest monotonic clock, and the processor time of all threads of this process."""

    def now_s(self) -> float:
        return time.perf_counter()

    def cpu_s(self) -> float:
        return time.process_time()


def resolution_s(clock: Clock) -> float:
    """The smallest step that the clock is seen to take: its tick or the cost of reading it, whichever is more."""
    return min(_step_s(clock) for _ in range(_PROBES))


def _step_s(clock: Clock) -> float:
    start = now = clock.now_s()
    while now == start:
        now = clock.now_s()
    return now - start

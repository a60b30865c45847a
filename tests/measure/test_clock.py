from __future__ import annotations

import pytest

from tests.measure.fake_clock import FakeClock
from unrollbench.measure.clock import MonotonicClock, resolution_s


def test_the_resolution_is_the_clock_s_smallest_step() -> None:
    assert resolution_s(FakeClock()) == pytest.approx(FakeClock.TICK_S, rel=1e-3)


def test_the_real_clock_never_goes_back() -> None:
    clock = MonotonicClock()
    times = [clock.now_s() for _ in range(1000)]
    assert times == sorted(times)
    assert clock.cpu_s() <= clock.cpu_s()
    assert resolution_s(clock) > 0

"""A clock that stands still until a test moves it; reading it costs one tick, as reading a real one does."""

from __future__ import annotations


class FakeClock:
    TICK_S = 1e-7

    def __init__(self) -> None:
        self._now_s = 100.0

    def now_s(self) -> float:
        self._now_s += self.TICK_S
        return self._now_s

    def cpu_s(self) -> float:
        """One processor, always busy."""
        return self._now_s

    def pass_s(self, seconds: float) -> None:
        self._now_s += seconds

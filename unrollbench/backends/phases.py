"""Seconds by phase of a build."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases(dict[str, float]):
    """Phase name -> seconds spent in it so far, in the order in which the phases began."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the seconds of the `with` block to the phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + time.perf_counter() - start

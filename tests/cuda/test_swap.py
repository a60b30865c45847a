"""Windows leave and return in an order that overwrites nothing that is still needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from unrollbench.kernels.cuda.swap import PLACES, Windows


class Log:
    """A device that notes what is asked of it; marks are numbers of what was started before them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def pinned(self, elements: int, dtype: str) -> Any:
        return np.zeros(elements, dtype)

    def release(self) -> None:
        self.events.append(("release", None))

    def computed(self) -> Any:
        return self._note("computed", len([e for e in self.events if e[0] == "compute"]))

    def copied(self) -> Any:
        return self._note("copied", len([e for e in self.events if e[0] in ("out", "in")]))

    def _note(self, kind: str, value: Any) -> Any:
        return kind, value

    def compute_waits(self, mark: Any) -> None:
        self.events.append(("compute waits", mark))

    def copies_wait(self, mark: Any) -> None:
        self.events.append(("copies wait", mark))

    def copy_out(self, array: Any, first: int, to: Any) -> None:
        self.events.append(("out", first))

    def copy_in(self, array: Any, first: int, source: Any) -> None:
        self.events.append(("in", first))


def run(count: int) -> tuple[Log, Windows]:
    log = Log()
    windows = Windows(log, 100, 10, count, "float32")  # type: ignore[arg-type]
    log.events.clear()
    windows.begin(None, count)
    for number in range(count):
        windows.place_is_free(number)
        log.events.append(("compute", number))
        windows.swap_out(number)
    for number in range(count - 1, -1, -1):
        windows.swap_in(number)
        windows.swap_in_ahead(number - 1)
        log.events.append(("compute", number))
        windows.place_is_done(number)
    return log, windows


def test_places_alternate() -> None:
    _, windows = run(5)
    assert [windows.base(number) for number in range(5)] == [0, 10, 0, 10, 0]


def test_the_last_windows_never_leave() -> None:
    log, windows = run(5)
    assert [first for kind, first in log.events if kind == "out"] == [100, 110, 100]
    assert [first for kind, first in log.events if kind == "in"] == [100, 110, 100]
    assert windows.host_bytes == 3 * 10 * 4
    assert [kind for kind, _ in run(PLACES)[0].events] == ["compute"] * 4


def test_a_window_is_written_only_after_the_one_in_its_place_has_left() -> None:
    log, _ = run(4)
    before = log.events[: log.events.index(("compute", 2))]
    assert ("compute waits", ("copied", 1)) in before  # the first copy is that of window 0


def test_a_window_leaves_only_after_it_is_computed() -> None:
    log, _ = run(3)
    place = log.events.index(("out", 100))
    assert log.events[place - 1] == ("copies wait", ("computed", 1))


def test_a_window_returns_after_its_place_is_done_and_is_used_after_it_has_returned() -> None:
    log, _ = run(4)
    backward = log.events[log.events.index(("compute", 3)) + 1 :]
    entry = backward.index(("in", 110))
    assert backward[entry - 1] == ("copies wait", ("computed", 5))  # four forward, then window 3: its place is free
    used = backward.index(("compute", 1))
    assert ("compute waits", ("copied", 3)) in backward[entry:used]

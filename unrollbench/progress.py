"""How far a run is, as text: one line for each finished case, or a bar on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unrollbench.labels import label
from unrollbench.records import Measurement
from unrollbench.report import wording
from unrollbench.report.summary import one_line

if TYPE_CHECKING:
    from unrollbench.runner import Progress

_BAR = 24
"""Characters of the bar, as far as the terminal is wide enough."""


def bar(progress: Progress, width: int) -> str:
    """One line of at most `width` characters: the bar, how many are done, the time left, and what is measured now."""
    total = max(progress.total, 1)
    filled = _BAR * progress.done // total
    left = f"{progress.done}/{progress.total}, {wording.seconds(progress.remaining_s)} left"
    now = "" if progress.case is None else f"  {label(progress.case)}"
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {left}{now}"[:width]


def finished(progress: Progress, measurement: Measurement) -> str:
    """One line about the case that has just been measured: how many are done, what came of it, and the time left."""
    left = f"  ({wording.seconds(progress.remaining_s)} left)" if progress.remaining_s else ""
    done = f"{progress.done:>{len(str(progress.total))}}/{progress.total}"
    return f"{done}  {label(measurement.case)}: {outcome(measurement)}{left}"


def outcome(measurement: Measurement) -> str:
    """`build 1.09 s, run 4.10 ms`, or the status and its reason."""
    if measurement.status != "ok":
        return f"{measurement.status.replace('_', ' ')}: {one_line(measurement.reason)}"
    return f"build {wording.seconds(measurement.metrics.build_s)}, run {wording.seconds(measurement.run_s)}"

"""Progress says how far a run is, and nothing that is not known."""

from __future__ import annotations

from tests.runs import failed, measured
from unrollbench import progress
from unrollbench.case import Case
from unrollbench.runner import Progress

CASE = Case(execution="static").canonical()


def test_the_bar_fits_its_width_and_tells_what_is_left() -> None:
    half = Progress(5, 10, 60.0, 61.0, CASE, None)
    line = progress.bar(half, 200)
    assert line.startswith("[############............] 5/10, 61.0 s left  lstm/static T=32")
    assert all(len(progress.bar(half, width)) <= width for width in (1, 20, 80))


def test_an_empty_run_has_a_bar() -> None:
    assert progress.bar(Progress(0, 0, 0.0, 0.0, None, None), 80).endswith("0/0, 0 s left")


def test_a_finished_case_is_told_with_its_figures_or_its_reason() -> None:
    ok = progress.finished(Progress(1, 12, 3.0, 30.0, CASE, None), measured(CASE, 2e-3, 0.5))
    assert ok == " 1/12  lstm/static T=32 B=16 I=64 H=64 L=1 forward: build 500 ms, run 2.00 ms  (30.0 s left)"
    last = progress.finished(Progress(12, 12, 3.0, 0.0, None, None), failed(CASE, "out_of_memory", "9 TiB\nasked"))
    assert last.endswith(": out of memory: 9 TiB asked")

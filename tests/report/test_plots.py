"""Marks lie inside the plot, in the order of their values."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench.report.curves import Curve, Plot, Point
from unrollbench.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw

points = st.lists(
    st.tuples(st.integers(1, 10**6), st.floats(1e-9, 1e6), st.floats(0.5, 1.0), st.floats(1.0, 2.0)),
    min_size=1,
    max_size=12,
    unique_by=lambda item: item[0],
)


def plot_of(found: list[tuple[int, float, float, float]], unit: str) -> Plot:
    marks = tuple(Point(x, y, y * low, y * high) for x, y, low, high in sorted(found))
    return Plot("Time", unit, (Curve("one", marks),))


@given(points, st.sampled_from(["s", "bytes"]))
def test_every_mark_and_tick_is_inside_the_plot(found: list[tuple[int, float, float, float]], unit: str) -> None:
    drawing = draw(plot_of(found, unit), "axis")
    for mark in drawing.lines[0].marks:
        assert LEFT <= mark.x <= WIDTH - RIGHT
        assert TOP - 1e-6 <= mark.high <= mark.y + 1e-6
        assert mark.y <= mark.low + 1e-6 <= HEIGHT - BOTTOM + 2e-6
    assert all(TOP - 1e-6 <= tick.at <= HEIGHT - BOTTOM + 1e-6 for tick in drawing.y_ticks)
    assert 2 <= len(drawing.y_ticks) <= 20


@given(points, st.sampled_from(["s", "bytes"]))
def test_a_larger_value_is_never_drawn_lower(found: list[tuple[int, float, float, float]], unit: str) -> None:
    marks = draw(plot_of(found, unit), "axis").lines[0].marks
    heights = [
        mark.y for _, mark in sorted(zip([y for _, y, _, _ in sorted(found)], marks, strict=True), key=lambda p: p[0])
    ]
    assert heights == sorted(heights, reverse=True)
    assert [mark.x for mark in marks] == sorted(mark.x for mark in marks)


@given(points)
def test_labels_of_the_x_axis_have_room(found: list[tuple[int, float, float, float]]) -> None:
    ticks = draw(plot_of(found, "s"), "axis").x_ticks
    for left, right in itertools.pairwise(ticks):
        assert right.at - left.at >= 26


@pytest.mark.parametrize("low", [-(2.0**20), 0.0])
def test_memory_that_shrank_is_drawn_from_below_zero(low: float) -> None:
    drawing = draw(Plot("Memory", "bytes", (Curve("one", (Point(1, low, low, low), Point(2, 2**20, 0, 2**20))),)), "x")
    assert "0" in [tick.label for tick in drawing.y_ticks]
    assert "linear" in drawing.scale


def test_a_level_has_one_mark_on_a_line_over_all_of_the_axis() -> None:
    level = Curve("static", (Point(1, 2.0, 1.0, 3.0), Point(8, 2.0, 1.0, 3.0)), level=True)
    loop = Curve("dynamic", (Point(1, 2.0, 1.0, 3.0), Point(8, 3.0, 1.0, 3.0)))
    static, dynamic = draw(Plot("Time", "s", (level, loop)), "unroll").lines
    assert (len(static.marks), len(dynamic.marks)) == (1, 2)
    assert static.path.count("L") == 1
    assert static.marks[0].words == "static: 2.00 s"


def test_without_points_there_is_no_line() -> None:
    assert draw(Plot("Time", "s", (Curve("one", ()),)), "axis").lines == ()

"""Curves join the cases that differ only in the axis that was swept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runs import adversarial, failed, measured, run_of, three_ways
from unrollbench.case import Case
from unrollbench.records import Run
from unrollbench.report.curves import figures

LOOP = Case(execution="dynamic")


def test_a_sweep_of_the_sequence_length_is_one_figure_with_a_curve_per_way() -> None:
    (figure,) = figures(run_of(*three_ways(8), *three_ways(32), *three_ways(16)))
    assert figure.axis == "sequence_length"
    assert figure.labels == ("dynamic", "static", "stepwise")
    assert [plot.unit for plot in figure.plots] == ["s", "s", "bytes"]
    for plot in figure.plots:
        assert all([point.x for point in curve.points] == [8, 16, 32] for curve in plot.curves)


def test_points_are_medians_between_their_bounds() -> None:
    (figure,) = figures(run_of(*three_ways(8), *three_ways(16)))
    (point, _) = figure.plots[1].curves[0].points
    assert point.y == pytest.approx(1e-3)
    assert point.low < point.y < point.high


def test_other_networks_have_figures_of_their_own() -> None:
    run = run_of(
        *(measured(replace(LOOP, sequence_length=n, mode=mode)) for n in (8, 16) for mode in ("forward", "train"))
    )
    assert [figure.title for figure in figures(run)] == [
        "lstm B=16 I=64 H=64 L=1 forward",
        "lstm B=16 I=64 H=64 L=1 train",
    ]


def test_what_does_not_have_the_axis_is_a_level() -> None:
    ways = [measured(replace(LOOP, unroll=k)) for k in (1, 2, 4)]
    (figure,) = figures(run_of(*ways, measured(replace(LOOP, execution="static"))))
    loop, static = figure.plots[0].curves
    assert (loop.label, loop.level, [p.x for p in loop.points]) == ("dynamic", False, [1, 2, 4])
    assert (static.label, static.level, [p.x for p in static.points]) == ("static", True, [1, 2, 4])


def test_shapes_are_an_axis_only_where_no_question_axis_was_swept() -> None:
    sizes = [measured(replace(LOOP, batch_size=n)) for n in (1, 2)]
    assert [figure.axis for figure in figures(run_of(*sizes))] == ["batch_size"]
    both = [measured(replace(LOOP, batch_size=n, sequence_length=t)) for n in (1, 2) for t in (8, 16)]
    assert {figure.axis for figure in figures(run_of(*both))} == {"sequence_length"}


def test_a_case_without_figures_is_named_as_absent() -> None:
    static = replace(LOOP, execution="static", sequence_length=512)
    (figure,) = figures(run_of(*three_ways(8), *three_ways(16), failed(static, "timeout")))
    assert figure.absent == ("static at sequence_length 512: timeout",)


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_one_value_of_every_axis_is_no_curve(run: Run) -> None:
    assert figures(run) == ()

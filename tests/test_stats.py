"""Intervals hold what they promise, and ratios claim no more than the data shows."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench import stats
from unrollbench.stats import Ratio

positive = st.floats(1e-6, 1e3)
values = st.lists(positive, min_size=1, max_size=40)
processes = st.lists(st.lists(positive, min_size=1, max_size=12), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("count", "low", "confidence"),
    [(6, 1, 0.96875), (10, 2, 0.978515625), (20, 6, 0.9586105), (100, 40, 0.9647998)],
)
def test_median_interval_is_the_one_in_the_tables(count: int, low: int, confidence: float) -> None:
    interval = stats.median_interval(range(1, count + 1))
    assert interval is not None
    assert (interval.low, interval.high) == (low, count + 1 - low)
    assert interval.confidence == pytest.approx(confidence, abs=1e-6)


def test_too_few_values_give_their_range_with_the_confidence_that_it_has() -> None:
    assert stats.median_interval([3.0, 1.0, 2.0]) == stats.Interval(1.0, 3.0, 0.75)
    assert stats.median_interval([5.0]) == stats.Interval(5.0, 5.0, 0.0)
    assert stats.median_interval([]) is None


def test_median_interval_covers_the_median_of_a_skewed_distribution_as_often_as_it_says() -> None:
    rng = random.Random(7)
    covered = 0
    for _ in range(1000):
        interval = stats.median_interval([rng.lognormvariate(0.0, 1.0) for _ in range(15)])
        assert interval is not None
        covered += interval.low <= 1.0 <= interval.high
    assert covered >= 940  # 95 % less two standard errors of 1000 trials


@given(values)
def test_median_lies_in_its_interval(found: list[float]) -> None:
    interval = stats.median_interval(found)
    assert interval is not None
    assert min(found) <= interval.low <= statistics.median(found) <= interval.high <= max(found)


@given(values)
def test_a_higher_confidence_never_narrows_the_interval(found: list[float]) -> None:
    narrow, wide = stats.median_interval(found, 0.9), stats.median_interval(found, 0.99)
    assert narrow is not None
    assert wide is not None
    assert wide.low <= narrow.low
    assert wide.high >= narrow.high


@given(st.lists(positive, min_size=2, max_size=30))
def test_iqr_is_that_of_numpy(found: list[float]) -> None:
    first, third = np.percentile(found, [25, 75])
    assert stats.iqr(found) == pytest.approx(third - first, abs=1e-9)


def test_what_is_not_there_is_unknown_and_not_zero() -> None:
    assert stats.median([]) is None
    assert stats.iqr([1.0]) is None
    assert stats.centre([[], []]) is None
    assert stats.bounds([]) is None
    assert stats.ratio([], [[1.0]]) is None
    assert stats.ratio([[1.0]], [[]]) is None


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_ratio_needs_values_above_zero(bad: float) -> None:
    assert stats.ratio([[1.0]], [[bad]]) is None
    assert stats.ratio([[bad]], [[1.0]]) is None


@given(processes, processes)
def test_a_ratio_lies_in_its_bounds_and_turns_round(above: list[list[float]], below: list[list[float]]) -> None:
    there, back = stats.ratio(above, below), stats.ratio(below, above)
    assert there is not None
    assert back is not None
    assert there.low <= there.estimate * (1 + 1e-9)
    assert there.high >= there.estimate * (1 - 1e-9)
    assert back.estimate == pytest.approx(there.inverse().estimate)
    assert back.low == pytest.approx(there.inverse().low)
    assert back.shown == there.shown


@given(processes)
def test_nothing_differs_from_itself(found: list[list[float]]) -> None:
    ratio = stats.ratio(found, found)
    assert ratio is not None
    assert not ratio.shown


@given(processes, processes, st.floats(0.1, 10.0))
def test_a_ratio_does_not_depend_on_the_unit(above: list[list[float]], below: list[list[float]], unit: float) -> None:
    plain = stats.ratio(above, below)
    scaled = stats.ratio([[unit * v for v in p] for p in above], [[unit * v for v in p] for p in below])
    assert plain is not None
    assert scaled is not None
    assert scaled.estimate == pytest.approx(plain.estimate)
    assert scaled.low == pytest.approx(plain.low)


def ratio_of(above: list[list[float]], below: list[list[float]]) -> Ratio:
    found = stats.ratio(above, below)
    assert found is not None
    return found


def test_one_process_each_shows_no_difference_below_ten_percent_however_steady_it_is() -> None:
    assert not ratio_of([[1.09] * 50], [[1.0] * 50]).shown
    assert ratio_of([[1.11] * 50], [[1.0] * 50]).shown


def test_single_values_show_no_difference_below_a_half() -> None:
    assert not ratio_of([[1.45]], [[1.0]]).shown
    assert ratio_of([[1.55]], [[1.0]]).shown


def test_few_processes_are_told_apart_only_if_all_of_them_are() -> None:
    base = [[1.0] * 10] * 3
    assert ratio_of([[1.2] * 10, [1.2] * 10, [1.2] * 10], base).shown
    assert not ratio_of([[1.2] * 10, [1.2] * 10, [1.0] * 10], base).shown


def test_seven_processes_need_no_margin() -> None:
    ratio = ratio_of([[1.02] for _ in range(7)], [[1.0] for _ in range(7)])
    assert (ratio.margin, ratio.processes) == (1.0, 7)
    assert ratio.shown


def test_false_alarms_are_rare_when_processes_drift() -> None:
    rng = random.Random(11)

    def process() -> list[float]:
        level = rng.lognormvariate(0.0, 0.01)
        return [level * rng.lognormvariate(0.0, 0.05) for _ in range(30)]

    alarms = sum(ratio_of([process()], [process()]).shown for _ in range(300))
    assert alarms <= 3


def test_rounds_give_the_median_of_their_own_ratios_and_how_far_those_lie_apart() -> None:
    top, bottom = {0: [2.0, 2.0], 1: [9.0, 9.0, 9.0], 2: [5.0]}, {0: [1.0], 1: [3.0], 2: [2.0], 3: [7.0]}
    assert stats.by_rounds(top, bottom) == stats.Rounds(2.5, 2.0, 3.0, 3)


def test_one_round_is_spread_by_its_samples() -> None:
    found = stats.by_rounds({4: [2.0, 4.0, 3.0]}, {4: [1.0, 2.0]})
    assert found == stats.Rounds(2.0, 1.0, 4.0, 1)


@pytest.mark.parametrize(
    ("top", "bottom"), [({}, {}), ({0: [1.0]}, {1: [1.0]}), ({0: []}, {0: [1.0]}), ({0: [1.0]}, {0: [0.0]})]
)
def test_sides_without_a_common_round_of_positive_values_have_no_ratio(
    top: dict[int, list[float]], bottom: dict[int, list[float]]
) -> None:
    assert stats.by_rounds(top, bottom) is None


def test_the_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert stats.geometric_mean([4.0, 0.25]) == stats.Mean(pytest.approx(1.0), 0.25, 4.0, 2)  # type: ignore[arg-type]
    assert stats.geometric_mean([]) is None

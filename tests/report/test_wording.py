"""Words say what the figures show, with units, and nothing more."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.runs import measured, run_of, three_ways
from unrollbench.report import wording
from unrollbench.report.groups import Contrast, contrast, groups
from unrollbench.stats import Ratio


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0 s"),
        (3.2e-10, "0.32 ns"),
        (4.1234e-3, "4.12 ms"),
        (0.99999, "1.00 s"),
        (59.96, "60.0 s"),
        (119.4, "119 s"),
        (119.5, "2 min 00 s"),
        (125.0, "2 min 05 s"),
        (7260.0, "2 h 01 min"),
    ],
)
def test_seconds_have_three_digits_and_the_unit_that_fits(value: float | None, said: str) -> None:
    assert wording.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (-2048, "-2.00 KiB"), (5 * 2**30, "5.00 GiB")],
)
def test_sizes_have_a_binary_unit(value: float | None, said: str) -> None:
    assert wording.size(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (17, "17"), (12345, "12,345"), (12345.0, "12,000"), (3.2, "4")]
)
def test_counts_are_whole_and_estimates_are_rounded(value: float | None, said: str) -> None:
    assert wording.count(value) == said


def test_a_moment_is_told_to_the_second_and_anything_else_as_it_is() -> None:
    assert wording.moment("2026-11-21T01:35:10.009+00:00") == "2026-11-21 01:35:10 UTC"
    assert wording.moment("yesterday") == "yesterday"


def ratio(estimate: float, low: float, high: float) -> Ratio:
    return Ratio(estimate, low, high, processes=1, values=10, margin=1.05)


def test_a_ratio_is_turned_so_that_its_factor_is_above_one() -> None:
    assert wording.versus(ratio(2.0, 1.5, 3.0), "slower", "faster") == "2.00x slower (1.50-3.00)"
    assert wording.versus(ratio(0.5, 0.25, 0.8), "slower", "faster") == "2.00x faster (1.25-4.00)"
    assert wording.versus(None, "slower", "faster") == "-"


def test_a_ratio_whose_bounds_include_one_names_no_difference() -> None:
    assert wording.versus(ratio(1.1, 0.9, 1.3), "slower", "faster") == "no difference shown (0.90-1.30)"


@example(1.005, 1.0, 1.0)  # two digits of it are 1.00, as its nearest double is below
@given(st.floats(0.01, 100.0), st.floats(1.0, 2.0), st.floats(1.0, 2.0))
def test_words_for_a_difference_appear_exactly_if_it_is_shown(estimate: float, below: float, above: float) -> None:
    found = ratio(estimate, estimate / below, estimate * above)
    said = wording.versus(found, "slower", "faster")
    assert said.startswith("no difference") == (not found.shown)
    assert ("1.00)" in said or "(1.00-" in said) <= (not found.shown)


def static_against_dynamic(run_s: float, build_s: float) -> str:
    (group,) = groups(run_of(*three_ways(static_run_s=run_s, static_build_s=build_s)))
    loop, static, _ = group.variants
    return wording.answer(contrast(static, loop), group)


def test_a_faster_run_after_a_slower_build_pays_back_after_the_quotient() -> None:
    said = static_against_dynamic(0.5e-3, 5.0)  # 4.5 s more to build, 0.5 ms less for each run
    assert said.startswith("static runs 2.00x faster (")
    assert "and builds 10.0x slower: it pays back after about 9,000 runs (" in said


def test_a_slower_run_after_a_faster_build_is_ahead_only_at_first() -> None:
    said = static_against_dynamic(2e-3, 0.25)
    assert "runs 2.00x slower" in said
    assert "builds 2.00x faster: it is ahead only for the first about 250 runs" in said


@pytest.mark.parametrize(
    ("run_s", "build_s", "ending"),
    [
        (0.5e-3, 0.1, ": it is ahead from the first run."),
        (0.5e-3, 0.5, ": it is ahead from the first run."),
        (2e-3, 5.0, ": it never pays back."),
        (1e-3, 5.0, ": nothing shown here pays that back."),
        (1e-3, 0.5, "no slower and no faster that this run can show."),
    ],
)
def test_payback_is_claimed_only_where_both_differences_are_shown(run_s: float, build_s: float, ending: str) -> None:
    said = static_against_dynamic(run_s, build_s)
    assert said.endswith(ending)
    assert ("no difference in run time that this run can show" in said) == (run_s == 1e-3)


def test_what_is_unknown_is_said_to_be() -> None:
    (group,) = groups(run_of(*(measured(m.case, m.run_s or 1.0, build_s=None) for m in three_ways())))
    loop, static, _ = group.variants
    assert wording.answer(contrast(static, loop), group).endswith("; build times are unknown.")
    nothing = Contrast(static, loop, None, None, None)
    assert wording.answer(nothing, group).endswith("no run times to compare.")
    assert wording.payback(nothing) == "-"
    assert wording.payback_runs(nothing) is None


def test_the_caveat_names_the_processes_and_vanishes_with_enough_of_them() -> None:
    assert "one process per case" in (wording.caveat([ratio(1, 1, 1)]) or "")
    assert "3 processes per case" in (wording.caveat([Ratio(1, 1, 1, 3, 30, 1.05)]) or "")
    assert wording.caveat([Ratio(1, 1, 1, 7, 70, 1.0)]) is None
    assert wording.caveat([]) is None

"""A plan has each case once, in the order written; filters and budgets cut it and say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_case import cases
from unrollbench import plan, suite
from unrollbench.case import Case
from unrollbench.cost import REFERENCE_FLOPS_PER_S, expected_build_s
from unrollbench.errors import SuiteError
from unrollbench.suite import Group, Suite


def suite_of(axes: str, **changes: Any) -> Suite:
    text = f'title = "t"\nquestion = "q"\n[axes]\n{axes}'
    return replace(suite.parse(text, name="t", origin="t.toml"), **changes)


LOOPS = 'execution = ["static", "dynamic"]\nunroll = [1, 4]\nsequence_length = [8, 32]\nmode = ["forward", "train"]'
AXIS_VALUES: dict[str, list[Any]] = {
    "execution": ["static", "dynamic", "stepwise"],
    "unroll": [1, 2, 4, 8, "full"],
    "parallel_iterations": [1, 8, 32],
    "swap_memory": [False, True],
    "mode": ["forward", "train"],
    "sequence_length": [1, 4, 8],
    "lengths": ["full", "uniform", 1],
    "num_units": [4, [4, 4], [4, 8]],
}


def toml(value: object) -> str:
    return str(value).replace("'", '"').replace("True", "true").replace("False", "false")


def lists_of(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2)


@settings(max_examples=50)
@given(st.fixed_dictionaries({name: lists_of(values) for name, values in AXIS_VALUES.items()}))
def test_expanding_never_yields_a_duplicate_and_its_order_is_stable(axes: dict[str, list[Any]]) -> None:
    text = "num_layers = 2\n" + "\n".join(f"{name} = {toml(values)}" for name, values in axes.items())
    planned = plan.make(suite_of(text)).cases
    assert len({case.key for case in planned}) == len(planned)
    assert all(case == case.canonical() for case in planned)
    assert plan.make(suite_of(text)).cases == planned


def test_the_cases_of_one_network_are_next_to_each_other_however_they_are_written() -> None:
    axes = 'mode = ["forward", "train"]\nthreads = [1, 2]\n'
    text = f'{axes}[[include]]\nexecution = "static"\n[[include]]\nbackend = "torch"\nexecution = "library"\n'
    planned = plan.make(suite_of(text)).cases
    networks = [case.network for case in planned]
    assert networks == [network for network in dict.fromkeys(networks) for _ in range(3)]
    assert [(c.mode, c.threads) for c in planned[::3]] == [("forward", 1), ("forward", 2), ("train", 1), ("train", 2)]
    assert [c.execution for c in planned[:3]] == ["dynamic", "static", "library"]


def test_fused_operators_are_expected_to_build_at_once_and_unrolled_graphs_to_compile() -> None:
    library, static = (Case(backend="torch", execution=execution) for execution in ("library", "static"))
    assert expected_build_s(library) < 5 < expected_build_s(static)


def test_the_last_axis_varies_fastest() -> None:
    planned = plan.make(suite_of("sequence_length = [8, 4]\nbatch_size = [2, 1]")).cases
    assert [(case.sequence_length, case.batch_size) for case in planned] == [(8, 2), (8, 1), (4, 2), (4, 1)]


def test_a_case_of_two_groups_is_run_once() -> None:
    one = suite_of("batch_size = 1")
    twice = replace(one, groups=(one.groups[0], replace(one.groups[0], name="again")))
    assert len(plan.make(twice).cases) == 1


@given(cases(), cases())
def test_labels_differ_where_cases_differ(one: Case, other: Case) -> None:
    one, other = one.canonical(), other.canonical()
    assert (plan.label(one) == plan.label(other)) == (one == other)


def test_a_label_is_short() -> None:
    case = Case(execution="static", sequence_length=64, batch_size=32, num_units=128, mode="train")
    assert plan.label(case.canonical()) == "lstm/static T=64 B=32 I=64 H=128 L=1 train"


def test_a_label_tells_every_axis_that_is_not_at_its_default() -> None:
    case = Case(unroll=4, lengths=(3,) * 16, threads=2, time_major=False)
    expected = "lstm/dynamic unroll=4 T=32 B=16 I=64 H=64 L=1 forward time_major=false lengths=3*16 threads=2"
    assert plan.label(case) == expected


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 12),
        (["execution=static"], 4),
        (["execution=static,dynamic"], 12),
        (["execution!=static"], 8),
        (["sequence_length>=32"], 6),
        (["sequence_length < 32", "mode=train"], 3),
        (["unroll=4"], 4),
        (["unroll>1"], 4),
        (["unroll<=1"], 4),
        (["unroll!=4"], 8),
        (["lstm/static*"], 4),
        (["*T=32*train"], 3),
        (["cell_options.use_peepholes=false"], 12),
        (["lengths=full"], 12),
        (["num_units=64"], 12),
    ],
)
def test_filters_keep_what_they_say(filters: list[str], count: int) -> None:
    assert len(plan.make(suite_of(LOOPS), filters=filters).cases) == count


def test_a_filter_compares_sizes_per_layer_as_a_list() -> None:
    planned = plan.make(suite_of("num_layers = 2\nnum_units = [4, [4, 8]]"), filters=["num_units=[4, 8]"])
    assert [case.num_units for case in planned.cases] == [(4, 8)]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("executon=static", 'unknown axis; did you mean "execution"?'),
        ("unroll>=full", "expected one number after >="),
        ("unroll>=1,2", "expected one number after >="),
        ("unroll=", "expected axis=value"),
        ("unroll=[1", "expected axis=value"),
        ("", "expected axis=value"),
        ("execution=library", "fits none of the 12 cases of t"),
        ("gru/*", "fits none of the 12 cases of t"),
        ("time_major=1", "fits none of the 12 cases of t"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_an_error(text: str, finding: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan.make(suite_of(LOOPS), filters=[text])
    assert finding in str(caught.value)
    assert f'--filter "{text}"' in str(caught.value)


def test_all_bad_filters_are_told_at_once() -> None:
    with pytest.raises(SuiteError) as caught:
        plan.make(suite_of(LOOPS), filters=["a=1", "b=1", "unroll>x"])
    assert len(caught.value.findings) == 3


def test_an_estimate_grows_with_everything_that_takes_time() -> None:
    small = plan.estimate(plan.make(suite_of("sequence_length = 8")))
    for axes in ("sequence_length = 80", "sequence_length = [8, 9]", 'sequence_length = 8\nmode = "train"'):
        assert plan.estimate(plan.make(suite_of(axes))).seconds > small.seconds
    assert plan.estimate(plan.make(suite_of("sequence_length = 8", repeats=3))).seconds > 2 * small.seconds


def test_an_estimate_counts_swapped_activations_as_disk_and_not_as_memory() -> None:
    axes = 'mode = "train"\nsequence_length = 500\nbatch_size = 64\nexecution = "dynamic"\nswap_memory = '
    kept, swapped = (plan.estimate(plan.make(suite_of(axes + value))) for value in ("false", "true"))
    assert kept.disk_bytes == 0 < swapped.disk_bytes
    assert kept.memory_bytes == swapped.memory_bytes + swapped.disk_bytes


def test_an_estimate_never_counts_a_process_beyond_its_timeout() -> None:
    huge = suite_of("sequence_length = 100000\nbatch_size = 4096\nnum_units = 2048", timeout_s=10.0)
    planned = plan.make(huge)
    (case,) = planned.cases
    assert plan.estimate(planned).seconds < 11 + case.flops / REFERENCE_FLOPS_PER_S


def test_a_budget_keeps_whole_comparable_sets_and_says_what_it_leaves_out() -> None:
    whole = plan.make(suite_of(LOOPS.replace("32]", "32, 2000]") + "\nbatch_size = 64"))
    cut = plan.fit(whole, plan.estimate(whole).seconds / 2)
    assert 0 < len(cut.cases) < len(whole.cases)
    assert plan.estimate(cut).seconds <= plan.estimate(whole).seconds / 2
    networks = {case.network for case in cut.cases}
    assert [case for case in whole.cases if case.network in networks] == list(cut.cases)
    assert len(cut.left_out) == 1
    assert "of 18 cases" in cut.left_out[0]


def test_a_budget_that_is_enough_changes_nothing() -> None:
    whole = plan.make(suite_of(LOOPS))
    assert plan.fit(whole, plan.estimate(whole).seconds + 1) == whole


def test_a_budget_keeps_something_of_every_group_before_more_of_one() -> None:
    cheap, dear = suite_of("sequence_length = [4, 5, 6, 7]"), suite_of("sequence_length = [500]\nbatch_size = 512")
    groups = (Group("cheap", "", cheap.groups[0].cases), Group("dear", "", dear.groups[0].cases))
    both = plan.make(replace(cheap, groups=groups))
    first = [cheap.groups[0].cases[0], dear.groups[0].cases[0]]
    budget_s = plan.estimate(replace(both, cases=tuple(first))).seconds + 0.01
    assert list(plan.fit(both, budget_s).cases) == first


def test_a_budget_keeps_a_cut_sequence_with_the_short_one() -> None:
    text = "batch_size = 4\nsequence_length = [10, 20]\nlengths = 10"
    cut = plan.fit(plan.make(suite_of(text)), 1e6)
    assert len(cut.cases) == 2
    least = plan.estimate(cut).seconds
    with pytest.raises(SuiteError, match="the cheapest cases that belong together take about"):
        plan.fit(plan.make(suite_of(text)), 0.9 * least)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert plan.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "0s", "5 minutes", "nan s", "1m1h", "9" * 400 + "s", "\u0665m"])
def test_what_is_no_duration_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(SuiteError, match="expected a duration such as 90s, 5m, 1h or 1h30m"):
        plan.parse_duration(text)

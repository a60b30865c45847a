"""Schedules: every (layer, time step) once, and none before what it depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench.case import Case
from unrollbench.schedule import Schedule, of_case, schedule

schedules = st.builds(
    lambda execution, layers, steps, unroll, window: (
        schedule(execution, num_layers=layers, max_time=steps, unroll=unroll, parallel_iterations=window),
        steps,
    ),
    st.sampled_from(["static", "dynamic", "stepwise"]),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 45),
)
"""(schedule, time steps)"""


@given(schedules)
def test_every_step_of_every_layer_runs_once_and_after_what_it_reads(drawn: tuple[Schedule, int]) -> None:
    planned, steps = drawn
    done: set[tuple[int, int]] = set()
    for layer, t in planned.order(steps):
        assert (layer, t) not in done
        assert t == 0 or (layer, t - 1) in done  # its own state
        assert layer == 0 or (layer - 1, t) in done  # its input
        done.add((layer, t))
    assert done == {(layer, t) for layer in range(planned.num_layers) for t in range(steps)}


@given(schedules)
def test_windows_cover_time_without_gaps_and_none_is_longer_than_the_schedule_says(drawn: tuple[Schedule, int]) -> None:
    planned, steps = drawn
    windows = list(planned.windows(steps))
    assert [t for start, stop in windows for t in range(start, stop)] == list(range(steps))
    assert all(stop - start == planned.window for start, stop in windows[:-1])
    assert windows[-1][1] - windows[-1][0] <= planned.window


@given(schedules)
def test_a_layer_is_at_most_one_window_ahead_of_the_one_above(drawn: tuple[Schedule, int]) -> None:
    planned, steps = drawn
    reached = [0] * planned.num_layers
    for layer, t in planned.order(steps):
        reached[layer] = t + 1
        assert reached[0] - reached[-1] <= planned.window


def test_no_step_has_no_windows() -> None:
    for execution in ("dynamic", "stepwise"):
        assert list(schedule(execution, num_layers=2, max_time=1).order(0)) == []


@pytest.mark.parametrize(
    ("execution", "copies", "window", "max_time"),
    [("static", 12, 12, 12), ("dynamic", 4, 6, None), ("stepwise", 1, 1, None)],
)
def test_only_static_depends_on_the_number_of_time_steps(
    execution: str, copies: int, window: int, max_time: int | None
) -> None:
    planned = schedule(execution, num_layers=2, max_time=12, unroll=4, parallel_iterations=6)
    assert (planned.step_copies, planned.window, planned.max_time) == (copies, window, max_time)


def test_a_case_has_the_schedule_of_its_axes() -> None:
    case = Case(execution="dynamic", sequence_length=10, num_layers=3, unroll="full", parallel_iterations=20)
    assert of_case(case) == Schedule("dynamic", 3, None, window=20, unroll=10)
    assert of_case(replace(case, parallel_iterations=3)).window == 3
    assert of_case(Case(execution="static", sequence_length=10)) == Schedule("static", 1, 10, window=10)
    assert of_case(Case(execution="stepwise", sequence_length=10)) == Schedule("stepwise", 1, None, window=1)

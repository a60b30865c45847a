"""A run answers in a sentence per question, and claims only what its networks show."""

from __future__ import annotations

from dataclasses import replace

from tests.runs import failed, measured, run_of, three_ways
from unrollbench.case import Case
from unrollbench.records import Measurement
from unrollbench.report.answers import headlines
from unrollbench.report.groups import groups

LOOP = Case(execution="dynamic", mode="train")


def said_of(*measurements: Measurement) -> tuple[str, ...]:
    return headlines(groups(run_of(*measurements)))


def test_one_network_is_answered_in_full() -> None:
    (said,) = said_of(*three_ways())
    assert said.startswith("static runs 2.00x faster (")
    assert "it pays back after about 9,000 runs" in said


def test_several_networks_are_counted() -> None:
    (said,) = said_of(*three_ways(8), *three_ways(16), *three_ways(32, static_run_s=1e-3), *three_ways(64, 2e-3))
    assert said == (
        "numba_cpu, static against dynamic in 4 networks: runs faster in 2 (2.00x), runs slower in 1 (2.00x), "
        "no difference in run time that this run can show in 1; builds take 10.0x the time; memory is 4.00x."
    )


def test_without_any_difference_it_says_that_once() -> None:
    (said,) = said_of(*three_ways(8, static_run_s=1e-3), *three_ways(16, static_run_s=1e-3))
    assert "networks: no difference in run time that this run can show in any; builds" in said


def test_networks_whose_static_case_failed_are_not_left_out_of_the_answer() -> None:
    large = replace(LOOP, sequence_length=512)
    (said,) = said_of(*three_ways(), measured(large), failed(replace(large, execution="static"), "timeout"))
    assert said.endswith("Static has no figures in 1 more network (1 timeout).")


def test_each_backend_is_answered_for_itself() -> None:
    ways = [
        measured(replace(LOOP, backend=b, execution=e)) for b in ("jax", "numba_cpu") for e in ("dynamic", "static")
    ]
    assert len(said_of(*ways)) == 2


def test_each_setting_of_the_loop_is_held_against_the_plain_loop() -> None:
    ways = [
        measured(LOOP, 1e-3),
        measured(replace(LOOP, swap_memory=True), 2e-3, memory_bytes=2**19),
        measured(replace(LOOP, unroll=4), 0.5e-3),
        measured(replace(LOOP, unroll=4, swap_memory=True), 0.1e-3),
    ]
    assert said_of(*ways) == (
        "numba_cpu dynamic, swap_memory=true against false in 1 network: runs slower in 1 (2.00x); "
        "builds take 1.00x the time; memory is 0.50x.",
        "numba_cpu dynamic, unroll=4 against 1 in 1 network: runs faster in 1 (2.00x); "
        "builds take 1.00x the time; memory is 1.00x.",
    )


def test_what_is_unknown_is_said_to_be() -> None:
    ways = [measured(replace(LOOP, unroll=k), build_s=None, memory_bytes=None, samples=()) for k in (1, 2)]
    (said,) = said_of(*ways)
    assert said.endswith("run times are unknown; build times are unknown; memory is unknown.")


def test_without_two_ways_it_says_that_it_cannot_answer() -> None:
    nothing = "No network was measured both static and dynamic, so this run does not say which is better."
    assert said_of(measured(replace(LOOP, execution="static"))) == (nothing,)
    assert said_of() == (nothing,)

"""The end of a run on the terminal answers the question, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import pytest

from tests.runs import adversarial, failed, measured, run_of, three_ways
from unrollbench.case import Case
from unrollbench.records import Measurement, Run, Sample
from unrollbench.report import answers, html, summary
from unrollbench.report.groups import groups


def test_each_way_has_a_line_with_build_run_memory_and_ratios() -> None:
    lines = summary.text(run_of(*three_ways())).splitlines()
    (static,) = [line for line in lines if line.startswith("  static ")]
    for figure in ("5.00 s", "500 us", "4.00 MiB", "2.00x faster (", "10.0x slower", "4.00x more"):
        assert figure in static
    (loop,) = [line for line in lines if line.startswith("  dynamic ")]
    assert loop.endswith("baseline")


def test_it_ends_with_the_answer() -> None:
    run = run_of(*three_ways())
    assert summary.text(run).endswith(answers.headlines(groups(run))[-1])
    assert "one variant only: nothing to hold it against." in summary.text(run_of(measured(Case(execution="static"))))


def test_a_case_without_figures_has_a_line_with_its_reason() -> None:
    large = Case(execution="dynamic", sequence_length=512)
    crashed = failed(replace(large, execution="static"), "timeout", "longer than 60 s")
    assert "  static: timeout: longer than 60 s" in summary.text(run_of(*three_ways(), measured(large), crashed))


def test_skips_are_told_once_per_reason_with_their_number() -> None:
    skipped = [failed(Case(backend="jax", sequence_length=n), "skipped", "no jax") for n in (8, 16)]
    assert "skipped, jax, 2 cases: no jax" in summary.text(run_of(*skipped)).splitlines()


def test_a_network_of_which_all_was_skipped_takes_no_line_of_its_own() -> None:
    skipped = [failed(Case(backend="numba_cuda", device="cuda", seed=n), "skipped", "no driver") for n in (1, 2)]
    said = summary.text(run_of(*skipped, *three_ways()))
    assert "device=cuda" not in said
    assert "skipped, numba_cuda, 2 cases: no driver" in said.splitlines()


def test_the_tally_counts_what_is_missing() -> None:
    assert summary.tally(run_of(*three_ways(), planned=5)) == (
        "3 measurements: 3 ok; 2 of 5 missing: the run is still going or was cut short."
    )
    assert summary.tally(run_of(planned=2)).startswith("nothing was measured; 2 of 2 missing")


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_every_run_has_a_summary_without_invented_figures(run: Run) -> None:
    said = summary.text(run)
    assert summary.tally(run) in said
    assert "nan" not in said
    assert "None" not in said
    if not any(m.status == "ok" and m.samples for m in run.measurements):
        assert "faster" not in said
        assert "slower" not in said


def test_bounds_are_told_only_where_values_stand_behind_them() -> None:
    single = summary.text(run_of(*three_ways()))
    assert "10.0x slower " in single
    assert "10.0x slower (" not in single
    processes = [replace(m, repeat=repeat) for repeat in range(7) for m in three_ways()]
    assert "10.0x slower (10.0-10.0)" in summary.text(run_of(*processes))


def test_samples_that_scatter_are_told_of() -> None:
    scattered = measured(Case(), samples=(1.0, 2.0, 3.0, 4.0))
    assert summary.disturbed(run_of(*three_ways())) == ()
    (line,) = summary.disturbed(run_of(*three_ways(), scattered))
    assert line.startswith("Of 4 measurements, in 1 the samples scatter by more than 30%: something else was probably")


def test_a_process_that_shared_its_processor_is_told_of() -> None:
    loop, static, stepwise = three_ways()
    shared = replace(loop, metrics=replace(loop.metrics, cpu_s=0.4e-3))
    (line,) = summary.disturbed(run_of(shared, static, stepwise))
    assert line.startswith("Of 3 measurements, in 1 the process had its processor only in part, 40% at the least:")


def test_two_clocks_beside_each_other_are_told_of() -> None:
    loop = Case(device="cuda", backend="numba_cuda")
    by_wall = measured(replace(loop, backend="jax"))
    by_events = replace(measured(loop), samples=(Sample(1, 1e-3, 2e-3),) * 10)
    told = summary.two_clocks(groups(run_of(by_wall, by_events)))
    assert told is not None
    assert "others' (jax) are the wall's" in told
    assert told in " ".join(summary.text(run_of(by_wall, by_events)).split())
    assert told in unescape(html.page(run_of(by_wall, by_events)))
    for alone in (by_wall, by_events):
        assert "by the wall" not in summary.text(run_of(alone))
        assert "are the wall's" not in unescape(html.page(run_of(alone)))


def test_a_gpu_that_was_held_down_or_slowed_is_told_of() -> None:
    steady = measured(Case(device="cuda"))
    clocks = replace(steady.metrics, throttling="none", sm_mhz_before=1980, sm_mhz_after=1965)
    steady = replace(steady, metrics=clocks)
    held = replace(steady, repeat=1, metrics=replace(clocks, throttling="software power cap"))
    fell = replace(steady, repeat=2, metrics=replace(clocks, sm_mhz_after=990))
    assert summary.throttled(run_of(steady, *three_ways())) == ()
    assert summary.throttled(run_of(steady, held, fell, *three_ways())) == (
        "Of 3 measurements on the GPU, in 1 the clocks were held down (software power cap) and in 1 they fell, "
        "by 50% at the most: those are slower for it.",
    )
    assert "by 50% at the most" in html.page(run_of(steady, held, fell))
    unknown = replace(steady, metrics=replace(clocks, throttling=None, sm_mhz_before=None))
    assert summary.throttled(run_of(unknown)) == ()


def test_what_products_were_made_with_is_told_where_it_is_not_vectors_of_the_same_bits_throughout() -> None:
    def by(multiplied_by: str | None, repeat: int, backend: str = "numba_cpu") -> Measurement:
        found = measured(Case(backend=backend))
        return replace(found, repeat=repeat, metrics=replace(found.metrics, multiplied_by=multiplied_by))

    vectors = [by("vectors of 512 bits", repeat) for repeat in range(2)]
    assert summary.multiplied(run_of(*vectors, by(None, 0, "torch"))) == ()
    mixed = run_of(*vectors, by("matrix unit", 2), by(None, 0, "torch"))
    (line,) = summary.multiplied(mixed)
    assert line.startswith("numba_cpu multiplied by vectors of 512 bits in 2 and by matrix unit in 1 of 3 measurements")
    assert line in summary.text(mixed)
    assert line in unescape(html.page(mixed))
    assert summary.multiplied(run_of(by("matrix unit", 0)))
    assert summary.multiplied(run_of(by("vectors of 512 bits in pairs", 0)))


def test_a_long_reason_takes_one_line() -> None:
    assert summary.one_line("a\n\tb" + " c" * 500).startswith("a b c")
    assert len(summary.one_line("c " * 500)) <= 200

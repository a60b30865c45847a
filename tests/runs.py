"""Runs built by hand, for tests of everything that only reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unrollbench.case import Case
from unrollbench.records import Environment, Measurement, Metrics, Run, Sample, Status

STEADY = (1.00, 1.01, 0.99, 1.00, 1.02, 0.98, 1.00, 1.01, 0.99, 1.00)
"""Ten samples that agree within 2 %."""
HOSTILE = "<script>alert(1)</script> \"'&amp; \x1b[31m\x00\udcff =cmd() \u202e " + "long " * 400
"""What no name or message should be, and what a library may still print."""
SUITE = 'title = "Unrolled <or> not"\nquestion = "Is it worth it?"\n'


def measured(
    case: Case,
    run_s: float = 1e-3,
    build_s: float | None = 0.5,
    memory_bytes: int | None = 2**20,
    samples: Sequence[float] = STEADY,
    repeat: int = 0,
) -> Measurement:
    """An ok measurement of the canonical case; `samples` are multiples of run_s."""
    base = 100 * 2**20
    metrics = Metrics(
        build_s=build_s,
        build_phases_s={} if build_s is None else {"codegen": 0.1 * build_s, "llvm": 0.9 * build_s},
        base_bytes=None if memory_bytes is None else base,
        build_peak_bytes=None if memory_bytes is None else base + 2 * memory_bytes,
        run_peak_bytes=None if memory_bytes is None else base + memory_bytes,
        weight_bytes=1000,
        workspace_bytes=2000,
        saved_bytes=0,
        graph_nodes=17,
        error=1e-7,
        tolerance=1e-5,
    )
    unknown = {"device_bytes": "no accelerator"}
    timed = tuple(Sample(4, 4 * run_s * factor) for factor in samples)
    moment = "2026-11-21T01:00:00.250+00:00"
    return Measurement(
        case.canonical(), "ok", None, repeat, metrics, timed, unknown=unknown, started_at=moment, worker_s=2.5
    )


def failed(case: Case, status: Status, reason: str | None = "for this reason", repeat: int = 0) -> Measurement:
    return Measurement(case.canonical(), status, reason, repeat)


def run_of(*measurements: Measurement, planned: int | None = None, suite: str = "made_up", source: str = SUITE) -> Run:
    facts = {"cpu_model": "Abacus <1>", "memory_bytes": 2**34, "turbo": None, "unknown": {"turbo": "no wheels"}}
    return Run(
        id="20261121T010000-abcd",
        suite=suite,
        started_at="2026-11-21T01:00:00.250+00:00",
        environment=Environment("f00df00d", facts),
        measurements=measurements,
        finished_at="2026-11-21T01:05:00.250+00:00",
        suite_source=source,
        planned=len(measurements) if planned is None else planned,
    )


def three_ways(
    sequence_length: int = 8, static_run_s: float = 0.5e-3, static_build_s: float = 5.0
) -> list[Measurement]:
    """The same network dynamic (1 ms, built in 0.5 s), static, and stepwise (2 ms, built in 0.25 s)."""
    loop = Case(execution="dynamic", sequence_length=sequence_length)
    return [
        measured(loop, 1e-3, 0.5, 2**20),
        measured(replace(loop, execution="static"), static_run_s, static_build_s, 4 * 2**20),
        measured(replace(loop, execution="stepwise"), 2e-3, 0.25, 2**19),
    ]


def adversarial() -> dict[str, Run]:
    """Name -> a run that a report must survive without a lie."""
    loop = Case()
    return {
        "empty": run_of(planned=3),
        "only failures": run_of(failed(loop, "crashed"), failed(Case(execution="static"), "timeout", None)),
        "only skipped": run_of(failed(loop, "skipped", "no such package")),
        "one sample": run_of(*(measured(m.case, m.run_s or 1.0, samples=(1.0,)) for m in three_ways())),
        "nothing known": run_of(*(measured(m.case, build_s=None, memory_bytes=None) for m in three_ways())),
        "no samples": run_of(*(measured(m.case, samples=()) for m in three_ways())),
        "hostile": run_of(failed(loop, "failed", HOSTILE), *three_ways(), suite=HOSTILE, source=f"title = {HOSTILE!r}"),
    }

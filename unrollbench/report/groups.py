"""Which measurements may be held against each other: cases that differ only in how the same network is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from unrollbench import stats
from unrollbench.case import VARIANT_AXES, Case
from unrollbench.records import Measurement, Metrics, Run

OURS = ("numba_cpu", "numba_cuda")
"""The backends that are this project's own kernels."""
UNDISTURBED_SHARE = 0.95
"""From this share of its processor on, a process counts as undisturbed; clocks and interrupts take a few percent."""


@dataclass(frozen=True)
class Variant:
    """One way to run a group's network: the case and its measurements, one per process, in the order of `repeat`."""

    case: Case
    measurements: tuple[Measurement, ...]

    @property
    def ok(self) -> tuple[Measurement, ...]:
        """The measurements that hold figures; the others hold a reason."""
        return tuple(m for m in self.measurements if m.status == "ok")

    @cached_property
    def run_s(self) -> stats.Processes:
        """Seconds of one run, per process and sample."""
        return [[sample.run_s for sample in m.samples] for m in self.ok]

    @property
    def by_events(self) -> bool:
        """Whether all of its samples are by a device's events, with the wall's seconds beside."""
        return all(sample.host_s is not None for m in self.ok for sample in m.samples)

    @property
    def processor_share(self) -> float:
        """The least `processor_share` of its processes; 1 where it says nothing."""
        return min((share for m in self.ok if (share := processor_share(m)) is not None), default=1.0)

    @property
    def build_s(self) -> stats.Processes:
        """Seconds of the one cold build, per process."""
        return [[m.metrics.build_s] for m in self.ok if m.metrics.build_s is not None]

    @property
    def own_bytes(self) -> stats.Processes:
        """Bytes that the program says it holds, one per process."""
        return [[value] for m in self.ok if (value := own_bytes(m.metrics)) is not None]

    @property
    def run_memory_bytes(self) -> stats.Processes:
        """What the timed runs took of the memory that the case runs in (see `memory_bytes`), per process."""
        return [[value] for m in self.ok if (value := memory_bytes(m)) is not None]

    @property
    def reasons(self) -> tuple[str, ...]:
        """`status: reason` of every measurement that is not ok, each once."""
        return tuple(dict.fromkeys(f"{m.status}: {m.reason or 'no reason recorded'}" for m in self.failures))

    @property
    def failures(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.status != "ok")


@dataclass(frozen=True)
class Contrast:
    """One variant against another of the same group: ratios of their seconds and bytes, None where one is unknown."""

    variant: Variant
    against: Variant
    run: stats.Ratio | None
    build: stats.Ratio | None
    memory: stats.Ratio | None


@dataclass(frozen=True)
class Group:
    """The variants of one network. `baseline` is what ratios refer to; None if fewer than two variants have figures."""

    variants: tuple[Variant, ...]
    baseline: Variant | None

    @property
    def network(self) -> Case:
        """A case of the group; only the axes outside VARIANT_AXES mean something."""
        return self.variants[0].case

    @property
    def varying(self) -> frozenset[str]:
        """The variant axes that take more than one value here, None (not applicable) left aside."""
        values = {axis: {getattr(v.case, axis) for v in self.variants} - {None} for axis in VARIANT_AXES}
        return frozenset(axis for axis, found in values.items() if len(found) > 1)


def processor_share(measurement: Measurement) -> float | None:
    """Which part of the timed runs the process had its processor for: what is missing from 1, others had.

    None where that cannot be told: with several threads, which may rightly wait, or on an accelerator.
    """
    case, cpu_s, samples = measurement.case, measurement.metrics.cpu_s, measurement.samples
    if cpu_s is None or not samples or case.threads != 1 or case.device != "cpu":
        return None
    return min(1.0, cpu_s * sum(s.loops for s in samples) / sum(s.elapsed_s for s in samples))


def memory_bytes(measurement: Measurement) -> int | None:
    """The peak of what the program allocated of its device; on the processor `run_memory_bytes`."""
    if measurement.case.device != "cpu":
        return measurement.metrics.device_peak_bytes
    return run_memory_bytes(measurement.metrics)


def run_memory_bytes(metrics: Metrics) -> int | None:
    """Resident peak of the timed runs above the process's start with its inputs drawn, or None if either is unknown."""
    if metrics.run_peak_bytes is None or metrics.base_bytes is None:
        return None
    return metrics.run_peak_bytes - metrics.base_bytes


def own_bytes(metrics: Metrics) -> int | None:
    """What the program itself says it holds: weights, workspace and saved activations; None if it does not tell all."""
    told = (metrics.weight_bytes, metrics.workspace_bytes, metrics.saved_bytes)
    return None if None in told else sum(size for size in told if size is not None)


def build_memory_bytes(metrics: Metrics) -> int | None:
    """Resident peak of the build above the process's start with its inputs drawn, or None if either is unknown."""
    if metrics.build_peak_bytes is None or metrics.base_bytes is None:
        return None
    return metrics.build_peak_bytes - metrics.base_bytes


def groups(run: Run) -> tuple[Group, ...]:
    """The run's measurements as groups of comparable variants, in the order in which they were first measured."""
    by_network: dict[Case, dict[Case, list[Measurement]]] = {}
    for measurement in run.measurements:
        case = measurement.case.canonical()
        by_network.setdefault(case.network, {}).setdefault(case, []).append(measurement)
    return tuple(_group(by_case) for by_case in by_network.values())


def contrast(variant: Variant, against: Variant) -> Contrast:
    """The first variant held against the second.

    A process that shared its processor may have needed only its share of the time: the bounds of run time allow for it.
    Run times are by the `same_clock`.
    """
    run = stats.ratio(*same_clock(variant, against))
    above, below = (v.processor_share if v.processor_share < UNDISTURBED_SHARE else 1.0 for v in (variant, against))
    return Contrast(
        variant=variant,
        against=against,
        run=run if run is None else run.widened(above, 1 / below),
        build=stats.ratio(variant.build_s, against.build_s),
        memory=stats.ratio(variant.run_memory_bytes, against.run_memory_bytes),
    )


def same_clock(one: Variant, other: Variant) -> tuple[stats.Processes, stats.Processes]:
    """Seconds of a run of both: by the device's events if both are timed by them, else by the wall."""
    if one.by_events == other.by_events:
        return one.run_s, other.run_s
    by_wall = ([[sample.wall_run_s for sample in m.samples] for m in variant.ok] for variant in (one, other))
    first, second = by_wall
    return first, second


def questions(group: Group) -> tuple[Contrast, ...]:
    """The contrasts that answer the group's question: per backend and precision, static and then its fastest other
    variant, each against that backend's dynamic loop."""
    found: list[Contrast] = []
    measured = sorted((v for v in group.variants if v.ok), key=_computed_by)
    for _, alike in groupby(measured, key=_computed_by):
        variants = tuple(alike)
        loop = baseline(v for v in variants if v.case.execution == "dynamic")
        if loop is None:
            continue
        others = [contrast(v, loop) for v in variants if v is not loop]
        found += [c for c in others if c.variant.case.execution == "static"]
        faster = [c for c in others if c.run is not None and c.run.shown and c.run.estimate < 1.0]
        best = min(faster, key=lambda c: c.run.estimate if c.run is not None else 1.0, default=None)
        if best is not None and best not in found:
            found.append(best)
    return tuple(found)


def _computed_by(variant: Variant) -> tuple[str, str]:
    return variant.case.backend, variant.case.matmul_precision or ""


def baseline(variants: Iterable[Variant]) -> Variant | None:
    """What the others are held against: the plain dynamic loop if it was measured, else what comes nearest to it."""
    measured = [v for v in variants if v.ok]
    return min(measured, key=_distance_from_plain_loop, default=None)


def _group(by_case: dict[Case, list[Measurement]]) -> Group:
    variants = tuple(
        Variant(case, tuple(sorted(found, key=lambda m: m.repeat)))
        for case, found in sorted(by_case.items(), key=_order)
    )
    measured = sum(1 for v in variants if v.ok)
    return Group(variants, baseline(variants) if measured > 1 else None)


def _distance_from_plain_loop(variant: Variant) -> tuple[int, bool, int, bool, bool, bool, int]:
    case, plain = variant.case, Case()
    executions = ("dynamic", "library", "static", "stepwise")
    unroll = case.unroll if isinstance(case.unroll, int) else 1
    window = case.parallel_iterations if case.parallel_iterations is not None else plain.parallel_iterations or 1
    return (
        executions.index(case.execution),
        case.backend not in OURS,
        unroll,
        bool(case.swap_memory),
        case.matmul_precision == "tf32",
        case.allow_growth is False,
        abs(window - (plain.parallel_iterations or 1)),
    )


def _order(item: tuple[Case, list[Measurement]]) -> tuple[bool, str, int, int, int, bool, bool, bool]:
    case = item[0]
    executions = ("dynamic", "static", "stepwise", "library")
    unroll = case.unroll if isinstance(case.unroll, int) else 0
    window = case.parallel_iterations or 0
    place = (case.backend not in OURS, case.backend, executions.index(case.execution))
    loop = (unroll, window, bool(case.swap_memory))
    return (*place, *loop, case.matmul_precision == "tf32", case.allow_growth is False)

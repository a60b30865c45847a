"""What is known after a case: Measurement, Run, Environment, and the version of their schema.

Schema history:
1  first version
2  accelerators: a case's matmul_precision, device_memory_limit, allow_growth and l2_cache; a sample's host_s; metrics
   of an accelerator, and timed_by; a run's ceilings. What version 1 has not is None: its rows are read as they are.
3  ceilings of a GPU: a ceiling's device, place and throttling, and working_set_bytes, which was bytes_per_thread; why a
   run has no ceilings, for each device, where it was one text of the CPU's. `ceiling_from_json` reads both.
4  a measurement's multiplied_by, None before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from unrollbench.case import Case, from_json, to_json

SCHEMA_VERSION = 4
READABLE_VERSIONS = (1, 2, 3, SCHEMA_VERSION)
"""Schema versions whose rows are read."""

Status = Literal["ok", "skipped", "failed", "timeout", "out_of_memory", "crashed"]
STATUSES: tuple[Status, ...] = ("ok", "skipped", "failed", "timeout", "out_of_memory", "crashed")
"""ok: measured and correct. skipped: the backend cannot run it. failed: wrong result or a clear error.
timeout, out_of_memory, crashed: what the name says; the reason has the limit or the signal."""


@dataclass(frozen=True)
class Sample:
    """One timed sample: `loops` runs back to back took `elapsed_s` seconds by the clock that `Metrics.timed_by` names.

    host_s: what the same took by the monotonic clock, flushing the device's caches included, where elapsed_s is by
    another clock; else None.
    """

    loops: int
    elapsed_s: float
    host_s: float | None = None

    @property
    def run_s(self) -> float:
        return self.elapsed_s / self.loops

    @property
    def wall_run_s(self) -> float:
        """One run by the monotonic clock."""
        return (self.elapsed_s if self.host_s is None else self.host_s) / self.loops


@dataclass(frozen=True)
class Metrics:
    """What one process measured of one case. None is unknown; `Measurement.unknown` says why.

    build_s: from the case to the end of the first run, cold; build_phases_s its parts. Resident memory is VmHWM after a
    reset, so each figure is a peak of its own phase in the worker's own process: base_bytes with the inputs drawn and
    nothing built, build_peak_bytes during build and first run, run_peak_bytes during the timed runs. weight, workspace
    and saved bytes are the program's own account. error is the largest error against the float64 reference relative to
    `tolerance`'s scale, and was <= tolerance before any timing. Importing the backend (import_s) and checking the
    results (check_s, reference included) are no part of build_s. warmup_runs came before the first sample; cpu_s is
    processor time of one run over all threads, steal_fraction what the hypervisor gave to others, both over all runs.

    multiplied_by is what matrix products were made with, as the program tells: "vectors of 256 bits", "matrix unit",
    "vectors of 512 bits in pairs".

    timed_by is the clock of the samples: "host", the monotonic clock around `run` and `synchronize`, or "events" of the
    device around each run. Of an accelerator: device_bytes and device_peak_bytes as the program allocated them,
    driver_bytes what the driver says that the process takes of the device; ptx_bytes and cubin_bytes of all kernels
    together; registers and local_bytes (spills and stack) of a thread and shared_bytes of a block, each of the kernel
    with the most; clocks in MHz right before and after the timed runs, and as throttling the reasons for lower ones
    seen then, or "none".
    """

    build_s: float | None = None
    build_phases_s: Mapping[str, float] = field(default_factory=dict)
    base_bytes: int | None = None
    build_peak_bytes: int | None = None
    run_peak_bytes: int | None = None
    weight_bytes: int | None = None
    workspace_bytes: int | None = None
    saved_bytes: int | None = None
    device_bytes: int | None = None
    device_peak_bytes: int | None = None
    code_bytes: int | None = None
    graph_nodes: int | None = None
    error: float | None = None
    tolerance: float | None = None
    import_s: float | None = None
    check_s: float | None = None
    warmup_runs: int | None = None
    cpu_s: float | None = None
    steal_fraction: float | None = None
    timed_by: Literal["host", "events"] | None = None
    driver_bytes: int | None = None
    ptx_bytes: int | None = None
    cubin_bytes: int | None = None
    registers: int | None = None
    local_bytes: int | None = None
    shared_bytes: int | None = None
    sm_mhz_before: int | None = None
    sm_mhz_after: int | None = None
    memory_mhz_before: int | None = None
    memory_mhz_after: int | None = None
    throttling: str | None = None
    multiplied_by: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What one case cost in one process, or why there is no cost. `repeat` numbers the processes of a case from 0.

    worker_s is the whole life of that process. log holds the last lines that it wrote, where it did not end ok.
    """

    case: Case
    status: Status
    reason: str | None = None
    repeat: int = 0
    metrics: Metrics = field(default_factory=Metrics)
    samples: tuple[Sample, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    started_at: str | None = None
    worker_s: float | None = None
    log: str | None = None

    @property
    def run_s(self) -> float | None:
        """Median seconds of one run, or None if nothing was timed."""
        return median(sample.run_s for sample in self.samples) if self.samples else None


@dataclass(frozen=True)
class Environment:
    """The machine and its software when a run was made; `fingerprint` is equal where results may be compared."""

    fingerprint: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ceiling:
    """One limit of a machine, in `unit`: the best that `threads` threads of the CPU, or a whole GPU, reached together.

    threads is None on a GPU. working_set_bytes is the memory that each thread of the CPU, or all of a GPU together,
    reads again and again, and place where that lay on a GPU; None for arithmetic in registers. processor_share is the
    part of that best try for which the threads had their processors: what is missing from 1, something else had, and
    the true limit is higher. throttling: why a GPU's clocks were not at their highest right before or after, "none", or
    None where that is not known.
    """

    name: str
    dtype: str
    threads: int | None
    value: float
    unit: str
    working_set_bytes: int | None = None
    processor_share: float = 1.0
    device: Literal["cpu", "cuda"] = "cpu"
    place: str | None = None
    throttling: str | None = None


@dataclass(frozen=True)
class Check:
    """One statement about a backend and what came of it; the case is the last that was tried."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    reason: str | None
    case: Case


@dataclass(frozen=True)
class Run:
    """The measurements of one suite on one machine. `finished_at` is None while a run is going or was cut short.

    ceilings: the machine's limits as they were measured before the first case; ceilings_unknown: device -> why it has
    none.
    """

    id: str
    suite: str
    started_at: str
    environment: Environment
    measurements: tuple[Measurement, ...] = ()
    finished_at: str | None = None
    suite_source: str = ""
    planned: int = 0
    ceilings: tuple[Ceiling, ...] = ()
    ceilings_unknown: Mapping[str, str] = field(default_factory=dict)


def ceiling_from_json(data: Mapping[str, Any]) -> Ceiling:
    """The ceiling of whose fields this was a dict; up to version 2 the working set was called bytes_per_thread."""
    values = dict(data)
    if "bytes_per_thread" in values:
        values["working_set_bytes"] = values.pop("bytes_per_thread")
    return Ceiling(**values)


def measurement_to_json(measurement: Measurement) -> dict[str, Any]:
    """The measurement as plain values for `json.dumps`; `measurement_from_json` returns an equal one.

    NaN and infinities stay floats: Python writes and reads them as NaN, Infinity and -Infinity, beyond strict JSON.
    """
    data = {name: getattr(measurement, name) for name in _PLAIN}
    data["case"] = to_json(measurement.case)
    data["metrics"] = asdict(measurement.metrics)
    data["samples"] = [
        [s.loops, s.elapsed_s] if s.host_s is None else [s.loops, s.elapsed_s, s.host_s] for s in measurement.samples
    ]
    data["unknown"] = dict(measurement.unknown)
    return data


def measurement_from_json(data: Mapping[str, Any]) -> Measurement:
    """The measurement that `measurement_to_json` wrote."""
    return Measurement(
        case=from_json(data["case"]),
        metrics=Metrics(**data["metrics"]),
        samples=tuple(Sample(*figures) for figures in data["samples"]),
        unknown=data["unknown"],
        **{name: data[name] for name in _PLAIN},
    )


_PLAIN = ("status", "reason", "repeat", "started_at", "worker_s", "log")
"""The fields of a Measurement that are JSON values as they are."""

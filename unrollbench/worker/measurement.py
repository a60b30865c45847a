"""One case in one fresh process: import, draw, build, check, time, check again.

        import | draw | base | build + first run | check | warm up, sample | check
    memory            ^reset   ^reset      peak^           ^reset      peak^

Whatever is timed was checked before, and nothing is reported of a program whose results are wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from unrollbench import backends
from unrollbench.backends import Backend, Program, TimedByEvents, is_simulated
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable, WrongResult
from unrollbench.measure.affinity import chosen_cpus, pin, usable_cpus
from unrollbench.measure.clock import Clock, MonotonicClock
from unrollbench.measure.environment import steal_ticks
from unrollbench.measure.gpu_clocks import ClockWatch
from unrollbench.measure.memory import PeakMemory
from unrollbench.measure.sampling import Effort, Sampling, sample
from unrollbench.records import Measurement, Metrics
from unrollbench.tensors import Outputs, Tensors, draw
from unrollbench.worker.request import Request

Check = Callable[[Outputs], tuple[float, float]]
"""Holds results against the reference, in memory of its own: (error, tolerance), or raises WrongResult."""

Listener = Callable[[str, Measurement | None], None]
"""Is told the name of each phase as it begins, and what is known and proved right by then."""

METRICS = frozenset(f.name for f in fields(Metrics))
OF_DEVICE: tuple[str, ...] = ("device_bytes", "device_peak_bytes", "driver_bytes", "ptx_bytes", "cubin_bytes")
OF_DEVICE += ("registers", "local_bytes", "shared_bytes")
OF_CLOCKS = ("sm_mhz_before", "sm_mhz_after", "memory_mhz_before", "memory_mhz_after", "throttling")
"""The metrics that only a case on an accelerator has."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

RESERVE = 0.1
"""The fraction of `timeout_s` that sampling leaves alone: its last sample must not turn a result into a timeout."""


def measure(
    request: Request, check: Check, listen: Listener = lambda phase, known: None, clock: Clock | None = None
) -> Measurement:
    """What the case cost in this process, which must be fresh: it is pinned and its memory is measured.

    A case that cannot run here is skipped, a wrong one failed, one too large out_of_memory, one whose check died
    crashed, each with its reason. Any other exception is the backend's own and goes to the caller.
    """
    empty = Measurement(request.case, "ok", repeat=request.repeat)
    try:
        return _measured(request, check, listen, clock or MonotonicClock())
    except BackendUnavailable as error:
        return replace(empty, status="skipped", reason=str(error))
    except WrongResult as error:
        return replace(empty, status="failed", reason=f"wrong result: {error}")
    except MemoryError as error:
        return replace(empty, status="out_of_memory", reason=str(error) or "an allocation failed")
    except ChildProcessError as error:
        return replace(empty, status="crashed", reason=str(error))


def _measured(request: Request, check: Check, listen: Listener, clock: Clock) -> Measurement:
    start_s, meters = clock.now_s(), Meters(PeakMemory(), ClockWatch() if request.case.device == "cuda" else None)
    listen("import", None)
    backend, metrics = _imported(request.case, clock)
    listen("draw", None)
    tensors = draw(request.case)
    listen("build", None)
    program, metrics = _built(backend, request.case, tensors, metrics, meters.memory, clock)
    try:
        _can_be_timed(request.case, program)
        spent_s = clock.now_s() - start_s
        listen("check", None)
        verified, metrics = _verified(program, check, metrics, clock)
        listen("run", _known(request, metrics, meters))
        max_time_s = max(0.0, (1 - RESERVE) * request.timeout_s - spent_s)
        effort = Effort(request.min_samples, request.min_time_s, max_time_s)
        sampling, metrics = _sampled(verified, request.case, effort, metrics, meters, clock)
        listen("check again", None)
        _check_again(verified, check, metrics, sampling)
        metrics = _accounted(program, metrics)
    finally:
        program.close()
    measurement = replace(_known(request, metrics, meters), samples=sampling.samples)
    if sampling.cut:
        why = f"timeout_s = {request.timeout_s:g} left time for only {len(sampling.samples)}"
        measurement = replace(measurement, unknown={**measurement.unknown, "samples": why})
    return measurement


@dataclass(frozen=True)
class Meters:
    """What is read around the phases: resident memory, and the clocks of the accelerator if the case runs on one."""

    memory: PeakMemory
    clocks: ClockWatch | None


def _imported(case: Case, clock: Clock) -> tuple[Backend, Metrics]:
    """The backend, loaded in a process that has the case's processors and threads."""
    cpus = chosen_cpus(case.threads, usable_cpus())
    if cpus is None:
        raise BackendUnavailable(f"threads = {case.threads}: only {len(usable_cpus())} processors can be used here")
    pin(cpus)
    _set_threads(case.threads)
    preloaded = backends.BUILT_IN.get(case.backend, "").partition(":")[0] in sys.modules
    start_s = clock.now_s()
    backend = backends.load(case.backend)
    import_s = None if preloaded else clock.now_s() - start_s
    reason = backend.why_not(case)
    if reason is not None:
        raise BackendUnavailable(reason)
    if is_simulated(backend):
        raise BackendUnavailable(
            f"backend {case.backend!r} runs in a simulator here, whose times say nothing of a device"
        )
    return backend, Metrics(import_s=import_s)


def _set_threads(threads: int) -> None:
    """Libraries that this process has yet to load take that many threads, as does Numba, which it may have loaded."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()


def _built(
    backend: Backend, case: Case, tensors: Tensors, metrics: Metrics, memory: PeakMemory, clock: Clock
) -> tuple[Program, Metrics]:
    """The program after its first run: cold, so nothing of this case was compiled or run in this process before."""
    memory.reset()
    base_bytes = memory.bytes()
    start_s = clock.now_s()
    program = backend.build(case, tensors)
    built_s = clock.now_s()
    program.run()
    program.synchronize()
    end_s = clock.now_s()
    phases = {**program.build_phases_s, "first_run": end_s - built_s}
    peak = memory.bytes()
    return program, replace(
        metrics, build_s=end_s - start_s, build_phases_s=phases, base_bytes=base_bytes, build_peak_bytes=peak
    )


def _can_be_timed(case: Case, program: Program) -> None:
    """Nothing is timed under a condition that it was not in. Raises BackendUnavailable."""
    if case.l2_cache == "cold" and case.device == "cuda" and not isinstance(program, TimedByEvents):
        raise BackendUnavailable(
            f"l2_cache = 'cold': backend {case.backend!r} cannot flush the device's cache between runs"
        )


@dataclass(frozen=True)
class Verified:
    """A program whose results are right. Only `_verified` makes one, and only one of these can be sampled."""

    program: Program


def _verified(program: Program, check: Check, metrics: Metrics, clock: Clock) -> tuple[Verified, Metrics]:
    start_s = clock.now_s()
    error, tolerance = check(program.outputs())
    check_s = clock.now_s() - start_s
    return Verified(program), replace(metrics, error=error, tolerance=tolerance, check_s=check_s)


def _sampled(
    verified: Verified, case: Case, effort: Effort, metrics: Metrics, meters: Meters, clock: Clock
) -> tuple[Sampling, Metrics]:
    meters.memory.reset()
    if meters.clocks is not None:
        meters.clocks.start()
    steal, cpu_s = steal_ticks(), clock.cpu_s()
    sampling = sample(verified.program, clock, effort, cold=case.l2_cache == "cold")
    cpu_s, steal_fraction = clock.cpu_s() - cpu_s, _steal_fraction(steal, steal_ticks())
    if meters.clocks is not None:
        meters.clocks.stop()
        metrics = _clocked(metrics, meters.clocks)
    runs = sampling.warmup_runs + sum(timed.loops for timed in sampling.samples)
    return sampling, replace(
        metrics,
        run_peak_bytes=meters.memory.bytes(),
        warmup_runs=sampling.warmup_runs,
        cpu_s=cpu_s / runs,
        steal_fraction=steal_fraction,
        timed_by="events" if isinstance(verified.program, TimedByEvents) else "host",
    )


def _clocked(metrics: Metrics, clocks: ClockWatch) -> Metrics:
    return replace(
        metrics,
        sm_mhz_before=clocks.before.sm_mhz,
        sm_mhz_after=clocks.after.sm_mhz,
        memory_mhz_before=clocks.before.memory_mhz,
        memory_mhz_after=clocks.after.memory_mhz,
        throttling=clocks.throttling,
    )


def _check_again(verified: Verified, check: Check, metrics: Metrics, sampling: Sampling) -> None:
    """The last of the timed runs is right as well."""
    try:
        check(verified.program.outputs())
    except WrongResult as error:
        runs = (metrics.warmup_runs or 0) + sum(timed.loops for timed in sampling.samples)
        raise WrongResult(f"right at first, wrong after {runs} more runs: {error}") from error


def _accounted(program: Program, metrics: Metrics) -> Metrics:
    """The metrics with what the program itself says of its memory and size."""
    told, listing = program.memory(), program.listing()
    own = {f.name: getattr(told, f.name) for f in fields(told)}
    size = {f.name: getattr(listing, f.name) for f in fields(listing) if f.name in METRICS}
    return replace(metrics, **own, **size)


def _steal_fraction(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _known(request: Request, metrics: Metrics, meters: Meters) -> Measurement:
    """A measurement without samples, each metric that is None given its reason."""
    return Measurement(
        request.case, "ok", repeat=request.repeat, metrics=metrics, unknown=_reasons(request.case, metrics, meters)
    )


def _reasons(case: Case, metrics: Metrics, meters: Meters) -> Mapping[str, str]:
    reasons = dict.fromkeys(
        ("base_bytes", "build_peak_bytes", "run_peak_bytes"), meters.memory.why_unknown or "the runs did not end"
    )
    reasons["import_s"] = "the fork server had loaded the backend before this process began"
    reasons["steal_fraction"] = "not told by the system, or the runs took less than a tick of its clock"
    if meters.clocks is None:
        reasons |= dict.fromkeys((*OF_DEVICE, *OF_CLOCKS), "the case runs on the CPU")
    else:
        reasons |= dict.fromkeys(OF_CLOCKS, meters.clocks.why_unknown)
    empty = (f.name for f in fields(metrics) if getattr(metrics, f.name) is None)
    return {name: reasons.get(name, f"backend {case.backend!r} does not tell") for name in empty}

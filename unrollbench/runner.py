"""Plan -> workers one at a time -> store after each case."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from unrollbench import plan as planning
from unrollbench import probe, roofline
from unrollbench.case import Case
from unrollbench.errors import RunError, UnrollbenchError
from unrollbench.measure.affinity import usable_cpus
from unrollbench.measure.environment import environment, fingerprinted
from unrollbench.plan import Plan
from unrollbench.records import Environment, Measurement, Run
from unrollbench.store import Store
from unrollbench.suite import Suite
from unrollbench.worker.forkserver import ForkServer
from unrollbench.worker.request import Request

PRELOADS: Mapping[str, tuple[str, ...]] = {
    "numba_cpu": ("unrollbench.kernels.threads:compile_all", "unrollbench.backends.numba_cpu"),
    "numba_cuda": ("numba",),
    "tensorflow": ("unrollbench.backends.tensorflow_rnn",),
    "torch": ("unrollbench.backends.torch_rnn",),
}
"""Backend -> what its fork server loads once. Not those that start threads when loaded (ONNX Runtime) or forbid forks
afterwards (JAX; CUDA once it has started, so of numba_cuda nothing that could): their workers load them, which is told
as import_s."""
ALWAYS = ("unrollbench.reference",)
CEILING_TRY_S = 0.01
"""A tenth of a second for each ceiling: a run has two to twenty, and its user waits for them."""
LOCK = Path(f"/tmp/unrollbench-{os.getuid()}.lock")
"""Held by the run that is measuring; not in TMPDIR, since runs with different ones share the machine all the same."""


@dataclass(frozen=True)
class Progress:
    """How far a run is. case: what is measured next; measurement: what was just stored."""

    done: int
    total: int
    elapsed_s: float
    remaining_s: float
    case: Case | None
    measurement: Measurement | None


def execute(
    plan: Plan,
    store: Store,
    *,
    resume: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_wait: Callable[[], None] = lambda: None,
) -> Run:
    """The run of the plan, every measurement in the store; with `resume`, the rest of that run, whatever the plan says.

    Where another run of this user is measuring on this machine, on_wait is told and this one waits for its end.
    A case that cannot be measured is stored with its status and reason, and the run goes on. On KeyboardInterrupt the
    worker is ended; what finished before is stored and the run can be resumed.

    Raises:
        RunError: the run was made by another machine or software, or no worker can be started.
        StoreError: the store cannot be used.
    """
    with _alone(on_wait):
        devices = {case.device for case in (plan.cases if resume is None else store.planned(resume))}
        here = environment(devices=devices)
        run_id = _begun(plan, store, here) if resume is None else _resumable(store, resume, here, devices)
        _measure_ceilings(store, run_id)
        return _executed(plan, store, run_id, on_progress)


@contextmanager
def _alone(on_wait: Callable[[], None]) -> Iterator[None]:
    """No other run of this user measures meanwhile: two at once would falsify both. A killed run's lock is free."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _executed(plan: Plan, store: Store, run_id: str, on_progress: Callable[[Progress], None]) -> Run:
    """The run with all that was pending measured."""
    pending = store.pending(run_id)
    clock = _TimeLeft(plan.suite, pending)
    on_progress(clock.progress(None))
    for repeat in sorted({repeat for _, repeat in pending}):
        # New servers for each round: workers of one share its address layout and hash seed, and rounds are to differ.
        with _servers() as server_of:
            for case in (case for case, of_round in pending if of_round == repeat):
                measurement = server_of(case).measure(_request(plan.suite, case, repeat))
                store.add(run_id, measurement)
                on_progress(clock.progress(measurement))
    store.finish(run_id, _now())
    return store.run(run_id)


def _begun(plan: Plan, store: Store, here: Environment) -> str:
    """The identifier of a new run, which is in the store: when it began, and four digits against a second one."""
    started_at = _now()
    run = Run(
        id=f"{started_at[:19].replace(':', '').replace('-', '')}-{secrets.token_hex(2)}",
        suite=plan.suite.name,
        started_at=started_at,
        environment=here,
        suite_source=plan.suite.source,
    )
    store.begin(run, plan.cases, plan.suite.repeats)
    return run.id


def _resumable(store: Store, run_id: str, here: Environment, devices: Collection[str]) -> str:
    """The run's identifier, if it was begun on this machine with this software. Raises RunError."""
    run = store.run(run_id)
    if run.environment.fingerprint == here.fingerprint:
        return run.id
    then, now = run.environment.facts, here.facts
    told = [name for name in fingerprinted(devices) if then.get(name) != now.get(name)]
    differences = [f"{name}: {then.get(name)} then, {now.get(name)} now" for name in told]
    raise RunError(
        f"run {run.id} cannot be resumed: its measurements and new ones could not be compared"
        f" ({'; '.join(differences) or 'the installed memory differs'}); begin a new run"
    )


def _measure_ceilings(store: Store, run_id: str) -> None:
    """The run has the ceilings of its cases, or for a device the reason why not: measured once, and before any case."""
    known, available = store.run(run_id).ceilings, len(usable_cpus())
    wanted = [one for one in roofline.wanted(store.planned(run_id)) if (one.threads or 1) <= available]
    devices = {one.device for one in wanted} - {ceiling.device for ceiling in known}
    unknown: dict[str, str] = {}
    for device in sorted(devices):
        try:
            known += probe.ceilings([one for one in wanted if one.device == device], try_s=CEILING_TRY_S)
        except UnrollbenchError as error:
            unknown[device] = f"measuring them failed: {error}"
    if devices:
        store.add_ceilings(run_id, known, unknown)


@contextmanager
def _servers() -> Iterator[Callable[[Case], ForkServer]]:
    """The fork server of a case's backend: one each, since what one framework loads is no part of another's memory."""
    servers: dict[str, ForkServer] = {}
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="unrollbench-", ignore_cleanup_errors=True)
        expected = Path(stack.enter_context(folder))

        def server_of(case: Case) -> ForkServer:
            if case.backend not in servers:
                preload = (*ALWAYS, *PRELOADS.get(case.backend, ()))
                servers[case.backend] = stack.enter_context(ForkServer(preload, expected))
            return servers[case.backend]

        yield server_of


def _request(suite: Suite, case: Case, repeat: int) -> Request:
    return Request(
        case,
        repeat=repeat,
        min_samples=suite.min_samples,
        min_time_s=suite.min_time_s,
        timeout_s=suite.timeout_s,
    )


class _TimeLeft:
    """The plan's estimate of what is left, corrected by how long the cases so far took against theirs."""

    def __init__(self, suite: Suite, pending: Sequence[tuple[Case, int]]) -> None:
        one_each = replace(suite, repeats=1)
        self._pending = pending
        self._expected_s = [planning.estimate(Plan(one_each, (case,))).seconds for case, _ in pending]
        self._start_s = time.monotonic()
        self._done = 0

    def progress(self, measurement: Measurement | None) -> Progress:
        """What to report once `measurement` is stored; None before the first."""
        self._done += measurement is not None
        elapsed_s = time.monotonic() - self._start_s
        return Progress(
            done=self._done,
            total=len(self._pending),
            elapsed_s=elapsed_s,
            remaining_s=remaining_s(self._expected_s, self._done, elapsed_s),
            case=self._pending[self._done][0] if self._done < len(self._pending) else None,
            measurement=measurement,
        )


def remaining_s(expected_s: Sequence[float], done: int, elapsed_s: float) -> float:
    """Seconds left when the first `done` cases took `elapsed_s`: the estimate, scaled as far as it proved wrong.

    As long as little is done, little is known: the correction counts as if a tenth of all had gone as expected.
    """
    past_s, left_s = sum(expected_s[:done]), sum(expected_s[done:])
    prior_s = 0.1 * (past_s + left_s)
    return left_s * (elapsed_s + prior_s) / (past_s + prior_s) if left_s else 0.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

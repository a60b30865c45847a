"""A run survives its cases, Ctrl-C and kill -9; no finished case is measured twice."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_backend import SMALL
from unrollbench import probe, runner
from unrollbench.case import Case
from unrollbench.cli import exit_code
from unrollbench.errors import RunError, UnrollbenchError
from unrollbench.plan import Plan
from unrollbench.records import Ceiling, Environment
from unrollbench.roofline import Wanted
from unrollbench.runner import Progress, execute, remaining_s
from unrollbench.store import Store
from unrollbench.suite import Suite

ROOT = Path(__file__).parents[1]


PEAK = Ceiling("multiply-add", "float32", 1, 200.0, "GFLOP/s")
ON_GPU = Ceiling("multiply-add", "float32", None, 60e3, "GFLOP/s", device="cuda")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ALWAYS", ("tests.fake_backend:register",))
    monkeypatch.setattr(probe, "ceilings", lambda wanted, try_s: (PEAK,))


def planned(*cases: Case, repeats: int = 1) -> Plan:
    suite = Suite(
        name="fakes",
        title="Fakes",
        question="?",
        description="",
        groups=(),
        repeats=repeats,
        min_samples=2,
        min_time_s=0.01,
        timeout_s=30.0,
        source="# text",
    )
    return Plan(suite, cases)


def variants(backend: str, count: int) -> tuple[Case, ...]:
    return tuple(replace(SMALL, backend=backend, seed=seed) for seed in range(count))


def test_every_case_is_stored_whatever_happens_to_it(tmp_path: Path) -> None:
    names = ("fake", "fake_wrong", "fake_segfault", "fake_picky", "fake_large", "fake")
    cases = tuple(replace(SMALL, backend=name, seed=seed) for seed, name in enumerate(names))
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(*cases), store)
        assert [m.status for m in run.measurements] == ["ok", "failed", "crashed", "skipped", "out_of_memory", "ok"]
        assert tuple(m.case for m in run.measurements) == cases
        assert (run.suite, run.suite_source, run.planned) == ("fakes", "# text", 6)
        assert run.finished_at is not None
        assert store.run() == run


def test_cases_for_a_gpu_that_is_not_there_are_skipped_and_the_run_is_none_the_worse(tmp_path: Path) -> None:
    on_gpu = [replace(SMALL, backend=name, device="cuda") for name in ("fake_missing", "numba_cpu", "fake_simulated")]
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(SMALL, *on_gpu), store)
    assert [m.status for m in run.measurements] == ["ok", "skipped", "skipped", "skipped"]
    missing, elsewhere, simulated = (m.reason or "" for m in run.measurements[1:])
    assert "no_such_module" in missing
    assert "runs on device 'cpu', not 'cuda'" in elsewhere
    assert "simulator" in simulated
    assert not any(m.samples for m in run.measurements[1:])
    assert exit_code(run) == 0


def test_repeats_are_whole_rounds_there_and_back_in_fresh_servers(tmp_path: Path) -> None:
    cases = variants("fake", 2)
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(*cases, repeats=3), store)
    assert [(m.case.seed, m.repeat) for m in run.measurements] == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]


def test_progress_is_told_before_the_first_case_and_after_each(tmp_path: Path) -> None:
    heard: list[Progress] = []
    cases = variants("fake", 2)
    with Store(tmp_path / "runs.sqlite") as store:
        execute(planned(*cases), store, on_progress=heard.append)
    assert [(p.done, p.total, p.case) for p in heard] == [(0, 2, cases[0]), (1, 2, cases[1]), (2, 2, None)]
    assert heard[0].measurement is None
    assert heard[1].measurement is not None
    assert heard[1].measurement.case == cases[0]
    assert heard[-1].remaining_s == 0


def test_a_run_that_is_interrupted_keeps_what_is_finished_and_goes_on(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    plan = planned(*variants("fake", 4))
    with Store(tmp_path / "runs.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            execute(plan, store, on_progress=interrupt)
        half = store.run()
        assert (len(half.measurements), half.finished_at) == (2, None)
        whole = execute(plan, store, resume=half.id)
        assert whole.measurements[:2] == half.measurements
        assert (len(whole.measurements), len(store.runs())) == (4, 1)
        assert whole.finished_at is not None


def interruptible() -> None:
    """SIGINT interrupts, also where the tests themselves were started in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_runner_ended_with_its_worker_at_work_loses_nothing_finished(tmp_path: Path, sent: signal.Signals) -> None:
    path, scratch = tmp_path / "runs.sqlite", tmp_path / "scratch"
    scratch.mkdir()
    script = (
        "from tests import test_runner as t; from unrollbench import runner\n"
        "runner.ALWAYS = ('tests.fake_backend:register',)\n"
        "runner.probe.ceilings = lambda wanted, try_s: ()\n"
        f"t.execute(t.planned(*t.variants('fake_slow', 4)), t.Store({str(path)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL, preexec_fn=interruptible
    )
    wait_for_measurements(path, 1, process)
    server = only_child(process.pid)
    process.send_signal(sent)
    process.wait()
    wait_until_gone(server)
    assert list(scratch.iterdir()) == []
    with Store(path) as store:
        half = store.run()
        assert 1 <= len(half.measurements) < 4
        whole = execute(planned(), store, resume=half.id)
    assert whole.measurements[: len(half.measurements)] == half.measurements
    assert [(m.case.seed, m.status) for m in whole.measurements] == [(seed, "ok") for seed in range(4)]


def test_a_run_of_another_machine_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(*variants("fake", 1))
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(plan, store)
        other = Environment("other", {**run.environment.facts, "cpu_model": "another"})
        monkeypatch.setattr(runner, "environment", lambda devices: other)
        with pytest.raises(RunError, match=r"cpu_model: .* then, another now"):
            execute(plan, store, resume=run.id)


def test_a_gpu_is_in_the_fingerprint_of_a_run_with_cases_on_it_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def known(devices: set[str]) -> Environment:
        asked.append(set(devices))
        return Environment(" ".join(sorted(devices)))

    monkeypatch.setattr(runner, "environment", known)
    (case,) = variants("fake_picky", 1)
    both = planned(case, replace(case, device="cuda"))
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(both, store)
        execute(planned(case), store, resume=run.id)
        assert asked == [{"cpu", "cuda"}] * 2
        assert execute(planned(case), store).environment.fingerprint == "cpu"


def test_a_complete_run_has_nothing_to_resume(tmp_path: Path) -> None:
    plan = planned(*variants("fake", 1))
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(plan, store)
        again = execute(plan, store, resume=run.id)
    assert again.measurements == run.measurements


def test_the_ceilings_of_the_cases_are_measured_once_and_kept_through_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[Wanted]] = []

    def ceilings(wanted: Sequence[Wanted], try_s: float) -> tuple[Ceiling, ...]:
        asked.append(wanted)
        return (PEAK,)

    monkeypatch.setattr(probe, "ceilings", ceilings)
    too_many = replace(SMALL, backend="fake", threads=10_000)
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(*variants("fake", 2), too_many), store)
        assert execute(planned(), store, resume=run.id).ceilings == run.ceilings == (PEAK,)
    assert [[one.threads for one in wanted] for wanted in asked] == [[1]]


def test_each_device_has_ceilings_of_its_own_or_its_own_reason_and_what_is_missing_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = [UnrollbenchError("no NVIDIA driver")]

    def ceilings(wanted: Sequence[Wanted], try_s: float) -> tuple[Ceiling, ...]:
        if wanted[0].device == "cpu":
            return (PEAK,)
        if drivers:
            raise drivers.pop()
        return (ON_GPU,)

    monkeypatch.setattr(probe, "ceilings", ceilings)
    on_gpu = replace(SMALL, backend="fake_picky", device="cuda")
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(*variants("fake", 1), on_gpu), store)
        again = execute(planned(), store, resume=run.id)
    assert (run.ceilings, run.ceilings_unknown) == ((PEAK,), {"cuda": "measuring them failed: no NVIDIA driver"})
    assert (again.ceilings, again.ceilings_unknown) == ((PEAK, ON_GPU), {})


def test_a_run_without_cases_for_a_gpu_asks_nothing_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ceilings(wanted: Sequence[Wanted], try_s: float) -> tuple[Ceiling, ...]:
        asked.extend(one.device for one in wanted)
        return (PEAK,)

    monkeypatch.setattr(probe, "ceilings", ceilings)
    with Store(tmp_path / "runs.sqlite") as store:
        execute(planned(*variants("fake", 2)), store)
    assert asked == ["cpu"]


def test_a_run_goes_on_where_ceilings_cannot_be_measured_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(wanted: Sequence[Wanted], try_s: float) -> tuple[Ceiling, ...]:
        raise UnrollbenchError("no vectors here")

    monkeypatch.setattr(probe, "ceilings", broken)
    with Store(tmp_path / "runs.sqlite") as store:
        run = execute(planned(*variants("fake", 1)), store)
    assert [m.status for m in run.measurements] == ["ok"]
    assert (run.ceilings, run.ceilings_unknown) == ((), {"cpu": "measuring them failed: no vectors here"})


def test_time_left_follows_the_estimate_first_and_experience_later() -> None:
    assert remaining_s([1.0] * 10, 0, 0.0) == 10.0
    assert remaining_s([1.0] * 10, 5, 5.0) == pytest.approx(5.0)
    assert remaining_s([1.0] * 10, 9, 18.0) == pytest.approx(1.9)
    assert remaining_s([1.0] * 10, 10, 20.0) == 0.0


def wait_for_measurements(path: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        if path.exists() and path.stat().st_size:
            with Store(path) as store:
                if store.runs() and len(store.run().measurements) >= count:
                    return
        time.sleep(0.02)
    raise AssertionError("the runner ended by itself")


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wait_until_gone(pid: int) -> None:
    while True:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.01)


def test_two_runs_do_not_measure_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    told: list[str] = []
    with runner.LOCK.open("w") as other, Store(tmp_path / "runs.sqlite") as store:
        fcntl.flock(other, fcntl.LOCK_EX)

        def end_the_other() -> None:
            told.append("waits")
            fcntl.flock(other, fcntl.LOCK_UN)

        assert execute(planned(*variants("fake", 1)), store, on_wait=end_the_other).finished_at
    assert told == ["waits"]

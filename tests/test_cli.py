"""Every command works, explains itself, and ends with the exit code that its help promises."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.runs import failed, measured
from unrollbench import cli, runner, suite
from unrollbench.case import Case
from unrollbench.plan import Plan
from unrollbench.records import Ceiling, Check, Environment, Measurement, Run
from unrollbench.roofline import Wanted
from unrollbench.runner import Progress
from unrollbench.store import Store

ROOT = Path(__file__).parents[1]
Outcome = Callable[[Case], Measurement]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fake_runs(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, stop_after: int | None = None) -> None:
    """`runner.execute` stores what `outcome` says of each case, and is interrupted after `stop_after` of them."""

    def execute(
        plan: Plan,
        store: Store,
        *,
        resume: str | None = None,
        on_progress: Callable[[Progress], None],
        on_wait: Callable[[], None],
    ) -> Run:
        run_id = resume or f"20261121T0100{len(store.runs()):02}-abcd"
        if resume is None:
            begun = Run(run_id, plan.suite.name, run_id, Environment("f00d"), suite_source=plan.suite.source)
            store.begin(begun, plan.cases, plan.suite.repeats)
        pending = store.pending(run_id)
        for done, (case, repeat) in enumerate(pending):
            if done == stop_after:
                raise KeyboardInterrupt
            store.add(run_id, replace(outcome(case), repeat=repeat))
            on_progress(Progress(done + 1, len(pending), 1.0, 1.0, case, outcome(case)))
        store.finish(run_id, "2026-11-21T01:05:00+00:00")
        return store.run(run_id)

    monkeypatch.setattr(runner, "execute", execute)


def in_half_the_time(case: Case) -> Measurement:
    return measured(case, 0.5e-3 if case.execution == "static" else 1e-3)


def commands() -> list[str]:
    return sorted(cli.COMMANDS)


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example_and_is_in_the_readme(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert f"unrollbench {command}" in said.split("examples:")[1]
    assert f"unrollbench {command}" in (ROOT / "README.md").read_text()


def test_help_lists_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    for word in (*commands(), "130  interrupted"):
        assert word in said


@pytest.mark.parametrize("argv", [[], ["fly"], ["run", "smoke", "--repeats", "0"], ["export", "xml"], ["plan"]])
def test_wrong_usage_is_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "usage: unrollbench" in capsys.readouterr().err


def test_run_writes_its_files_and_ends_with_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    assert cli.main(["run", "smoke"]) == 0
    said = capsys.readouterr()
    assert "static against dynamic in" in said.out
    assert "about" in said.out.splitlines()[1]  # what to expect, before anything else
    assert "1/" in said.err
    (folder,) = Path("reports").glob("smoke-*")
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.csv", "samples.csv"]
    assert Path("reports/unrollbench.db").exists()


def test_the_plan_says_how_much_disk_swapping_takes(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--filter", "execution=dynamic", "--axis", "mode=train"]
    for swaps, words in (("true", 1), ("false", 0)):
        assert cli.main(["plan", "smoke", *chosen, "--axis", f"swap_memory={swaps}"]) == 0
        assert capsys.readouterr().out.count(" of disk") == words


def test_quiet_says_only_the_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    assert cli.main(["run", "smoke", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("lstm")


def test_options_reach_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    options = ["--axis", "sequence_length=5", "--filter", "mode=train", "--filter", "execution!=stepwise"]
    assert cli.main(["run", "smoke", *options, "--repeats", "2", "--db", "my.db", "--out", "mine", "-q"]) == 0
    with Store("my.db", create=False) as store:
        measurements = store.run().measurements
    assert {m.case.sequence_length for m in measurements} == {5}
    assert {m.case.mode for m in measurements} == {"train"}
    assert {m.repeat for m in measurements} == {0, 1}
    assert Path("mine/report.html").exists()


@pytest.mark.parametrize("status", ["failed", "crashed", "timeout", "out_of_memory"])
def test_one_bad_case_is_four_and_is_told(
    status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(case: Case) -> Measurement:
        bad = case.execution == "static" and case.mode == "train"
        return failed(case, status, "a pity") if bad else in_half_the_time(case)  # type: ignore[arg-type]

    fake_runs(monkeypatch, outcome)
    assert cli.main(["run", "smoke"]) == 4
    assert f"{status.replace('_', ' ')}: a pity" in capsys.readouterr().out


def test_nothing_but_skips_is_five(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, lambda case: failed(case, "skipped", "not here"))
    assert cli.main(["run", "smoke", "-q"]) == 5


def test_some_skips_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, lambda c: failed(c, "skipped") if c.execution == "static" else measured(c))
    assert cli.main(["run", "smoke", "-q"]) == 0


def test_filters_that_leave_nothing_are_five_before_anything_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "smoke", "--filter", "sequence_length>100000"]) == 5
    assert cli.main(["plan", "smoke", "--budget", "1s"]) == 5
    assert "fits none of" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ["no_such_suite"],
        ["smoke", "--filter", "seqlen=3"],
        ["smoke", "--axis", "unroll=0"],
        ["smoke", "--budget", "soon"],
        ["smoke", "--out", "file/folder"],
        ["smoke", "--db", "file"],
        ["smoke", "--db", "file/database"],
        ["smoke", "--resume"],
        ["smoke", "--resume", "--repeats", "3"],
        [],
    ],
)
def test_what_cannot_be_is_two_before_measuring(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*arguments: object, **others: object) -> Run:
        raise AssertionError("measured")

    monkeypatch.setattr(runner, "execute", never)
    Path("file").write_text("text")
    assert cli.main(["run", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("unrollbench: ")
    assert "Traceback" not in said


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_runs(monkeypatch, in_half_the_time, stop_after=2)
    assert cli.main(["run", "smoke", "-q"]) == 130
    assert "to go on: unrollbench run --resume 20261121T010000-abcd\n" in capsys.readouterr().err
    fake_runs(monkeypatch, in_half_the_time)
    assert cli.main(["report"]) == 4  # cases are missing
    assert "missing" in capsys.readouterr().out
    assert cli.main(["run", "smoke", "--resume"]) == 0
    assert "16 cases in 16 processes" in capsys.readouterr().out
    with Store("reports/unrollbench.db", create=False) as store:
        assert len(store.runs()) == 1
        assert store.pending(store.run().id) == ()
    assert cli.main(["run", "--resume", "20261121", "-q"]) == 2
    assert "nothing" not in capsys.readouterr().out


def test_a_fault_of_ours_is_two_with_its_traceback_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(case: Case) -> Measurement:
        if case.execution != "static":
            raise ZeroDivisionError("a pity")
        return in_half_the_time(case)

    fake_runs(monkeypatch, outcome)
    assert cli.main(["run", "smoke", "-q"]) == 2
    said = capsys.readouterr().err
    assert "fault in unrollbench" in said
    assert "Traceback" in said
    assert "--resume" in said
    with Store("reports/unrollbench.db", create=False) as store:
        assert len(store.run().measurements) > 0


def test_plan_lists_keys_labels_and_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "smoke", "--filter", "execution=static"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("lstm/static T=" in line for line in lines[:-2])
    assert "cases in" in lines[-1]


def test_suites_are_listed_with_their_questions_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["suites"]) == 0
    listed = capsys.readouterr().out
    for name in suite.names():
        loaded = suite.load(name)
        assert f"{name}: {loaded.title}" in listed
        assert loaded.question in listed
    assert cli.main(["suites", "smoke"]) == 0
    assert capsys.readouterr().out.strip() == suite.load("smoke").source.strip()


def test_report_and_export_take_a_run_by_the_beginning_of_its_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    for _ in range(2):
        assert cli.main(["run", "smoke", "-q"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "20261121T010000", "--out", "old"]) == 0
    assert "static against dynamic" in capsys.readouterr().out
    assert "20261121T010000-abcd" in Path("old/report.html").read_text()
    assert cli.main(["export", "csv", "--out", "new"]) == 0
    assert "20261121T010001-abcd" in Path("new/results.csv").read_text()
    assert cli.main(["report", "20261121"]) == 2
    assert "several runs begin with" in capsys.readouterr().err
    assert cli.main(["report", "1999"]) == 2


@pytest.mark.parametrize("argv", [["report"], ["export", "csv"]])
def test_without_a_database_it_says_what_makes_one(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "unrollbench run" in capsys.readouterr().err
    assert not Path("reports").exists()


def test_show_of_a_static_case_has_a_copy_of_the_step_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["sequence_length=3", "batch_size=2", "input_size=4", "num_units=4"]
    assert cli.main(["show", "execution=static", *axes]) == 0
    static = capsys.readouterr().out
    assert cli.main(["show", "execution=dynamic", *axes]) == 0
    dynamic = capsys.readouterr().out
    assert static.count("    step_0(") == 3
    assert "while" not in static
    assert dynamic.count("    step_0(") == 1
    assert "while" in dynamic


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (["smoke"], "cases fit: add --filter, or show one by its key:"),
        (["execution=static,dynamic"], "expected one value"),
        (["execution=static", "smoke"], "expected axis=value pairs"),
        (["0000"], "has such a key"),
        (["sequence_length=0"], "expected an integer >= 1"),
        (["seqlen=3"], "unknown axis"),
    ],
)
def test_show_says_which_case_it_cannot_show(what: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", *what]) == 2
    assert reason in capsys.readouterr().err


def test_env_tells_of_every_backend_why_it_is_missing_or_its_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unrollbench import backends, probe

    def availability(name: str) -> backends.Availability:
        here = name == "numba_cpu"
        return backends.Availability(name, {"numba": "9.9"} if here else {}, None if here else "pip install it")

    monkeypatch.setattr(probe, "availability", availability)
    assert cli.main(["env"]) == 0
    said = capsys.readouterr().out
    assert "fingerprint" in said
    assert "numba 9.9" in said
    assert said.count("missing: pip install it") == len(backends.names()) - 1


def test_env_says_why_cuda_is_missing_or_shows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unrollbench import backends, probe
    from unrollbench.measure import environment

    def told(found: tuple[Any, str]) -> str:
        original = environment.environment
        with monkeypatch.context() as patched:
            patched.setattr(environment, "environment", lambda **options: original(find_gpus=lambda: found, **options))
            assert cli.main(["env"]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(probe, "availability", lambda name: backends.Availability(name))
    missing = told((None, "no NVIDIA driver: libcuda.so.1"))
    assert re.search(r"^gpu +unknown: no NVIDIA driver: libcuda\.so\.1$", missing, re.MULTILINE)
    assert "fingerprint with cuda" not in missing
    found = told(({"driver": "580.65.06", "cuda": "13.0", "0": {"name": "Some GPU", "memory_bytes": 80 << 30}}, ""))
    for line in (r"gpu\.cuda +13\.0", r"gpu\.0\.name +Some GPU", r"gpu\.0\.memory +80\.0 GiB", "fingerprint with cuda"):
        assert re.search(f"^{line}", found, re.MULTILINE)


@pytest.mark.parametrize("found", [(None, "no NVIDIA driver: libcuda.so.1"), ({"driver": "580.65.06"}, "")])
def test_plan_warns_of_cases_for_a_gpu_where_none_is_shown(
    found: tuple[Any, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unrollbench.measure import environment

    original = environment.environment
    monkeypatch.setattr(environment, "environment", lambda: original(find_gpus=lambda: found))
    assert cli.main(["plan", "cuda_memory"]) == 0
    warning = "warning: 9 cases are for a GPU, and this machine shows none: no NVIDIA driver: libcuda.so.1"
    assert (warning in capsys.readouterr().out.splitlines()) == (found[0] is None)
    assert cli.main(["plan", "cuda_memory", "--filter", "device=cpu"]) == 0
    assert "GPU" not in capsys.readouterr().out.replace("the GPU's memory", "")


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cli.say("a\x1b[31m\x00\tb\x9b\nü")
    assert capsys.readouterr().out == "a\\x1b[31m\\x00\tb\\x9b\nü\n"


def python(code: str, **options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_nobody_reading_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m unrollbench suites smoke; echo $? >&2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shell = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert shell.stderr.split() == ["0"]


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        ("<&- >/dev/null", 0, ""),
        ("2>&- >/dev/null", 0, ""),
        (">/dev/full", 2, "unrollbench: standard output: cannot be written to: No space left on device\n"),
    ],
)
def test_a_stream_that_takes_nothing_is_no_fault_of_ours(
    redirection: str, code: int, said: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m unrollbench plan smoke {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_stderr_that_is_full_leaves_the_exit_code_as_it_is(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m unrollbench plan nosuch 2>/dev/full"
    assert subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path).returncode == 2


def test_more_repeats_than_anybody_waits_for_are_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "smoke", "--repeats", "99999999999"]) == 2
    assert "repeats = 99999999999 of 18 cases of smoke: expected at most 5555" in capsys.readouterr().err


def test_help_imports_nothing_of_weight() -> None:
    heavy = ("numba", "numpy", "pandas", "jinja2", "sqlite3", "unrollbench.backends")
    code = "import sys; from unrollbench import cli; cli.main(['--help']); "
    done = python(code + f"print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.splitlines()[-1] == "[]"


def test_reports_do_not_import_a_backend() -> None:
    done = python("import sys, unrollbench.report.html; print('numba' in sys.modules, 'tensorflow' in sys.modules)")
    assert done.stdout.split() == ["False", "False"]


class Terminal(io.StringIO):
    """A stream that somebody is at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("\n", 0), ("y\n", 0), ("n\n", 130), ("", 130)])
def test_a_long_run_asks_whoever_is_there(answer: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    monkeypatch.setattr(cli, "ASK_FROM_S", 0.0)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.main(["run", "smoke"]) == code
    assert "Start? [Y/n]" in screen.getvalue()
    assert Path("reports/unrollbench.db").exists()


def test_yes_asks_nothing_and_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runs(monkeypatch, in_half_the_time)
    monkeypatch.setattr(cli, "ASK_FROM_S", 0.0)
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.main(["run", "smoke", "--yes"]) == 0
    assert "Start?" not in screen.getvalue()
    assert "\r\x1b[K[" in screen.getvalue()


def test_ceilings_shows_a_line_per_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = (
        Ceiling("multiply-add", "float32", 1, 232.81, "GFLOP/s"),
        Ceiling("read", "float32", 1, 443.9, "GB/s", 16384),
        Ceiling("read", "float32", 1, 21.0, "GB/s", 65536, 0.5),
    )
    monkeypatch.setattr("unrollbench.probe.ceilings", lambda wanted: found)
    assert cli.main(["ceilings", "--threads", "1"]) == 0
    _, arithmetic, reading, disturbed = capsys.readouterr().out.splitlines()
    assert arithmetic.split() == ["multiply-add", "in", "registers", "232.8", "GFLOP/s"]
    assert reading.split() == ["read", "16.0", "KiB", "each", "443.9", "GB/s"]
    assert disturbed.endswith("21.0 GB/s  too low: something else used the processors")


def test_ceilings_of_a_gpu_are_those_of_all_of_it_in_both_dtypes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ceilings(wanted: Sequence[Wanted]) -> tuple[Ceiling, ...]:
        (one,) = wanted
        assert (one.device, one.threads) == ("cuda", None)
        peak = Ceiling("multiply-add", one.dtype, None, 61234.5, "GFLOP/s", device="cuda", throttling="none")
        held = replace(peak, name="read", unit="GB/s", working_set_bytes=2**22, place="shared memory")
        return (peak,) if one.sizes_bytes == () else (peak, replace(held, throttling="software power cap"))

    monkeypatch.setattr("unrollbench.probe.ceilings", ceilings)
    assert cli.main(["ceilings", "--device", "cuda"]) == 0
    first, arithmetic, reading, second, _ = capsys.readouterr().out.splitlines()
    assert (first, second) == tuple(f"the GPU, {dtype}, the best of several tries" for dtype in ("float32", "float64"))
    assert arithmetic.split() == ["multiply-add", "in", "registers", "61234.5", "GFLOP/s"]
    assert "4.00 MiB in shared memory" in reading
    assert reading.endswith("too low: the GPU's clocks were held down (software power cap)")


def test_ceilings_of_a_gpu_that_is_not_there_is_two_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = "import sys; from unrollbench import probe; from unrollbench.measure import gpu; "
    boot += "probe.load_driver = lambda: gpu.load_driver('libcuda_of_no_machine.so'); probe.main(sys.argv[2])"
    monkeypatch.setattr("unrollbench.probe.BOOT", boot)
    assert cli.main(["ceilings", "--device", "cuda"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no NVIDIA driver: libcuda_of_no_machine.so: cannot open shared object file" in told.err
    assert cli.main(["ceilings", "--device", "cuda", "--threads", "1"]) == 2
    assert "--threads is for the processors" in capsys.readouterr().err


def test_ceilings_of_more_threads_than_processors_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ceilings", "--threads", "100000"]) == 2
    assert "--threads 100000: only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "code"), [(("passed", "skipped"), 0), (("passed", "failed"), 4), (("skipped", "skipped"), 5)]
)
def test_check_backend_ends_as_its_statements_did(
    statuses: tuple[Literal["passed", "failed", "skipped"], ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [Check(f"static: {status}", status, None if status == "passed" else "why", Case()) for status in statuses]
    asked: list[str | None] = []

    def conformance(name: str, device: str | None) -> Iterator[Check]:
        asked.append(device)
        return iter(found)

    monkeypatch.setattr("unrollbench.probe.conformance", conformance)
    assert cli.main(["check-backend", "numba_cpu", "--device", "cuda"]) == code
    assert asked == ["cuda"]
    told = capsys.readouterr().out
    assert all(f"{status:7}  static: {status}" in told for status in statuses)
    assert told.splitlines()[-1].startswith(f"numba_cpu: {statuses.count('passed')} passed")


def test_check_backend_of_an_unknown_one_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-backend", "nonesuch"]) == 2
    assert "'nonesuch': unknown; expected one of numba_cpu" in capsys.readouterr().err

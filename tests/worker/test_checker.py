"""The checker's verdicts, from a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROLOGUE = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.fake_backend import SMALL, cast, shifted
from unrollbench import reference
from unrollbench.worker import checker
from unrollbench.errors import WrongResult
from unrollbench.tensors import draw
case = replace(SMALL, mode="train")
right = cast(reference.expected(case, draw(case)), case.dtype)
folder = Path(sys.argv[1])
"""


def answers(script: str, folder: Path) -> list[str]:
    """The lines that the script prints in a process without threads, from which a checker can be forked safely."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script, str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return process.stdout.splitlines()


def test_right_and_wrong_results_are_told_apart_as_often_as_asked(tmp_path: Path) -> None:
    script = """
one = checker.Checker(case)
print(one.check(right) == one.check(right))
try:
    one.check(shifted(right))
except WrongResult as wrong:
    print(str(wrong)[:7])
print(one.check(right)[1] == reference.tolerance(case))
one.close()
"""
    assert answers(script, tmp_path) == ["True", "outputs", "True"]


def test_expected_results_are_kept_for_the_same_network_run_another_way(tmp_path: Path) -> None:
    script = """
gpu = replace(case, device="cuda", l2_cache="cold", device_memory_limit=0.5)
others = (replace(case, execution="static"), replace(case, threads=2), gpu, replace(case, seed=5))
for other in (case, *others, replace(gpu, matmul_precision="tf32")):
    one = checker.Checker(other, folder)
    try:
        one.check(right)
    except WrongResult:
        pass
    one.close()
    print(len(list(folder.iterdir())))
"""
    assert answers(script, tmp_path) == ["1", "1", "1", "1", "2", "3"]


def test_the_folder_of_expected_results_is_bounded(tmp_path: Path) -> None:
    script = """
checker.FOLDER_BYTES = 10_000
for seed in range(5):
    one = checker.Checker(replace(case, seed=seed, batch_size=16), folder)
    try:
        one.check(right)
    except WrongResult:
        pass
    one.close()
    print(sum(file.stat().st_size for file in folder.iterdir()) <= 10_000)
"""
    assert answers(script, tmp_path) == ["True"] * 5


def test_a_checker_that_ends_without_a_verdict_is_an_error_with_its_status(tmp_path: Path) -> None:
    script = """
checker.reference.check = lambda *arguments: os._exit(3)
try:
    checker.Checker(case).check(right)
except ChildProcessError as error:
    print(error)
checker.reference.check = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
for kills in ([5, 5], [5, 6], [None, None]):
    checker.oom_kills = lambda kills=kills: kills.pop(0)
    try:
        checker.Checker(case).check(right)
    except (ChildProcessError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}")
checker.oom_kills = lambda: 5
def full(*arguments): raise MemoryError
checker.reference.check = full
try:
    checker.Checker(case).check(right)
except MemoryError as error:
    print(error)
"""
    died, by_someone, by_system, by_whom, full = answers(script, tmp_path)
    assert died == "the check against the reference ended with status 3 and gave no verdict"
    assert by_someone == "ChildProcessError: the check against the reference was ended by SIGKILL and gave no verdict"
    assert by_system.startswith("MemoryError: the float64 reference was killed")
    assert by_whom == by_system
    assert full == "the float64 reference does not fit into memory"

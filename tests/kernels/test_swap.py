"""swap_memory on the CPU: what stays resident while a network trains, and what is left on the disk."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unrollbench.kernels import swap

ROOT = Path(__file__).parents[2]

TRAIN = """
import hashlib, json, sys
import numpy as np
from unrollbench.backends.numba_cpu import NumbaCpu
from unrollbench.case import Case
from unrollbench.measure.memory import PeakMemory
from unrollbench.tensors import draw
case = Case(
    cell="lstm", mode="train", sequence_length=320, batch_size=1024, input_size=1, num_units=16,
    parallel_iterations=4, swap_memory=json.loads(sys.argv[1]), threads=json.loads(sys.argv[2]),
)
program, memory = NumbaCpu().build(case, draw(case)), PeakMemory()
memory.reset()
before = memory.bytes()
program.run()
peak = memory.bytes()
results = program.outputs()
arrays = (results.outputs, results.gradients.inputs, *results.gradients.weights[0].values())
digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
print(json.dumps({"grown": peak - before, "saved": program.memory().saved_bytes, "digest": digest}))
"""
"""Narrow and long, so that it saves much and computes little: 4 gates, c and h of 16 units, 1024 rows and 320 steps."""


@cache
def trained(swaps: bool, threads: int) -> dict[str, Any]:
    """What one training run in a process of its own says about itself."""
    process = subprocess.run(
        [sys.executable, "-c", TRAIN, json.dumps(swaps), json.dumps(threads)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(process.stdout)
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_resident_memory_holds_a_few_windows_of_what_is_saved_and_not_all_of_it(threads: int) -> None:
    kept, swapped = trained(False, threads), trained(True, threads)
    assert kept["saved"] > 120e6
    assert kept["grown"] >= kept["saved"]
    others = kept["grown"] - kept["saved"]  # results and gradients, which are no activations
    windows = kept["saved"] / 80
    assert swapped["grown"] - others <= 8 * windows  # not one: the system maps more around each page than asked


@pytest.mark.parametrize("threads", [1, 2])
def test_swapping_changes_no_bit_of_the_results(threads: int) -> None:
    assert trained(True, threads)["digest"] == trained(False, threads)["digest"]


def test_the_file_has_no_name_and_its_bytes_are_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mapping = swap.backing(10_000)
    assert list(tmp_path.iterdir()) == []
    assert len(mapping) == 10_000
    assert not np.frombuffer(mapping, np.uint8).any()


def test_a_file_that_cannot_grow_is_an_error_at_once_and_not_a_crash_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="large"):
            swap.backing(1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        swap.backing(4096)

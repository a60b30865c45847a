"""FlashRNN on a GPU that is made up: what it is compiled with and where, and when it is refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flashrnn.flashrnn import cuda_init
from torch.utils import cpp_extension
from triton.runtime.errors import OutOfResources

from unrollbench import backends
from unrollbench.backends import TimedByEvents
from unrollbench.backends.flashrnn_rnn import FlashRnnProgram
from unrollbench.backends.phases import Phases
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable

ON_GPU = Case(device="cuda", execution="library", num_units=64, matmul_precision="tf32").canonical()
NAMES = ["flashrnn", "flashrnn_alternating", "flashrnn_triton"]


def case_of(name: str) -> Case:
    precision: Any = "float32" if name == "flashrnn_alternating" else "tf32"
    return replace(ON_GPU, backend=name, matmul_precision=precision)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 9.0 and an nvcc."""
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/a/toolkit")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_every_case_is_refused_with_torch_s_reason(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def init() -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert backends.load(name).why_not(case_of(name)) == f"torch {torch.__version__} has no GPU here: no driver"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NAMES)
def test_with_a_gpu_and_a_compiler_for_it_a_plain_lstm_is_taken(name: str) -> None:
    assert backends.load(name).why_not(case_of(name)) is None


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", NAMES)
def test_an_older_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    reason = backends.load(name).why_not(case_of(name))
    assert reason == "FlashRNN needs a GPU of compute capability 8.0, this one has 7.5"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("name", "needs"), [(NAMES[0], True), (NAMES[1], True), (NAMES[2], False)])
def test_without_nvcc_only_the_triton_kernel_is_left(monkeypatch: pytest.MonkeyPatch, name: str, needs: bool) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    reason = backends.load(name).why_not(case_of(name))
    assert ("nvcc" in reason) if needs else reason is None  # type: ignore[operator]


def program_that(run: Callable[[], None], case: Case = ON_GPU) -> FlashRnnProgram:
    """A program whose network is `run`."""

    def network(weights: Any, inputs: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        run()
        return torch.zeros(1), []

    leaves = {"weights": [], "inputs": torch.zeros(1), "state": []}
    return FlashRnnProgram(case, network, leaves, None, [], None, Phases())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("precision", "dots"), [("float32", "ieee"), ("tf32", "tf32")])
def test_kernels_are_compiled_into_an_empty_folder_with_the_case_s_threads_and_precision(
    precision: Any, dots: str
) -> None:
    before = dict(os.environ)
    program = program_that(lambda: None, replace(ON_GPU, threads=3, matmul_precision=precision))
    folder = Path(os.environ["TORCH_EXTENSIONS_DIR"])
    assert os.environ["TRITON_CACHE_DIR"] == str(folder)
    assert os.environ["MAX_JOBS"] == "3"
    assert os.environ["TRITON_F32_DEFAULT"] == dots
    assert cuda_init.random.random() == 0.0
    assert program.compilations() == 0
    (folder / "kernel.so").touch()
    assert program.compilations() == 1
    program.close()
    assert not folder.exists()
    assert dict(os.environ) == before
    assert cuda_init.random is random


def test_ninja_is_found_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    program = program_that(lambda: None)
    assert cpp_extension.is_ninja_available()
    program.close()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "error", [ValueError("No working solution of constraints for CUDA module"), OutOfResources(9, 8, "shared memory")]
)
def test_sizes_that_flashrnn_has_no_kernel_for_are_declined_with_its_words(error: Exception) -> None:
    def run() -> None:
        raise error

    program = program_that(run)
    with pytest.raises(BackendUnavailable, match="no kernel of these sizes for this GPU"):
        program.compile(Phases())
    program.close()


@pytest.mark.usefixtures("gpu")
def test_any_other_error_is_flashrnn_s_own() -> None:
    def run() -> None:
        raise ValueError("too many values to unpack")

    program = program_that(run)
    with pytest.raises(ValueError, match="too many values"):
        program.compile(Phases())
    program.close()


def test_a_program_is_timed_by_events() -> None:
    program = object.__new__(FlashRnnProgram)
    assert isinstance(program, TimedByEvents)


COMPILE = """
import sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from flashrnn.flashrnn.triton_fused import lstm_bw, lstm_fw

sizes = dict(T=7, NS=2, B=16, NH=1, DH=64, NGI=4, NGR=4, siz_B=16, DTYPE=tl.float32)
for kernel, own in (
    (lstm_fw._forward_sequence_kernel.fn, dict(OUTPUT_GATES=True)),
    (lstm_bw._backward_sequence_kernel, dict(backward_recurrent_clip_val=-1.0)),
):
    known = {**sizes, **own}
    types = {name: "constexpr" if name in known else "*fp32" for name in kernel.arg_names}
    values = {(i,): known[name] for i, name in enumerate(kernel.arg_names) if name in known}
    built = triton.compile(
        ASTSource(kernel, types, values), GPUTarget("cuda", int(sys.argv[1]), 32), {"num_warps": 4, "num_stages": 1}
    )
    print(built.asm["ptx"].count("tf32"), len(built.asm["cubin"]), built.metadata.shared)
"""


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("dots", "rounds"), [("ieee", False), ("tf32", True)])
def test_the_triton_kernel_of_64_units_compiles_and_rounds_its_operands_where_it_is_told_to(
    tmp_path: Path, dots: str, rounds: bool, capability: int
) -> None:
    environment = os.environ | {"TRITON_F32_DEFAULT": dots, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    (tmp_path / "compile_kernels.py").write_text(COMPILE)  # Triton reads its kernels' source, this one's as well
    command = [sys.executable, str(tmp_path / "compile_kernels.py"), str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    kernels = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(kernels) == 2
    for tf32, cubin_bytes, shared_bytes in kernels:
        assert (tf32 > 0) == rounds
        assert cubin_bytes > 0
        assert shared_bytes < 163 * 1024  # what a block can have on compute capability 8.0

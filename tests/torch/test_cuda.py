"""PyTorch on a GPU: refused with the reason where there is none; its events and memory on one that is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unrollbench import backends
from unrollbench.backends import TimedByEvents, torch_cuda
from unrollbench.backends.torch_rnn import TorchCudaProgram, TorchProgram
from unrollbench.case import Case

ON_GPU = Case(backend="torch", device="cuda", execution="library").canonical()


@pytest.mark.parametrize("execution", ["static", "stepwise", "library"])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_without_a_gpu_every_case_on_one_is_refused_with_torch_s_reason(
    monkeypatch: pytest.MonkeyPatch, execution: Any, mode: Any
) -> None:
    def init() -> None:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "init", init)
    reason = backends.load("torch").why_not(replace(ON_GPU, execution=execution, mode=mode))
    assert reason is not None
    assert reason.startswith(f"torch {torch.__version__} has no GPU here: no driver")


@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_nothing_is_compiled_for_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch, execution: Any) -> None:
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = backends.load("torch").why_not(replace(ON_GPU, execution=execution).canonical())
    assert reason is not None
    assert "needs triton" in reason


def test_a_program_on_the_processor_is_not_timed_by_events() -> None:
    assert issubclass(TorchCudaProgram, TorchProgram)
    assert hasattr(TorchCudaProgram, "event_s")
    assert not hasattr(TorchProgram, "event_s")
    program = object.__new__(TorchCudaProgram)
    assert isinstance(program, TimedByEvents)


class FakeCuda:
    """A device whose clock moves by what is done on it; replaces the functions of `torch.cuda` that are called."""

    L2_BYTES, RUN_S, FLUSH_S, RUN_BYTES = 100, 2e-3, 5e-3, 1000

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.peak_bytes, self.fraction = 0.0, 0, 0.0
        self.did: list[str] = []
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at_s = 0.0

            def record(self) -> None:
                self.at_s = device.now_s

            def elapsed_time(self, end: Event) -> float:
                return (end.at_s - self.at_s) * 1e3

        names: dict[str, Any] = {
            "Event": Event,
            "synchronize": lambda: self.did.append("synchronize"),
            "current_device": lambda: 0,
            "get_device_properties": lambda number: SimpleNamespace(L2_cache_size=self.L2_BYTES, total_memory=4000),
            "max_memory_allocated": lambda: self.peak_bytes,
            "memory_allocated": lambda: 7,
            "reset_peak_memory_stats": self.reset,
            "set_per_process_memory_fraction": self.limit,
        }
        for name, value in names.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "empty", self.empty)

    def run(self) -> None:
        self.did.append("run")
        self.now_s += self.RUN_S
        self.peak_bytes = max(self.peak_bytes, self.RUN_BYTES)

    def reset(self) -> None:
        self.peak_bytes = 0

    def limit(self, fraction: float) -> None:
        self.fraction = fraction

    def empty(self, count: int, dtype: Any, device: str) -> Any:
        assert device == "cuda"
        self.peak_bytes += count

        def zero() -> None:
            self.did.append("flush")
            self.now_s += self.FLUSH_S

        return SimpleNamespace(zero_=zero)


@pytest.mark.parametrize(("cold", "did"), [(False, ["run", "run"]), (True, ["flush", "run", "flush", "run"])])
def test_events_enclose_each_run_and_never_the_flush(
    monkeypatch: pytest.MonkeyPatch, cold: bool, did: list[str]
) -> None:
    device = FakeCuda(monkeypatch)
    runs_s = torch_cuda.Meter().event_s(device.run, 2, cold)
    assert runs_s == pytest.approx((FakeCuda.RUN_S,) * 2)
    assert device.did == [*did, "synchronize"]


def test_what_is_flushed_with_is_no_memory_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    device, meter = FakeCuda(monkeypatch), torch_cuda.Meter()
    device.run()
    meter.event_s(device.run, 3, cold=True)
    told = meter.memory(5)
    assert (told.weight_bytes, told.device_bytes, told.device_peak_bytes) == (5, 7, FakeCuda.RUN_BYTES)


@pytest.mark.parametrize(("limit", "fraction"), [(0.25, 0.25), (1000, 0.25), (10**9, 1.0), (None, 0.0)])
def test_a_limit_in_bytes_is_one_of_the_device_s_memory(
    monkeypatch: pytest.MonkeyPatch, limit: Any, fraction: float, precisions: Callable[[], tuple[str, str]]
) -> None:
    device = FakeCuda(monkeypatch)
    torch_cuda.configure(replace(ON_GPU, device_memory_limit=limit))
    assert device.fraction == fraction


@pytest.fixture
def precisions() -> Any:
    """Reads how cuBLAS and cuDNN round; set back afterwards."""
    matmul, rnn = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = matmul.fp32_precision, rnn.fp32_precision
    yield lambda: (matmul.fp32_precision, rnn.fp32_precision)
    matmul.fp32_precision, rnn.fp32_precision = before


@pytest.mark.parametrize(("matmul_precision", "torchs"), [("float32", "ieee"), ("tf32", "tf32"), (None, "ieee")])
def test_products_round_as_the_case_says_in_cublas_and_in_cudnn(
    monkeypatch: pytest.MonkeyPatch,
    matmul_precision: Any,
    torchs: str,
    precisions: Callable[[], tuple[str, str]],
) -> None:
    FakeCuda(monkeypatch)
    torch_cuda.configure(replace(ON_GPU, matmul_precision=matmul_precision))
    assert precisions() == (torchs, torchs)

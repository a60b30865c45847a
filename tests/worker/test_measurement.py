"""The order of things inside a worker, with the reference in the same process and a clock that only programs move."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from tests import fake_backend
from tests.fake_backend import SMALL, FakeProgram, Right
from tests.measure.fake_clock import FakeClock
from tests.measure.fake_nvml import BUS_ID, nvml
from unrollbench import backends, reference
from unrollbench.backends import Backend, Listing, Memory
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable, WrongResult
from unrollbench.measure.clock import Clock
from unrollbench.measure.gpu import Nvml
from unrollbench.measure.gpu_clocks import ClockWatch
from unrollbench.measure.memory import PeakMemory
from unrollbench.records import Measurement, Metrics
from unrollbench.tensors import Outputs, Tensors, draw
from unrollbench.worker import measurement as measuring
from unrollbench.worker.measurement import measure
from unrollbench.worker.request import Request


class Journal:
    """A backend, a check and a memory meter that write down what is done to them, and a clock that they move."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.events: list[str] = []
        self.phases: list[tuple[str, Measurement | None]] = []
        self.build_s, self.run_s = 2.0, 0.05

    def happened(self, event: str) -> None:
        """The event is written down; the same again in a row is not."""
        if self.events[-1:] != [event]:
            self.events.append(event)

    def check(self, outputs: Outputs) -> tuple[float, float]:
        self.happened("check")
        self.clock.pass_s(100.0)
        return reference.check(SMALL, outputs, reference.expected(SMALL, draw(SMALL)))

    def listen(self, phase: str, known: Measurement | None) -> None:
        self.phases.append((phase, known))

    def measure(self, request: Request) -> Measurement:
        return measure(request, self.check, self.listen, self.clock)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal, with whatever would change this process or read its memory replaced."""
    journal = Journal()

    class Program(FakeProgram):
        def run(self) -> None:
            super().run()
            journal.happened("run")
            journal.clock.pass_s(journal.run_s)

        def close(self) -> None:
            journal.happened("close")

    class Backend(Right):
        def build(self, case: Case, tensors: Tensors) -> Program:
            journal.happened("build")
            journal.clock.pass_s(journal.build_s)
            return Program(case, tensors)

    class Memory(PeakMemory):
        def reset(self) -> None:
            journal.happened("reset peak")

        def bytes(self) -> int | None:
            journal.happened("read peak")
            return len(journal.events)

    monkeypatch.setattr(backends, "load", returning(Backend()))
    monkeypatch.setattr(measuring, "PeakMemory", Memory)
    stay_the_same(monkeypatch)
    return journal


def stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not pinned, and its environment is put back afterwards."""
    monkeypatch.setattr(measuring, "pin", lambda cpus: None)
    for name in measuring.THREAD_VARIABLES:
        monkeypatch.setenv(name, os.environ.get(name, "1"))


def returning(backend: Backend) -> Callable[[str], Backend]:
    return lambda name: backend


def test_the_check_comes_before_any_timing_and_again_after_it(journal: Journal) -> None:
    assert journal.measure(Request(SMALL)).status == "ok"
    before, timed, after = "read peak", "reset peak", "close"
    assert journal.events == [timed, before, "build", "run", before, "check", timed, "run", before, "check", after]


def test_a_build_ends_with_the_first_run_and_is_no_part_of_the_check(journal: Journal) -> None:
    metrics = journal.measure(Request(SMALL)).metrics
    assert metrics.build_s == pytest.approx(2.05, abs=1e-5)
    assert metrics.check_s == pytest.approx(100.0, abs=1e-5)
    assert dict(metrics.build_phases_s) == {"codegen": 0.25, "llvm": 0.5, "first_run": pytest.approx(0.05, abs=1e-5)}


def test_each_memory_figure_is_read_at_the_end_of_its_own_phase(journal: Journal) -> None:
    metrics = journal.measure(Request(SMALL)).metrics
    assert (metrics.base_bytes, metrics.build_peak_bytes, metrics.run_peak_bytes) == (2, 5, 9)


def test_processor_time_is_that_of_one_run(journal: Journal) -> None:
    assert journal.measure(Request(SMALL)).metrics.cpu_s == pytest.approx(0.05, rel=1e-3)


def test_nothing_is_told_of_a_program_before_it_was_checked(journal: Journal) -> None:
    journal.measure(Request(SMALL))
    assert [phase for phase, _ in journal.phases] == ["import", "draw", "build", "check", "run", "check again"]
    known = dict(journal.phases)
    assert all(known[phase] is None for phase in ("import", "draw", "build", "check"))
    assert known["run"] is not None
    assert known["run"].metrics.build_s is not None


def test_a_wrong_program_is_never_run_a_second_time(journal: Journal) -> None:
    def wrong(outputs: Outputs) -> tuple[float, float]:
        raise WrongResult("outputs[0]: got 1, wanted 2")

    measurement = measure(Request(SMALL), wrong, journal.listen, journal.clock)
    assert (measurement.status, measurement.reason) == ("failed", "wrong result: outputs[0]: got 1, wanted 2")
    assert journal.events.count("run") == 1
    assert journal.events[-1] == "close"


def test_sampling_ends_before_the_timeout_and_says_what_it_left_out(journal: Journal) -> None:
    journal.run_s = 3.0
    measurement = journal.measure(Request(SMALL, min_samples=10, timeout_s=20.0))
    assert len(measurement.samples) == 4  # of the 18 s that sampling may fill, 5 went into the build
    assert measurement.unknown["samples"] == "timeout_s = 20 left time for only 4"


def test_a_reference_that_does_not_fit_is_out_of_memory(journal: Journal) -> None:
    def too_large(outputs: Outputs) -> tuple[float, float]:
        raise MemoryError("the float64 reference does not fit into memory")

    measurement = measure(Request(SMALL), too_large, journal.listen, journal.clock)
    assert measurement.status == "out_of_memory"
    assert "reference" in (measurement.reason or "")


def test_a_check_that_died_is_crashed_so_that_resuming_tries_again(journal: Journal) -> None:
    def ended(outputs: Outputs) -> tuple[float, float]:
        raise ChildProcessError("the check against the reference was ended by SIGKILL and gave no verdict")

    measurement = measure(Request(SMALL), ended, journal.listen, journal.clock)
    assert (measurement.status, measurement.samples) == ("crashed", ())
    assert "SIGKILL" in (measurement.reason or "")


class EventProgram(FakeProgram):
    """A program on an accelerator that takes 2 ms by its events, and tells what its kernels are."""

    colds: ClassVar[list[bool]] = []

    def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
        self.colds.append(cold)
        return (2e-3,) * runs

    def memory(self) -> Memory:
        return Memory(device_bytes=4096, device_peak_bytes=8192, driver_bytes=2**29)

    def listing(self) -> Listing:
        return Listing("kernels", 7, ptx_bytes=1000, cubin_bytes=500, registers=128, local_bytes=0, shared_bytes=49152)


class OnDevice(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        return EventProgram(case, tensors)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML has one GPU, whose clocks stand still, and this process computes on it."""
    stay_the_same(monkeypatch)
    monkeypatch.setattr(measuring, "ClockWatch", lambda: ClockWatch(nvml, lambda: BUS_ID))
    EventProgram.colds.clear()


def on_device(monkeypatch: pytest.MonkeyPatch, backend: Backend, **axes: Any) -> Measurement:
    case = replace(SMALL, device="cuda", **axes)
    monkeypatch.setattr(backends, "load", returning(backend))
    return measure(Request(case, min_time_s=0.0), lambda outputs: (0.0, 1.0))


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("l2_cache", ["hot", "cold"])
def test_a_program_on_a_device_is_timed_by_its_events_with_the_cache_as_the_case_says(
    monkeypatch: pytest.MonkeyPatch, l2_cache: str
) -> None:
    measurement = on_device(monkeypatch, OnDevice(), l2_cache=l2_cache)
    assert (measurement.status, measurement.metrics.timed_by) == ("ok", "events")
    assert {sample.run_s for sample in measurement.samples} == {2e-3}
    assert all(sample.host_s is not None for sample in measurement.samples)
    assert set(EventProgram.colds) == {l2_cache == "cold"}


@pytest.mark.usefixtures("one_gpu")
def test_a_device_s_memory_kernels_and_clocks_are_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = on_device(monkeypatch, OnDevice()).metrics
    assert (metrics.device_bytes, metrics.device_peak_bytes, metrics.driver_bytes) == (4096, 8192, 2**29)
    assert (metrics.ptx_bytes, metrics.cubin_bytes, metrics.registers) == (1000, 500, 128)
    assert (metrics.local_bytes, metrics.shared_bytes, metrics.graph_nodes) == (0, 49152, 7)
    assert (metrics.sm_mhz_before, metrics.sm_mhz_after, metrics.memory_mhz_after) == (1980, 1980, 2619)
    assert metrics.throttling == "none"


@pytest.mark.usefixtures("one_gpu")
def test_a_program_without_events_is_timed_by_the_wall_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = on_device(monkeypatch, Right())
    assert (measurement.status, measurement.metrics.timed_by) == ("ok", "host")
    assert measurement.unknown["device_bytes"] == "backend 'fake' does not tell"


@pytest.mark.usefixtures("one_gpu")
def test_a_cold_cache_is_never_said_of_a_program_that_cannot_flush_it(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = on_device(monkeypatch, Right(), l2_cache="cold")
    assert (measurement.status, measurement.samples) == ("skipped", ())
    assert "cannot flush the device's cache" in (measurement.reason or "")


@pytest.mark.usefixtures("one_gpu")
def test_a_simulator_is_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measurement = on_device(monkeypatch, fake_backend.Simulated())
    assert (measurement.status, measurement.samples, measurement.metrics) == ("skipped", (), Metrics())
    assert "simulator" in (measurement.reason or "")


def test_without_a_gpu_s_library_the_clocks_are_unknown_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Nvml:
        raise BackendUnavailable("nvidia-ml-py is not installed")

    stay_the_same(monkeypatch)
    monkeypatch.setattr(measuring, "ClockWatch", lambda: ClockWatch(absent, lambda: BUS_ID))
    measurement = on_device(monkeypatch, OnDevice())
    assert measurement.status == "ok"
    assert {measurement.unknown[name] for name in measuring.OF_CLOCKS} == {"nvidia-ml-py is not installed"}


def test_on_the_processor_nothing_is_known_of_a_device(journal: Journal) -> None:
    measurement = journal.measure(Request(SMALL))
    assert measurement.metrics.timed_by == "host"
    reasons = {measurement.unknown[name] for name in (*measuring.OF_DEVICE, *measuring.OF_CLOCKS)}
    assert reasons == {"the case runs on the CPU"}


def test_the_real_clock_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_the_same(monkeypatch)
    monkeypatch.setattr(backends, "load", returning(fake_backend.Right()))
    case = replace(SMALL, mode="train")
    expected = reference.expected(case, draw(case))
    measurement = measure(Request(case, min_time_s=0.0), lambda outputs: reference.check(case, outputs, expected))
    assert measurement.status == "ok"
    assert len(measurement.samples) >= 5


def test_a_request_comes_back_exactly_from_its_line() -> None:
    request = Request(replace(SMALL, lengths=(1, 2), num_units=(4,)), 3, 7, 0.5, 9.0)
    assert Request.from_line(request.to_line()) == request
    assert request.to_line().count("\n") == 1


def _is_clock(clock: FakeClock) -> Clock:
    """Type-checked only: the fake has what a clock has."""
    return clock

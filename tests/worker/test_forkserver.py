"""Whatever a worker does, what comes back is a measurement with a status and a reason."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fake_backend import SMALL
from unrollbench.errors import RunError
from unrollbench.measure.affinity import usable_cpus
from unrollbench.records import Measurement
from unrollbench.worker.forkserver import ForkServer
from unrollbench.worker.process import _is_of_memory
from unrollbench.worker.request import Request


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(preload=("tests.fake_backend:register",)) as server:
        yield server


def measured(server: ForkServer, backend: str, timeout_s: float = 30.0, threads: int = 1) -> Measurement:
    case = replace(SMALL, backend=backend, threads=threads)
    return server.measure(Request(case, min_samples=3, min_time_s=0.01, timeout_s=timeout_s))


def test_a_right_program_is_measured(server: ForkServer) -> None:
    measurement = measured(server, "fake")
    metrics = measurement.metrics
    assert (measurement.status, measurement.reason, measurement.log) == ("ok", None, None)
    assert len(measurement.samples) >= 3
    assert list(metrics.build_phases_s) == ["codegen", "llvm", "first_run"]
    assert metrics.error is not None
    assert metrics.tolerance is not None
    assert metrics.error <= metrics.tolerance
    assert (metrics.weight_bytes, metrics.workspace_bytes, metrics.graph_nodes) == (100, 0, 7)
    assert measurement.started_at is not None
    assert measurement.worker_s is not None


def test_gradients_are_checked_in_train_mode(server: ForkServer) -> None:
    case = replace(SMALL, mode="train", time_major=False, lengths=(0, 3))
    assert server.measure(Request(case, min_time_s=0.01)).status == "ok"


def test_every_unknown_metric_has_its_reason(server: ForkServer) -> None:
    measurement = measured(server, "fake")
    unknown = {name for name, value in vars(measurement.metrics).items() if value is None}
    assert unknown
    assert unknown == set(measurement.unknown)
    assert measurement.unknown["device_bytes"] == "the case runs on the CPU"


def test_a_wrong_program_is_failed_and_has_no_timing(server: ForkServer) -> None:
    measurement = measured(server, "fake_wrong")
    assert measurement.status == "failed"
    assert (measurement.reason or "").startswith("wrong result: outputs")
    assert measurement.samples == ()
    assert measurement.metrics.build_s is None


def test_a_program_that_goes_wrong_when_repeated_is_failed_and_has_no_timing(server: ForkServer) -> None:
    measurement = measured(server, "fake_wrong_later")
    assert measurement.status == "failed"
    assert "right at first, wrong after" in (measurement.reason or "")
    assert measurement.samples == ()


def test_a_crash_names_its_signal_and_phase(server: ForkServer) -> None:
    measurement = measured(server, "fake_segfault")
    assert (measurement.status, measurement.reason) == ("crashed", "SIGSEGV in phase 'build'")
    assert "Segmentation fault" in (measurement.log or "")
    assert measurement.metrics.build_s is None


def test_a_crash_after_the_check_keeps_what_was_proved_before(server: ForkServer) -> None:
    measurement = measured(server, "fake_segfault_later")
    assert (measurement.status, measurement.reason) == ("crashed", "SIGSEGV in phase 'run'")
    assert measurement.metrics.build_s is not None
    assert measurement.samples == ()


def test_a_worker_killed_from_outside_is_crashed_and_not_out_of_memory(server: ForkServer) -> None:
    measurement = measured(server, "fake_killed")
    assert (measurement.status, measurement.reason) == ("crashed", "SIGKILL, sent from outside in phase 'build'")


def test_a_program_that_ends_its_process_is_crashed(server: ForkServer) -> None:
    measurement = measured(server, "fake_exit")
    assert measurement.status == "crashed"
    assert "exit status 3" in (measurement.reason or "")


def test_a_hanging_build_is_a_timeout(server: ForkServer) -> None:
    measurement = measured(server, "fake_hang", timeout_s=0.2)
    assert (measurement.status, measurement.reason) == ("timeout", "more than timeout_s = 0.2 in phase 'build'")


def test_a_program_too_large_is_out_of_memory(server: ForkServer) -> None:
    measurement = measured(server, "fake_large")
    assert measurement.status == "out_of_memory"
    assert "allocate" in (measurement.reason or "")


def test_a_device_without_memory_is_out_of_memory_in_the_driver_s_own_words(server: ForkServer) -> None:
    measurement = measured(server, "fake_device_full")
    assert measurement.status == "out_of_memory"
    assert "CUDA_ERROR_OUT_OF_MEMORY (in phase 'build')" in (measurement.reason or "")


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.",
        "cudaErrorMemoryAllocation: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY",
    ],
)
def test_the_words_of_every_framework_for_a_full_device_are_known(message: str) -> None:
    assert _is_of_memory(RuntimeError(message))


def test_an_exception_is_failed_with_one_line_and_its_traceback(server: ForkServer) -> None:
    measurement = measured(server, "fake_error")
    assert measurement.status == "failed"
    assert measurement.reason == "ValueError: no kernel for this (in phase 'build')"
    assert "Traceback" in (measurement.log or "")


def test_a_backend_that_cannot_run_the_case_is_skipped_with_its_reason(server: ForkServer) -> None:
    measurement = measured(server, "fake_picky")
    assert (measurement.status, measurement.reason) == ("skipped", "it has no such loop")


@pytest.mark.parametrize("backend", ["fake_missing", "no_such_backend"])
def test_a_backend_that_cannot_be_loaded_is_skipped_with_the_reason(server: ForkServer, backend: str) -> None:
    measurement = measured(server, backend)
    assert measurement.status == "skipped"
    assert backend in (measurement.reason or "")


def test_more_threads_than_processors_are_skipped(server: ForkServer) -> None:
    measurement = measured(server, "fake", threads=4096)
    assert measurement.status == "skipped"
    assert "threads = 4096" in (measurement.reason or "")


def test_a_worker_has_as_many_processors_as_threads(server: ForkServer) -> None:
    count = len(usable_cpus())
    assert (measured(server, "fake_pinned").reason or "").startswith("ValueError: 1 1 ")
    assert (measured(server, "fake_pinned", threads=count).reason or "").startswith(f"ValueError: {count} {count} ")


def test_processes_that_a_worker_leaves_behind_are_killed(server: ForkServer) -> None:
    pid = int((measured(server, "fake_child").reason or "").split()[1])
    wait_until_gone(pid)


def test_a_server_that_died_is_started_again(server: ForkServer) -> None:
    assert measured(server, "fake").status == "ok"
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert measured(server, "fake").status == "ok"


def test_a_case_whose_server_dies_each_time_is_crashed(server: ForkServer) -> None:
    measurement = measured(server, "fake_patricide")
    assert measurement.status == "crashed"
    assert measurement.reason == "the fork server died 2 times with this case: status -9"
    assert measured(server, "fake").status == "ok"


def test_what_starts_threads_when_loaded_is_left_to_the_workers() -> None:
    with ForkServer(preload=("tests.fake_backend:start_thread", "tests.fake_backend:register")) as server:
        measurement = measured(server, "fake")
    # Without its preloads the server does not know the fakes: it was started again with none.
    assert measurement.status == "skipped"
    assert "unknown" in (measurement.reason or "")


def test_nothing_is_left_running_when_the_server_closes() -> None:
    with ForkServer() as server:
        server.measure(Request(SMALL))
        pid = server.pid
    assert pid is not None
    wait_until_gone(pid)


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        ForkServer(preload=("tests.fake_backend:no_such_function",)) as server,
        pytest.raises(RunError, match="no_such"),
    ):
        server.measure(Request(SMALL))


def wait_until_gone(pid: int) -> None:
    """Returns once there is no such process, but for a zombie that nobody has waited for."""
    for _ in range(1000):
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")

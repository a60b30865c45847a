"""Clocks are those of the device that is used, read before and after, and unknown with a reason otherwise."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from tests.measure.fake_nvml import BUS_ID, FakeNvml, nvml
from unrollbench.errors import BackendUnavailable
from unrollbench.measure.gpu import Nvml
from unrollbench.measure.gpu_clocks import ClockWatch, used_bus_id


class FakeDriver:
    """CUDA's driver with a current context on device `current`, or none; `started` as cuInit leaves it."""

    def __init__(self, current: int | None = None, started: bool = True) -> None:
        self.current, self.started = current, started

    def cuCtxGetDevice(self, device: Any) -> int:  # noqa: N802 - the driver's names
        if self.current is None:
            return 201
        ctypes.cast(device, ctypes.POINTER(ctypes.c_int))[0] = self.current
        return 0

    def cuDeviceGetPCIBusId(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = f"0000:{device.value}A:00.0".encode()
        return 0 if self.started else 3


def test_clocks_are_read_twice_and_reasons_of_both_times_are_told() -> None:
    library = FakeNvml()
    watch = ClockWatch(lambda: nvml(library), lambda: BUS_ID)
    watch.start()
    library.mhz, library.bits = {1: 1200, 2: 2619}, 0x4 | 0x20
    watch.stop()
    assert (watch.before.sm_mhz, watch.after.sm_mhz, watch.after.memory_mhz) == (1980, 1200, 2619)
    assert watch.throttling == "software power cap, software thermal slowdown"


def test_an_idle_device_is_not_throttled() -> None:
    watch = ClockWatch(nvml, lambda: BUS_ID)
    watch.start()
    watch.stop()
    assert watch.throttling == "none"


def no_driver() -> Nvml:
    raise BackendUnavailable("no NVIDIA driver")


@pytest.mark.parametrize(
    ("watch", "reason"),
    [
        (ClockWatch(no_driver, lambda: BUS_ID), "no NVIDIA driver"),
        (
            ClockWatch(nvml, lambda: b"0000:FF:00.0"),
            "NVML knows no device at 0000:FF:00.0, where this process computes",
        ),
        (
            ClockWatch(lambda: nvml(FakeNvml(("nvmlDeviceGetCurrentClocksThrottleReasons",))), lambda: BUS_ID),
            "NVML does not tell this of the device",
        ),
    ],
)
def test_clocks_that_cannot_be_read_are_unknown_with_the_reason(watch: ClockWatch, reason: str) -> None:
    watch.start()
    watch.stop()
    assert watch.throttling is None
    assert watch.why_unknown == reason


def test_the_device_is_that_of_the_current_context_or_the_first() -> None:
    assert used_bus_id(lambda: FakeDriver(current=7)) == b"0000:7A:00.0"
    assert used_bus_id(FakeDriver) == b"0000:0A:00.0"


def test_a_process_that_has_not_started_cuda_has_no_device() -> None:
    with pytest.raises(BackendUnavailable, match=r"does not tell which device .* \(error 3\)"):
        used_bus_id(lambda: FakeDriver(started=False))

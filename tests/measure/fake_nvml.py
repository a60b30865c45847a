"""NVML as a machine with one GPU has it, without the GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from unrollbench.measure.gpu import Nvml

BUS_ID = b"0000:1A:00.0"


class FakeNvml:
    """What `pynvml` has of the functions that are asked. `silent` functions raise, as they do on some devices."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    def __init__(self, silent: tuple[str, ...] = (), devices: int = 1) -> None:
        self.silent, self.devices = silent, devices
        self.mhz = {1: 1980, 2: 2619}
        self.bits = 0x1

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.silent:
            raise FakeNvml.NVMLError("Not Supported")
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        return None

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.devices

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13000

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: bytes) -> int:  # noqa: N802
        if bus_id != BUS_ID:
            raise FakeNvml.NVMLError("Not Found")
        return 0

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "Some GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 << 30)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return 9, 0

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return 2000 * kind

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        return self.mhz[kind]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:  # noqa: N802
        return self.bits

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetEccMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return 1, 1

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        return 0, 0


def nvml(library: FakeNvml | None = None) -> Nvml:
    return Nvml(library or FakeNvml())

"""A GPU's clocks right before and after the timed runs, and what held them down."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unrollbench.errors import BackendUnavailable
from unrollbench.measure.gpu import Nvml, load_driver, open_nvml

REASONS = {
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clocks",
}
"""NVML's bits for why clocks are not at their highest. An idle device (0x1) is slow for no other reason: not told."""
BUS_ID_BYTES = 32


def used_bus_id(driver: Callable[[], Any] = load_driver) -> bytes:
    """Where the device sits on which this process computes: that of its current context, or else CUDA's first.

    CUDA_VISIBLE_DEVICES and the order in which CUDA counts make its numbers others than NVML's. Raises
    BackendUnavailable where CUDA was not started in this process.
    """
    cuda, device, name = driver(), ctypes.c_int(), ctypes.create_string_buffer(BUS_ID_BYTES)
    if cuda.cuCtxGetDevice(ctypes.byref(device)):
        device.value = 0
    error = cuda.cuDeviceGetPCIBusId(name, BUS_ID_BYTES, device)
    if error:
        raise BackendUnavailable(f"CUDA does not tell which device this process computes on (error {error})")
    return name.value


@dataclass(frozen=True)
class Clocks:
    """MHz of the multiprocessors and of the memory, and the reasons for lower ones than the highest; None: not told."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    throttling: frozenset[str] | None = None


@dataclass
class ClockWatch:
    """Reads the clocks of the device that this process computes on, when `start` and `stop` are called.

    `why_unknown` is the reason for every figure of the last reading that is None.
    """

    find: Callable[[], Nvml] = open_nvml
    bus_id: Callable[[], bytes] = used_bus_id
    why_unknown: str = "the runs did not end"
    before: Clocks = Clocks()
    after: Clocks = Clocks()

    def start(self) -> None:
        self.before = self._read()

    def stop(self) -> None:
        self.after = self._read()

    @property
    def throttling(self) -> str | None:
        """The reasons seen at either time, separated by commas, or "none"; None if either reading did not tell."""
        if self.before.throttling is None or self.after.throttling is None:
            return None
        return ", ".join(sorted(self.before.throttling | self.after.throttling)) or "none"

    def _read(self) -> Clocks:
        try:
            nvml, bus_id = self.find(), self.bus_id()
        except BackendUnavailable as error:
            self.why_unknown = str(error)
            return Clocks()
        handle = nvml.ask("nvmlDeviceGetHandleByPciBusId", bus_id)
        if handle is None:
            self.why_unknown = f"NVML knows no device at {bus_id.decode()}, where this process computes"
            return Clocks()
        self.why_unknown = "NVML does not tell this of the device"
        bits = nvml.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return Clocks(
            nvml.ask("nvmlDeviceGetClockInfo", handle, nvml.named("NVML_CLOCK_SM")),
            nvml.ask("nvmlDeviceGetClockInfo", handle, nvml.named("NVML_CLOCK_MEM")),
            None if bits is None else frozenset(text for bit, text in REASONS.items() if bits & bit),
        )

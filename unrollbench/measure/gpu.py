"""The machine's GPUs, as NVML (package nvidia-ml-py) tells of them, or the exact reason why CUDA is missing.

NVML does not start CUDA: asking it neither takes memory of a device nor forbids this process to fork.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from unrollbench.errors import BackendUnavailable

DRIVER = "libcuda.so.1"
PACKAGE = "pynvml"
"""What nvidia-ml-py is called where it is imported."""
INSTALL = "install it with: pip install 'unrollbench[cuda]'"


class Nvml:
    """NVML, ready for questions. `library` is the module `pynvml`, initialised."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer of the function of that name, or None where this driver or device does not tell."""
        try:
            return getattr(self.library, question)(*arguments)
        except self.library.NVMLError:
            return None

    def named(self, constant: str) -> Any:
        return getattr(self.library, constant)


def load_driver(name: str = DRIVER) -> ctypes.CDLL:
    """CUDA's driver library. Raises BackendUnavailable."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise BackendUnavailable(
            f"no NVIDIA driver: {error}; install the driver, or run where the GPU is visible"
        ) from error


def open_nvml(driver: Callable[[], object] = load_driver, load: Callable[[str], Any] = importlib.import_module) -> Nvml:
    """NVML with at least one device. Raises BackendUnavailable: no driver, no package, no device."""
    driver()
    try:
        library = load(PACKAGE)
    except ImportError as error:
        raise BackendUnavailable(f"nvidia-ml-py is not installed ({error}); {INSTALL}") from error
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
    except library.NVMLError as error:
        raise BackendUnavailable(f"the NVIDIA driver does not answer: {error}") from error
    if not count:
        raise BackendUnavailable("the NVIDIA driver sees no device")
    return Nvml(library)


def gpu_facts(find: Callable[[], Nvml] = open_nvml) -> tuple[Mapping[str, Any] | None, str]:
    """(the driver, the CUDA version that it supports, and every device by its number, ""), or (None, the reason)."""
    try:
        nvml = find()
    except BackendUnavailable as error:
        return None, str(error)
    cuda = nvml.ask("nvmlSystemGetCudaDriverVersion")
    facts: dict[str, Any] = {
        "driver": nvml.ask("nvmlSystemGetDriverVersion"),
        "cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
    }
    for number in range(nvml.ask("nvmlDeviceGetCount") or 0):
        handle = nvml.ask("nvmlDeviceGetHandleByIndex", number)
        facts[str(number)] = None if handle is None else _device(nvml, handle)
    return facts, ""


def _device(nvml: Nvml, handle: Any) -> Mapping[str, Any]:
    """What of one device stays as it is while it is used; None where the driver does not tell."""
    memory, capability = (
        nvml.ask("nvmlDeviceGetMemoryInfo", handle),
        nvml.ask("nvmlDeviceGetCudaComputeCapability", handle),
    )
    power_mw, ecc, mig = (
        nvml.ask(f"nvmlDeviceGet{what}", handle) for what in ("EnforcedPowerLimit", "EccMode", "MigMode")
    )
    return {
        "name": nvml.ask("nvmlDeviceGetName", handle),
        "memory_bytes": None if memory is None else int(memory.total),
        "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "sm_mhz_max": nvml.ask("nvmlDeviceGetMaxClockInfo", handle, nvml.named("NVML_CLOCK_SM")),
        "memory_mhz_max": nvml.ask("nvmlDeviceGetMaxClockInfo", handle, nvml.named("NVML_CLOCK_MEM")),
        "power_limit_w": None if power_mw is None else power_mw / 1000,
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
    }

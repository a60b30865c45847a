"""What a program asks of a device. `hardware` answers with the driver, `simulator` with NumPy, `ptx` only compiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.tiling import Limits

Host = npt.NDArray[np.generic]
Grid = tuple[int, int]


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched: blocks along x and y, threads, bytes of shared memory."""

    grid: Grid
    block: tuple[int, int, int]
    shared_bytes: int


@dataclass(frozen=True)
class KernelSize:
    """What the compiler and the driver say of one kernel; None where they do not."""

    ptx_bytes: int | None = None
    cubin_bytes: int | None = None
    registers: int | None = None
    local_bytes: int | None = None
    static_shared_bytes: int | None = None


class Compiler(Protocol):
    """Makes device functions and kernels of generated Python."""

    simulated: bool

    def scope(self, dtype: str) -> dict[str, Any]:
        """What generated text may use: `cuda`, `at` (an index that is never negative), ZERO, DTYPE, and ALIGNMENT of
        shared memory; `vector`, `dot` and `exchange` are in `warp`, others in `branches`.
        """

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        """A device function; `inline` for those that are small."""

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        """A kernel, compiled."""

    def signature(self, dtype: str, arguments: str) -> Any:
        """The signature of a kernel with the arguments of that text."""


class Recording(Protocol):
    """A sequence of launches that can be started at once."""

    nodes: int | None

    def replay(self) -> None:
        """Starts it; may return before it is finished."""

    def close(self) -> None:
        """Gives its memory back."""


class Device(Compiler, Protocol):
    """A device with memory and streams. Work goes to the compute stream unless it says otherwise."""

    name: str
    limits: Limits
    memory_bytes: int
    has_tf32: bool

    @property
    def compute_stream(self) -> int:
        """The handle of the compute stream, for libraries that launch on it."""

    def allocate(self, elements: int, dtype: str) -> Any:
        """An uninitialised array. Raises MemoryError if there is no room."""

    def free_bytes(self) -> int:
        """Bytes that nobody has taken yet."""

    def release(self) -> None:
        """Gives the memory of arrays that nobody refers to any more back."""

    def pinned(self, elements: int, dtype: str) -> Host:
        """Host memory that the device copies from and to by itself. Raises MemoryError if there is no room."""

    def upload(self, array: Any, first: int, values: Host) -> None:
        """Copies host values to array[first:], and waits."""

    def download(self, array: Any, first: int, elements: int) -> Host:
        """Copies array[first:first + elements] to new host memory, and waits."""

    def copy_out(self, array: Any, first: int, to: Host) -> None:
        """Starts a copy from the device on the copy stream."""

    def copy_in(self, array: Any, first: int, source: Host) -> None:
        """Starts a copy to the device on the copy stream."""

    def computed(self) -> Any:
        """A mark in the compute stream: what has been started so far."""

    def copied(self) -> Any:
        """A mark in the copy stream: what has been started so far."""

    def compute_waits(self, mark: Any) -> None:
        """What is computed from here on waits for the mark."""

    def copies_wait(self, mark: Any) -> None:
        """What is copied from here on waits for the mark."""

    def bind(self, kernel: Any, launch: Launch) -> Callable[..., None]:
        """What starts the kernel with the arguments that it is called with."""

    def prepare(self, kernel: Any, launch: Launch, cooperative: bool) -> None:
        """Loads the kernel and asks leave for its launch. Raises DeviceLimitError if it cannot be granted."""

    def record(self, issue: Callable[[], None], phases: Phases) -> Recording:
        """What `issue` launches, recorded but not run."""

    def compilations(self, kernel: Any) -> int:
        """How often the kernel has been compiled."""

    def kernel_size(self, kernel: Any) -> KernelSize:
        """What the kernel takes."""

    def synchronize(self) -> None:
        """Returns when everything is finished. Raises what went wrong on the device."""

    def event_s(self, run: Callable[[], None], runs: int, cold: bool) -> tuple[float, ...]:
        """Seconds of each run by the device's own clock."""

    def driver_bytes(self) -> int | None:
        """What the driver says that this process takes of the device."""

    def versions(self) -> Mapping[str, str]:
        """What the device runs on, and its version."""


class DeviceLimitError(RuntimeError):
    """The device does not grant what a kernel needs; the message says what, how much, and what to change."""

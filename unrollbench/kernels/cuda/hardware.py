"""Kernels on an NVIDIA GPU, through numba-cuda and the CUDA driver."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pynvml
from cuda.bindings import driver
from numba import cuda
from numba.cuda.core.errors import NumbaPerformanceWarning
from numba.cuda.cudadrv.driver import CudaAPIError
from numba.cuda.cudadrv.driver import driver as numba_driver

from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.device import DeviceLimitError, Host, KernelSize, Launch
from unrollbench.kernels.cuda.graph import CapturedGraph, checked
from unrollbench.kernels.cuda.jit import Jit
from unrollbench.kernels.cuda.tiling import STATIC_LIMIT_BYTES, Limits

MAX_DYNAMIC_SHARED = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class CudaDevice(Jit):
    """The current device: its first one, unless CUDA_VISIBLE_DEVICES says another.

    Raises numba-cuda's CudaSupportError where there is no driver, and CudaAPIError where it finds no device.
    """

    def __init__(self) -> None:
        self._device = device = cuda.get_current_device()
        self._context = cuda.current_context()
        self._compute, self._copy = cuda.stream(), cuda.stream()
        self._l2: Any = None
        self.name: str = device.name
        self.has_tf32 = device.compute_capability >= (8, 0)
        self.memory_bytes = int(self._context.get_memory_info().total)
        shared = max(int(device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), STATIC_LIMIT_BYTES)
        self.limits = Limits(int(device.MULTIPROCESSOR_COUNT), shared)

    # ------------------------------------------------------------ compiling

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        # Not linked at link time, so that what runs is what `ptx` compiles and the tests read.
        return cuda.jit(signature, lto=False, fastmath=False)(function)

    @staticmethod
    def _compiled(kernel: Any) -> Any:
        """The one overload of a kernel that was compiled for its signature."""
        (compiled,) = kernel.overloads.values()
        return compiled

    def prepare(self, kernel: Any, launch: Launch, cooperative: bool) -> None:
        compiled = self._compiled(kernel)
        function = compiled._codelibrary.get_cufunc()
        name, threads = kernel.py_func.__name__, int(np.prod(launch.block))
        if threads > function.attrs.maxthreads:
            raise DeviceLimitError(
                f"kernel {name} takes {function.attrs.regs} registers, so a block may have {function.attrs.maxthreads} "
                f"threads; its {threads} are too many"
            )
        if launch.shared_bytes > self.limits.shared_bytes:
            raise DeviceLimitError(
                f"kernel {name} wants {launch.shared_bytes} bytes of shared memory per block; the device grants "
                f"{self.limits.shared_bytes}"
            )
        if launch.shared_bytes > STATIC_LIMIT_BYTES:
            numba_driver.cuKernelSetAttribute(MAX_DYNAMIC_SHARED, launch.shared_bytes, function.handle, self._device.id)
        if cooperative:
            self._check_cooperative(compiled, name, launch)

    def _check_cooperative(self, compiled: Any, name: str, launch: Launch) -> None:
        """A grid whose blocks do not all run at once would wait for itself for ever."""
        if not compiled.cooperative:
            raise DeviceLimitError(f"kernel {name} has no grid barrier in it: it would run without one")
        if not self._device.COOPERATIVE_LAUNCH:
            raise DeviceLimitError(f"{self.name} has no cooperative launch, which execution 'dynamic' needs")
        wanted = launch.grid[0] * launch.grid[1]
        granted = compiled.max_cooperative_grid_blocks(launch.block, launch.shared_bytes)
        if wanted > granted:
            raise DeviceLimitError(
                f"kernel {name} wants {wanted} blocks at once, with {launch.shared_bytes} bytes of shared memory each; "
                f"{self.name} runs {granted}"
            )

    # ------------------------------------------------------------ memory

    def allocate(self, elements: int, dtype: str) -> Any:
        with _no_memory(f"{elements * np.dtype(dtype).itemsize} bytes of the device's memory"):
            return cuda.device_array(elements, np.dtype(dtype), stream=self._compute)

    def free_bytes(self) -> int:
        return int(self._context.get_memory_info().free)

    def release(self) -> None:
        self.synchronize()
        self._context.deallocations.clear()  # numba-cuda keeps what is freed until it needs the room

    def pinned(self, elements: int, dtype: str) -> Host:
        with _no_memory(f"{elements * np.dtype(dtype).itemsize} bytes of pinned host memory"):
            return np.asarray(cuda.pinned_array(max(elements, 1), np.dtype(dtype)))[:elements]

    def upload(self, array: Any, first: int, values: Host) -> None:
        if values.size:
            array[first : first + values.size].copy_to_device(values.reshape(-1), stream=self._compute)
            self._compute.synchronize()

    def download(self, array: Any, first: int, elements: int) -> Host:
        host = np.empty(elements, array.dtype)
        if elements:
            array[first : first + elements].copy_to_host(host, stream=self._compute)
            self._compute.synchronize()
        return host

    def copy_out(self, array: Any, first: int, to: Host) -> None:
        array[first : first + to.size].copy_to_host(to, stream=self._copy)

    def copy_in(self, array: Any, first: int, source: Host) -> None:
        array[first : first + source.size].copy_to_device(source, stream=self._copy)

    # ------------------------------------------------------------ streams

    def computed(self) -> Any:
        return self._mark(self._compute)

    def copied(self) -> Any:
        return self._mark(self._copy)

    @staticmethod
    def _mark(stream: Any) -> Any:
        event = cuda.event(timing=False)
        event.record(stream)
        return event

    def compute_waits(self, mark: Any) -> None:
        mark.wait(self._compute)

    def copies_wait(self, mark: Any) -> None:
        mark.wait(self._copy)

    @property
    def compute_stream(self) -> int:
        """The handle of the compute stream, for libraries that launch on it."""
        return int(self._compute.handle)

    # ------------------------------------------------------------ running

    def bind(self, kernel: Any, launch: Launch) -> Callable[..., None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)  # small grids are what is measured here
            configured: Callable[..., None] = kernel[launch.grid, launch.block, self._compute, launch.shared_bytes]
        return configured

    def record(self, issue: Callable[[], None], phases: Phases) -> CapturedGraph:
        with phases.measure("warm"):
            issue()
            self.synchronize()
        with cuda.defer_cleanup():  # what the interpreter lets go of meanwhile may be freed afterwards only
            return CapturedGraph(self.compute_stream, issue, phases)

    def synchronize(self) -> None:
        self._compute.synchronize()
        self._copy.synchronize()

    def event_s(self, run: Callable[[], None], runs: int, cold: bool) -> tuple[float, ...]:
        """Between an event before and one after each run; when cold, the flush lies before the first of them."""
        marks = [(cuda.event(), cuda.event()) for _ in range(runs)]
        for before, after in marks:
            if cold:
                self._flush_l2()
            before.record(self._compute)
            run()
            after.record(self._compute)
        self.synchronize()
        return tuple(before.elapsed_time(after) / 1000 for before, after in marks)

    def _flush_l2(self) -> None:
        """Writes twice what the L2 cache holds, so that nothing of a program is left in it."""
        if self._l2 is None:
            self._l2 = self.allocate(2 * int(self._device.L2_CACHE_SIZE), "uint8")
        pointer = int(self._l2.device_ctypes_pointer.value)
        checked("cuMemsetD8Async", pointer, 0, self._l2.size, driver.CUstream(self.compute_stream))

    # ------------------------------------------------------------ what it says of itself

    def compilations(self, kernel: Any) -> int:
        return len(kernel.overloads)

    def kernel_size(self, kernel: Any) -> KernelSize:
        compiled = self._compiled(kernel)
        library, attributes = compiled._codelibrary, compiled._codelibrary.get_cufunc().attrs
        cubin = library.get_cubin()
        return KernelSize(
            ptx_bytes=len(library.get_asm_str().encode()),
            cubin_bytes=len(cubin.code if hasattr(cubin, "code") else cubin),
            registers=int(attributes.regs),
            local_bytes=int(attributes.local),
            static_shared_bytes=int(attributes.shared),
        )

    def driver_bytes(self) -> int | None:
        """By NVML, which counts processes of this namespace only: None where it does not know this one."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(self._device.uuid)
            used = {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        except pynvml.NVMLError:
            return None
        finally:
            pynvml.nvmlShutdown()
        return used.get(os.getpid())

    def versions(self) -> Mapping[str, str]:
        (number,) = checked("cuDriverGetVersion")
        return {"CUDA driver": f"{number // 1000}.{number % 1000 // 10}"}


@contextmanager
def _no_memory(wanted: str) -> Iterator[None]:
    """The driver's out-of-memory as MemoryError, which the harness records as such."""
    try:
        yield
    except CudaAPIError as error:
        if error.code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError(f"{wanted}: {error}") from error
        raise

"""Kernels in numba-cuda's simulator: Python threads on NumPy arrays. It shows what is computed, never how fast.

A cooperative grid has one block here, and blocks of other kernels run one after the other. Streams are in order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from unrollbench.errors import BackendUnavailable
from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda import branches
from unrollbench.kernels.cuda.device import Host, KernelSize, Launch
from unrollbench.kernels.cuda.tiling import VECTOR_BYTES, Block, Limits, ProductTile
from unrollbench.kernels.source import define, function

EXCHANGE = function(
    "exchange",
    "value, mask",
    [
        "lanes, units = cuda.blockDim.x, cuda.blockDim.y",
        "thread = (cuda.threadIdx.z * units + cuda.threadIdx.y) * lanes + cuda.threadIdx.x",
        "passed[thread] = value",
        "cuda.syncthreads()",
        "found = passed[thread ^ mask]",
        "cuda.syncthreads()",
        "return found",
    ],
)
"""What a shuffle does, between barriers of the block, of which one runs at a time: there are no warps here."""
LIMITS = Limits(processors=1, blocks=2, block=Block(1, 1, 1), rows=4, product=ProductTile(1, 1, 2, 4, 4))
"""A thread per block: a simulated thread is one of Python's, and a barrier of many of them takes milliseconds."""
SWITCH_S = 1e-5
"""How long a Python thread may hold the interpreter: the simulator's own loop polls, and would hold it for 5 ms."""


class Recorded:
    """Launches kept as calls, in order: there is no capture in the simulator."""

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self._calls = calls
        self.nodes: int | None = len(calls)

    def replay(self) -> None:
        for call in self._calls:
            call()

    def close(self) -> None:
        self._calls = []


class Running:
    """What `cuda` is in a kernel that runs, for every function that it calls.

    The simulator replaces `cuda` among the globals of a kernel, here this module's, while it runs; of a device function
    while any one of its threads is in it, which leaves the others without.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(cuda, name)


class SimulatedDevice:
    """A device of one multiprocessor whose memory is the host's."""

    simulated = True
    name = "simulator"
    memory_bytes = 2**28
    has_tf32 = False

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._recording: list[Callable[[], None]] | None = None

    # ------------------------------------------------------------ compiling

    def scope(self, dtype: str) -> dict[str, Any]:
        own: dict[str, Any] = {"vector": _vector, "dot": _dot, "ALIGNMENT": None}
        own |= {each.__name__: each for each in branches.FUNCTIONS}
        scope = {**own, "cuda": Running(), "at": _at, "ZERO": np.dtype(dtype).type(0), "DTYPE": getattr(types, dtype)}
        return {**scope, "exchange": define(EXCHANGE, "exchange", {**scope, "passed": {}})}

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        return function

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        def run(*arguments: Any) -> None:
            function(*arguments)

        return cuda.jit(signature)(run)

    def signature(self, dtype: str, arguments: str) -> Any:
        return None

    # ------------------------------------------------------------ memory

    def allocate(self, elements: int, dtype: str) -> Any:
        # NaN in all that is not written yet, so that whoever reads it is found out.
        fill = np.nan if np.dtype(dtype).kind == "f" else 0
        return cuda.to_device(np.full(max(elements, 1), fill, dtype))

    def free_bytes(self) -> int:
        return self.memory_bytes

    def release(self) -> None:
        """The interpreter has collected it."""

    def pinned(self, elements: int, dtype: str) -> Host:
        return np.zeros(elements, dtype)

    def upload(self, array: Any, first: int, values: Host) -> None:
        array[first : first + values.size] = values.reshape(-1)

    def download(self, array: Any, first: int, elements: int) -> Host:
        return np.array(array[first : first + elements].copy_to_host())

    def copy_out(self, array: Any, first: int, to: Host) -> None:
        to[...] = self.download(array, first, to.size)

    def copy_in(self, array: Any, first: int, source: Host) -> None:
        self.upload(array, first, source)

    def computed(self) -> Any:
        return None

    def copied(self) -> Any:
        return None

    def compute_waits(self, mark: Any) -> None:
        """Everything is in order."""

    def copies_wait(self, mark: Any) -> None:
        """Everything is in order."""

    # ------------------------------------------------------------ running

    def bind(self, kernel: Any, launch: Launch) -> Callable[..., None]:
        def start(*arguments: Any) -> None:
            if self._recording is None:
                self._run(kernel, launch, arguments)
            else:
                self._recording.append(partial(self._run, kernel, launch, arguments))

        return start

    def _run(self, kernel: Any, launch: Launch, arguments: Sequence[Any]) -> None:
        with _often_switching():
            kernel[launch.grid, launch.block, 0, launch.shared_bytes](*arguments)

    def prepare(self, kernel: Any, launch: Launch, cooperative: bool) -> None:
        """Nothing is loaded, and one block is always granted."""

    def record(self, issue: Callable[[], None], phases: Phases) -> Recorded:
        self._recording = calls = []  # type: list[Callable[[], None]]
        try:
            issue()
        finally:
            self._recording = None
        return Recorded(calls)

    def compilations(self, kernel: Any) -> int:
        return 0  # Python runs the kernel's text

    def kernel_size(self, kernel: Any) -> KernelSize:
        return KernelSize()

    def synchronize(self) -> None:
        """A launch returns when it is finished."""

    def event_s(self, run: Callable[[], None], runs: int, cold: bool) -> tuple[float, ...]:
        raise BackendUnavailable("numba_cuda: a simulator's time is not a measurement")

    def driver_bytes(self) -> int | None:
        return None

    @property
    def compute_stream(self) -> int:
        raise BackendUnavailable("numba_cuda: the simulator has no streams that a library could launch on")

    def versions(self) -> Mapping[str, str]:
        return {"CUDA driver": "none: numba-cuda's simulator"}


def _at(index: Any) -> Any:
    """An index, which must not be negative: NumPy would count from the end where a device reads elsewhere."""
    if index < 0:
        raise IndexError(f"a kernel's index is {index}")
    return index


def _vector(array: Any, index: Any) -> tuple[Any, ...]:
    """Raises IndexError where a device would stop: a vector begins at a multiple of its size."""
    count = VECTOR_BYTES // np.dtype(array.dtype).itemsize
    if index % count:
        raise IndexError(f"a vector of {count} elements begins at element {index}")
    return tuple(array[index + place] for place in range(count))


def _dot(total: Any, p: Sequence[Any], q: Sequence[Any]) -> Any:
    for one, other in zip(p, q, strict=True):
        total += one * other
    return total


@contextmanager
def _often_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

"""A grid of several blocks that run at once, which notices every race: what numba-cuda's simulator does not have.

Each thread is one of Python's. Between two barriers that both threads pass, no element may be written by one and
touched by another. Barriers are counted: an access is ordered after another thread's if a barrier of the grid, or of
the block that they share, lies between them. That follows from the kernel alone, not from how the threads were run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from unrollbench.kernels.cuda.device import Launch
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.kernels.cuda.tiling import Limits

LOST_S = 60
"""After so long a barrier is given up: some thread has left without it."""


class RaceError(AssertionError):
    """Two threads touched an element, one of them wrote it, and no barrier lay between."""


@dataclass
class Thread:
    """One thread: its place, and how many barriers it has passed."""

    block: tuple[int, int]
    place: tuple[int, int, int]
    grid_barriers: int = 0
    block_barriers: int = 0


@dataclass(frozen=True)
class Access:
    """Who touched an element, and after how many barriers."""

    thread: Thread
    grid_barriers: int
    block_barriers: int

    def is_before(self, other: Thread) -> bool:
        """Whether a barrier lies between this access and what the thread does now."""
        if self.thread is other or self.grid_barriers < other.grid_barriers:
            return True
        return self.thread.block == other.block and self.block_barriers < other.block_barriers


@dataclass
class Watched:
    """An array that remembers who touched each element last."""

    values: Any
    name: str
    now: Callable[[], Thread]
    lock: Any
    written: dict[int, Access] = field(default_factory=dict)
    read: dict[int, list[Access]] = field(default_factory=dict)

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def __getitem__(self, index: int) -> Any:
        with self.lock:
            own = self._access(index)
            readers = self.read.setdefault(index, [])
            readers[:] = [access for access in readers if not access.is_before(own.thread)] + [own]
            return self.values[index]

    def __setitem__(self, index: int, value: Any) -> None:
        with self.lock:
            own = self._access(index)
            if any(not access.is_before(own.thread) for access in self.read.pop(index, [])):
                raise RaceError(f"{self.name}[{index}] is written where another thread may still read it")
            self.written[index] = own
            self.values[index] = value

    def _access(self, index: int) -> Access:
        thread = self.now()
        last = self.written.get(index)
        if last is not None and not last.is_before(thread):
            raise RaceError(f"{self.name}[{index}] was written by another thread, and no barrier lies between")
        return Access(thread, thread.grid_barriers, thread.block_barriers)


class Grid:
    """The module `cuda` as a kernel of one launch sees it."""

    def __init__(self) -> None:
        self._local = threading.local()
        self.lock = threading.RLock()
        self.failure: BaseException | None = None

    def begin(self, launch: Launch, itemtype: Any) -> list[Thread]:
        """The threads of a launch."""
        self.launch, self._itemtype, self.failure = launch, itemtype, None
        blocks = [(x, y) for y in range(launch.grid[1]) for x in range(launch.grid[0])]
        places = [tuple(reversed(place)) for place in np.ndindex(*reversed(launch.block))]
        self._barriers = {block: threading.Barrier(len(places)) for block in blocks}
        self._all = threading.Barrier(len(blocks) * len(places))
        self._passed: dict[tuple[tuple[int, int], tuple[int, int, int]], Any] = {}
        elements = launch.shared_bytes // np.dtype(itemtype).itemsize
        self._shared = {
            block: Watched(np.full(elements, np.nan, itemtype), f"shared memory of block {block}", self.now, self.lock)
            for block in blocks
        }
        return [Thread(block, place) for block in blocks for place in places]

    def enter(self, thread: Thread) -> None:
        self._local.thread = thread

    def abort(self, failure: BaseException) -> None:
        self.failure = self.failure or failure
        for barrier in (*self._barriers.values(), self._all):
            barrier.abort()

    def now(self) -> Thread:
        thread: Thread = self._local.thread
        return thread

    # ------------------------------------------------------------ what kernels use

    @property
    def threadIdx(self) -> Any:  # noqa: N802 - CUDA's name
        x, y, z = self.now().place
        return SimpleNamespace(x=x, y=y, z=z)

    @property
    def blockIdx(self) -> Any:  # noqa: N802
        x, y = self.now().block
        return SimpleNamespace(x=x, y=y)

    @property
    def gridDim(self) -> Any:  # noqa: N802
        x, y = self.launch.grid
        return SimpleNamespace(x=x, y=y)

    @property
    def shared(self) -> Any:
        return SimpleNamespace(array=lambda size, dtype, alignment=None: self._shared[self.now().block])

    @property
    def cg(self) -> Any:
        return SimpleNamespace(this_grid=lambda: SimpleNamespace(sync=self._sync_grid))

    def syncthreads(self) -> None:
        self._barriers[self.now().block].wait(LOST_S)
        self.now().block_barriers += 1

    def exchange(self, value: Any, mask: int) -> Any:
        """A shuffle, which orders no accesses to memory."""
        own = self.now()
        x, y, z = own.place
        self._passed[own.block, own.place] = value
        self._barriers[own.block].wait()
        found = self._passed[own.block, (x ^ mask, y, z)]
        self._barriers[own.block].wait()
        return found

    def _sync_grid(self) -> None:
        self._all.wait(LOST_S)
        self.now().grid_barriers += 1
        self.now().block_barriers += 1


class GridDevice(SimulatedDevice):
    """A device whose kernels run on a `Grid`. barriers: of the grid, that each launch passed."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.grid = Grid()
        self.barriers: list[int] = []

    def scope(self, dtype: str) -> dict[str, Any]:
        self._dtype = dtype
        return {**super().scope(dtype), "cuda": self.grid, "exchange": self.grid.exchange}

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        return function

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        return function

    def _run(self, kernel: Any, launch: Launch, arguments: Any) -> None:
        threads = self.grid.begin(launch, self._dtype)
        names = kernel.__code__.co_varnames
        known: dict[int, Watched] = {}

        def watched(argument: Any, name: str) -> Any:
            if isinstance(argument, int):
                return argument
            values = argument._ary
            place = values.__array_interface__["data"][0]
            return known.setdefault(place, Watched(values, name, self.grid.now, self.grid.lock))

        given = [watched(argument, name) for argument, name in zip(arguments, names, strict=False)]

        def body(thread: Thread) -> None:
            self.grid.enter(thread)
            try:
                kernel(*given)
            except threading.BrokenBarrierError:
                pass  # another thread has failed, and says why
            except BaseException as error:  # noqa: BLE001 - handed to the thread that launched
                self.grid.abort(error)

        running = [threading.Thread(target=body, args=(thread,)) for thread in threads]
        for each in running:
            each.start()
        for each in running:
            each.join()
        if self.grid.failure is not None:
            raise self.grid.failure
        passed = {thread.grid_barriers for thread in threads}
        if len(passed) > 1:
            raise AssertionError(f"threads passed between {min(passed)} and {max(passed)} barriers of the grid")
        self.barriers.append(passed.pop())

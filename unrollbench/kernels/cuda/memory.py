"""The allocator: what a program has taken of the device, now and at most, and what it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unrollbench.kernels.cuda.device import Device


@dataclass(frozen=True)
class Limit:
    """`device_memory_limit`: bytes, or a fraction of the device's memory; None for no limit. `allow_growth` beside it.

    Without growth all of the limit (or of what is free) is taken at once and given out from there.
    """

    value: int | float | None = None
    allow_growth: bool = True

    def in_bytes(self, device: Device) -> int | None:
        """The limit in bytes."""
        if isinstance(self.value, float):
            return int(self.value * device.memory_bytes)
        return self.value


@dataclass(frozen=True)
class Taken:
    """An array that was given out, and its bytes. first, end: its elements of the pool; end is 0 where it has none."""

    array: Any
    size: int
    first: int = 0
    end: int = 0


class Allocator:
    """Arrays on a device, accounted for in bytes: `now` and `peak`. Raises MemoryError before the limit is passed."""

    def __init__(self, device: Device, limit: Limit, dtype: str) -> None:
        self.device, self.limit_bytes = device, limit.in_bytes(device)
        self.now = self.peak = 0
        self._taken: list[Taken] = []
        self._freed = False
        self._pool: Any = None
        self._itemsize = np.dtype(dtype).itemsize
        if not limit.allow_growth:
            self._take_all(dtype)

    def _take_all(self, dtype: str) -> None:
        # A sixteenth of what is free stays with the driver, for code and for its own allocations.
        wanted = self.limit_bytes if self.limit_bytes is not None else self.device.free_bytes() * 15 // 16
        elements = wanted // self._itemsize
        self._pool, self._pool_dtype = self.device.allocate(elements, dtype), dtype
        self._pool_elements = elements
        self._account(elements * self._itemsize)

    def _account(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def allocate(self, elements: int, dtype: str, what: str) -> Any:
        """An uninitialised array of the device. `what` it is for, in the error's words."""
        size = max(elements, 1) * np.dtype(dtype).itemsize
        if self._pool is not None and dtype == self._pool_dtype:
            return self._from_pool(elements, size, what)
        # Beside a pool only the few integers of the frames are allocated: the pool is the limit.
        if self._pool is None and self.limit_bytes is not None and self.now + size > self.limit_bytes:
            raise MemoryError(
                f"device_memory_limit = {self.limit_bytes} bytes: {self.now} are in use and {size} more are wanted "
                f"for {what}"
            )
        if self._freed:  # the device itself has to have back what is counted as free here
            self.device.release()
            self._freed = False
        array = self.device.allocate(max(elements, 1), dtype)
        self._taken.append(Taken(array, size))
        self._account(size)
        return array

    def _from_pool(self, elements: int, size: int, what: str) -> Any:
        """The first part of the pool that nobody has and that is large enough."""
        step, first = 256 // self._itemsize, 0
        wanted = -(-max(elements, 1) // step) * step
        within = sorted((taken.first, taken.end) for taken in self._taken if taken.end)
        for start, end in [*within, (self._pool_elements, self._pool_elements)]:
            if first + wanted <= start:
                break
            first = end
        else:
            used = sum(end - start for start, end in within)
            raise MemoryError(
                f"allow_growth = False took {self._pool_elements * self._itemsize} bytes at build: "
                f"{used * self._itemsize} are in use and {size} more are wanted for {what}"
            )
        array = self._pool[first : first + max(elements, 1)]
        self._taken.append(Taken(array, size, first, first + wanted))
        return array

    def free(self, array: Any) -> None:
        """An array's room can be given out again, once the caller has let go of it too."""
        (place,) = (place for place, taken in enumerate(self._taken) if taken.array is array)
        taken = self._taken.pop(place)
        if not taken.end:
            self.now -= taken.size
        self._freed = True

    def close(self) -> None:
        """Gives everything back, as soon as those who asked for it have let go of it."""
        self._taken, self._pool, self.now = [], None, 0
        self.device.release()

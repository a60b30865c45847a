"""Saved activations in pinned host memory: windows leave on the copy stream and return before they are needed.

    forward     compute   w0   w1   w2   w3   w4            two places on the device, used in turn;
                copy           >w0  >w1  >w2                the last two windows stay where they are
    backward    compute   w4   w3   w2   w1   w0
                copy           <w2  <w1  <w0

A window may be overwritten when its copy out has finished, and be used when its copy in has: marks of the streams say
so, and the host waits for nothing.
"""

from __future__ import annotations

from typing import Any

from unrollbench.kernels.cuda.device import Device, Host

PLACES = 2
"""Windows on the device at a time: one is computed while the other one is copied."""


class Windows:
    """The places of windows in `m` and their copies on the host; `elements` of one window, `first` is the first's."""

    def __init__(self, device: Device, first: int, elements: int, windows: int, dtype: str) -> None:
        self._device, self._dtype = device, dtype
        self._room = self._host = device.pinned(0, dtype)
        self._m: Any = None
        self._out: dict[int, Any] = {}
        self._in: dict[int, Any] = {}
        self._done: dict[int, Any] = {}
        self.resize(first, elements, windows)

    def resize(self, first: int, elements: int, windows: int) -> None:
        """The host has room for so many windows, or MemoryError is raised and it has room for none."""
        self._first, self._elements, self._count = first, elements, windows
        wanted = max(windows - PLACES, 0) * elements
        if wanted > self._room.size:
            self._room = self._host = self._device.pinned(0, self._dtype)
            self._device.release()  # before there is anything new, so that both are never there at once
            self._room = self._device.pinned(wanted, self._dtype)
        self._host = self._room[:wanted].reshape(-1, max(elements, 1))

    def let_go(self) -> None:
        """Nothing here refers to the device's array any more."""
        self._m = None

    @property
    def host_bytes(self) -> int:
        """Pinned bytes of the host: what the longest call needed is kept."""
        return self._room.nbytes

    def begin(self, m: Any, count: int) -> None:
        """A run of `count` windows begins on that array."""
        self._m, self._count = m, count

    def base(self, number: int) -> int:
        """What to add to the first place to find a window's."""
        return number % PLACES * self._elements

    def _copied(self, number: int) -> bool:
        """Whether the window leaves at all: the last ones are still there when the backward pass begins."""
        return 0 <= number < self._count - PLACES

    def _own(self, number: int) -> Host:
        return self._host[number]

    def place_is_free(self, number: int) -> None:
        """The window's place may be written: the one before it there has left."""
        if self._copied(number - PLACES):
            self._device.compute_waits(self._out[number - PLACES])

    def swap_out(self, number: int) -> None:
        """The window, computed, leaves."""
        if self._copied(number):
            self._device.copies_wait(self._device.computed())
            self._device.copy_out(self._m, self._first + self.base(number), self._own(number))
            self._out[number] = self._device.copied()

    def swap_in_ahead(self, number: int) -> None:
        """The window returns to its place as soon as the one there is done."""
        if self._copied(number):
            self._device.copies_wait(self._done[number + PLACES])
            self._device.copy_in(self._m, self._first + self.base(number), self._own(number))
            self._in[number] = self._device.copied()

    def swap_in(self, number: int) -> None:
        """The window may be used."""
        if self._copied(number):
            self._device.compute_waits(self._in[number])

    def place_is_done(self, number: int) -> None:
        """The backward pass has used the window."""
        self._done[number] = self._device.computed()

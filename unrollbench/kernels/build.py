"""Compiles a network's drivers to machine code and says what the build cost: typing, LLVM, bytes of code."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numba import types
from numba.core import event
from numba.core.ccallback import CFunc

LOWERING = ("native_lowering", "nopython_backend", "native_parfor_lowering")
"""Numba passes that produce machine code; all others turn bytecode into typed Numba IR."""


@dataclass(frozen=True)
class Compiled:
    """A C function void(int64) at `address`; the object keeps its machine code alive."""

    name: str
    function: CFunc

    @property
    def address(self) -> int:
        return int(self.function.address)

    def code_bytes(self) -> int | None:
        """Bytes of executable code, everything that it calls included; None where the object format is not ELF."""
        return _text_bytes(self.function._library._get_compiled_object())


def compile_driver(name: str, driver: Callable[[int], None]) -> Compiled:
    """The driver and all that it calls, as machine code that any thread may run without the interpreter's lock."""
    function = CFunc(driver, ((types.intp,), types.void), {}, {"error_model": "numpy"})
    function.compile()
    return Compiled(name, function)


class Phases:
    """Seconds by phase of a build; `measure` adds to one, nested uses count for the inner phase only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time spent inside, less what nested measures took."""
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            self._inner[-1] += elapsed

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Splits Numba's work inside into "typing" (bytecode to typed IR) and "llvm" (lowering, optimisation, machine code)."""
        with self.measure("llvm"), event.install_listener("numba:run_pass", _PassListener(self)):
            yield


class _PassListener(event.Listener):
    """Books every Numba pass that is not lowering to "typing"; passes nest, since typing a call compiles the callee."""

    def __init__(self, phases: Phases) -> None:
        self._phases, self._open = phases, []  # type: tuple[Phases, list[Any]]

    def on_start(self, event: Any) -> None:
        name = "llvm" if event.data["name"].split(" ")[0] in LOWERING else "typing"
        self._open.append(self._phases.measure(name))
        self._open[-1].__enter__()

    def on_end(self, event: Any) -> None:
        self._open.pop().__exit__(None, None, None)


def _text_bytes(elf: bytes) -> int | None:
    """Total size of the executable sections of a 64-bit little-endian ELF object."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return None
    (section_offset,) = struct.unpack_from("<Q", elf, 0x28)
    entry_size, count = struct.unpack_from("<HH", elf, 0x3A)
    total, executable = 0, 0x4
    for index in range(count):
        at = section_offset + index * entry_size
        (flags,) = struct.unpack_from("<Q", elf, at + 8)
        (size,) = struct.unpack_from("<Q", elf, at + 32)
        total += size if flags & executable else 0
    return int(total)

"""Compiles kernels to machine code and says what the build cost: typing, LLVM, bytes of code."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from llvmlite import ir
from numba import types
from numba.core import event
from numba.core.ccallback import CFunc

from unrollbench.kernels.words import operation

LOWERING = ("native_lowering", "nopython_backend", "native_parfor_lowering")
"""Numba passes that produce machine code; all others turn bytecode into typed Numba IR."""


class Kernel:
    """A compiled C function void(int64, ...), callable from other kernels through `call`.

    Kernels call each other by address and are never linked into one another: each is optimised once, however often it
    is called, so a program of a thousand steps builds in the time of one step and a thousand call instructions.
    """

    compiled: ClassVar[int] = 0
    """Kernels that this process has compiled so far."""

    def __init__(self, name: str, function: Callable[..., None], arguments: int, uses: Iterable[Kernel] = ()) -> None:
        self.name, self.uses = name, tuple(uses)
        Kernel.compiled += 1
        self._compiled: Any = CFunc(function, ((types.intp,) * arguments, types.void), {}, {"error_model": "numpy"})
        self._compiled.compile()
        self.call = _call_by_address(self.address, arguments)

    @property
    def address(self) -> int:
        return int(self._compiled.address)

    @property
    def code_bytes(self) -> int | None:
        """Bytes of this kernel's machine code, callees not included; None where the object format is not ELF."""
        return _executable_bytes(self._compiled._library._get_compiled_object())

    def reachable(self) -> set[Kernel]:
        """This kernel and all that it calls, directly or not."""
        return {self}.union(*(kernel.reachable() for kernel in self.uses))


def _call_by_address(address: int, arguments: int) -> Any:
    """An operation with that many integer arguments that calls the C function at `address`."""

    def emit(builder: Any, *args: Any) -> None:
        word = ir.IntType(64)
        target = ir.FunctionType(ir.VoidType(), [word] * arguments).as_pointer()
        builder.call(builder.inttoptr(ir.Constant(word, address), target), args)

    return operation(emit, [f"a{index}" for index in range(arguments)])


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
        """Splits Numba's work inside into "typing" (bytecode to typed IR) and "llvm" (from there to machine code)."""
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


def _executable_bytes(elf: bytes) -> int | None:
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

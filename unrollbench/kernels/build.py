"""Compiles kernels to machine code and says what the build cost: writing instructions, LLVM, bytes of code."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from llvmlite import binding, ir
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock

from unrollbench.kernels import host
from unrollbench.kernels.words import Emit

I64 = ir.IntType(64)


class _Library(JITCodeLibrary):
    """Numba's library of code with few of LLVM's passes.

    Kernels are written in vector instructions, so what is left to do is to put variables into registers and to order
    loops and addresses. All that LLVM does at its level 2 took near half of a build, for code that was no faster.
    """

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = str(self.codegen.target_data)

    def _optimize_final_module(self) -> None:
        passes = binding.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        passes.add_loop_rotate_pass()
        passes.add_instruction_combine_pass()
        if host.vector_unit().registers < 32:  # tiles have so few multiply-adds that a loop's own instructions count
            passes.add_loop_unroll_pass()
        passes.add_simplify_cfg_pass()
        builder = binding.create_pass_builder(self.codegen._tm, binding.create_pipeline_tuning_options())
        passes.run(self._final_module, builder)


class _CodeGenerator(JITCPUCodegen):
    """Numba's generator of machine code for this processor."""

    _library_class = _Library


@cache
def _code_generator() -> _CodeGenerator:
    binding.initialize_native_asmparser()  # for assembly statements, of which Numba has none
    return _CodeGenerator("unrollbench")


class Kernel:
    """A compiled C function void(int64, ...), callable from other kernels through `call`.

    Kernels call each other by address and are never linked into one another: each is optimised once, however often it
    is called, so a program of a thousand steps builds in the time of one step and a thousand call instructions.

    emit(builder, *arguments) writes the function's instructions.
    """

    compiled: ClassVar[int] = 0
    """Kernels that this process has compiled so far."""
    emission_s: ClassVar[float] = 0.0
    """Seconds that this process has spent on writing the instructions of kernels so far."""

    def __init__(self, name: str, emit: Emit, arguments: int, uses: Iterable[Kernel] = ()) -> None:
        self.name, self.arguments, self.uses = name, arguments, tuple(uses)
        with global_compiler_lock:
            Kernel.compiled += 1
            symbol = f"{name}.{Kernel.compiled}"
            self._library: Any = _code_generator().create_library(symbol)
            self._library.enable_object_caching()
            module = self._library.create_ir_module(symbol)
            started = time.perf_counter()
            function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), symbol)
            function.attributes.add("nounwind")
            builder = ir.IRBuilder(function.append_basic_block("entry"))
            emit(builder, *function.args)
            builder.ret_void()
            Kernel.emission_s += time.perf_counter() - started
            self._library.add_ir_module(module)
            self._library.finalize()
        self.address = int(self._library.get_pointer_to_function(symbol))

    @property
    def code_bytes(self) -> int | None:
        """Bytes of this kernel's machine code, callees not included; None where the object format is not ELF."""
        return _executable_bytes(self._library._get_compiled_object())

    def call(self, builder: Any, *args: Any) -> None:
        """Emits a call of this kernel.

        Raises TypeError where the arguments are not as many as the kernel has.
        """
        if len(args) != self.arguments:
            raise TypeError(f"kernel {self.name}: called with {len(args)} arguments, but it has {self.arguments}")
        target = ir.FunctionType(ir.VoidType(), [I64] * self.arguments).as_pointer()
        builder.call(builder.inttoptr(ir.Constant(I64, self.address), target), args)

    @property
    def listing(self) -> str:
        """Its machine code as assembly."""
        return str(self._library.get_asm_str())

    def reachable(self) -> set[Kernel]:
        """This kernel and all that it calls, directly or not."""
        return {self}.union(*(kernel.reachable() for kernel in self.uses))


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
        """Splits the time inside into "codegen" (writing the instructions of kernels) and "llvm" (all else)."""
        before = Kernel.emission_s
        try:
            with self.measure("llvm"):
                yield
        finally:
            spent = Kernel.emission_s - before
            self.seconds["codegen"] = self.seconds.get("codegen", 0.0) + spent
            self.seconds["llvm"] -= spent


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

"""Words and bytes by address: what frames are read with, and what threads wait on and call each other through.

Each is an `Emit`: kernel text calls it by its name, with all arguments but the builder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from unrollbench.kernels import host

I64 = ir.IntType(64)
LINE_BYTES = 64
"""Of a line of a cache, on nearly all hosts."""
Emit = Callable[..., Any]
"""emit(builder, *values): writes instructions on int64 values, and returns the int64 that they leave, if any."""


def pointer(builder, address):
    """The integer `address` as an LLVM pointer."""
    return builder.inttoptr(address, ir.PointerType())


def at(builder, place, offset):
    """The LLVM pointer so many bytes past another, a number."""
    return builder.gep(place, [ir.Constant(I64, offset)], source_etype=ir.IntType(8))


def peek(builder, address, offset):
    """The int64 `offset` bytes past `address`."""
    return builder.load(pointer(builder, builder.add(address, offset)), align=8, typ=I64)


def put(builder, address, value):
    """Writes an int64 for this thread to read."""
    builder.store(value, pointer(builder, address), align=8)


def room(count):
    """An `Emit` for the address of so many words that last as long as the call."""

    def emit(builder):
        with builder.goto_entry_block():
            words = builder.alloca(ir.ArrayType(I64, count))  # cgutils.alloca_once would clear it in every call
        return builder.ptrtoint(words, I64)

    return emit


def copy_bytes(builder, destination, origin, count):
    """Copies `count` bytes; the two must not overlap."""
    cgutils.raw_memcpy(builder, pointer(builder, destination), pointer(builder, origin), count, 1)


def clear_bytes(builder, destination, count):
    """Clears `count` bytes."""
    cgutils.memset(builder, pointer(builder, destination), count, 0)


def ask(builder, address):
    """Asks for the line at an address, which another core may have written, without waiting for it."""
    prefetch(builder, pointer(builder, address), 1)


def prefetch(builder, place, level, *, writes=False):
    """Asks for the line at an LLVM pointer, in the cache of that level: for reading, or for writing as well."""
    word = ir.IntType(32)
    function = ir.FunctionType(ir.VoidType(), [ir.PointerType(), word, word, word])
    asked = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(asked, [place, *(ir.Constant(word, value) for value in (int(writes), 4 - level, 1))])


def poke(builder, address, value):
    """Writes an int64, visible to other threads after everything written before it."""
    builder.store_atomic(value, builder.inttoptr(address, I64.as_pointer()), ordering="release", align=8)


def watch(builder, address):
    """The int64 as another thread last wrote it; what that thread wrote before is visible afterwards."""
    return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), ordering="acquire", align=8)


def add_atomic(builder, address, value):
    """Adds to the int64 and returns what it was before; orders memory both ways."""
    return builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), value, ordering="acq_rel")


def pause(builder):
    """Tells the core that this is a spin loop, where the instruction set has a way to."""
    if host.is_x86():
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])


def call(builder, function, argument):
    """Calls the C function at that address with one int64 argument."""
    target = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()
    builder.call(builder.inttoptr(function, target), [argument])


def c_function(name, arguments):
    """An `Emit` that calls a function of the C library, with arguments of those LLVM types, which returns an int."""

    def emit(builder, *values):
        function = ir.FunctionType(ir.IntType(32), arguments)
        target = cgutils.get_or_insert_function(builder.module, function, name)
        passed = [value if ty == I64 else builder.trunc(value, ty) for value, ty in zip(values, arguments, strict=True)]
        return builder.sext(builder.call(target, passed), I64)

    return emit

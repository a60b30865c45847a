"""Words and bytes by address: what frames are read with, and what threads wait on and call each other through."""

from __future__ import annotations

import inspect

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from unrollbench.kernels import host
from unrollbench.kernels.source import define

I64 = ir.IntType(64)


def pointer(builder, address):
    """The integer `address` as an LLVM pointer."""
    return builder.inttoptr(address, ir.PointerType())


def operation(emit, names=None, *, returns=False):
    """Instructions on int64 values, which Numba's functions and kernels' text can call.

    emit(builder, *values) builds them, and returns an int64 if `returns`; `lowering` calls it by the attribute `emit`.
    names: of the values, where they are not those of emit's own arguments.
    """
    names = list(inspect.signature(emit).parameters)[1:] if names is None else list(names)
    typed = (types.int64 if returns else types.void)(*[types.intp] * len(names))

    def codegen(context, builder, sig, args):
        value = emit(builder, *args)
        return value if returns else context.get_dummy_value()

    text = f"def function(typing_context, {', '.join(names)}):\n    return signature, codegen\n"
    made = intrinsic(define(text, "function", {"signature": typed, "codegen": codegen}))
    made.emit = emit
    return made


def _peek(builder, address, offset):
    return builder.load(pointer(builder, builder.add(address, offset)), align=8, typ=I64)


peek = operation(_peek, returns=True)
"""peek(address, offset): the int64 `offset` bytes past `address`."""


def _copy_bytes(builder, destination, origin, count):
    cgutils.raw_memcpy(builder, pointer(builder, destination), pointer(builder, origin), count, 1)


copy_bytes = operation(_copy_bytes)
"""copy_bytes(destination, origin, count): copies `count` bytes; the two must not overlap."""


def _poke(builder, address, value):
    builder.store_atomic(value, builder.inttoptr(address, I64.as_pointer()), ordering="release", align=8)


poke = operation(_poke)
"""poke(address, value): writes an int64, visible to other threads after everything written before it."""


def _watch(builder, address):
    return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), ordering="acquire", align=8)


watch = operation(_watch, returns=True)
"""watch(address): the int64 as another thread last wrote it; what that thread wrote before is visible afterwards."""


def _add_atomic(builder, address, value):
    return builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), value, ordering="acq_rel")


add_atomic = operation(_add_atomic, returns=True)
"""add_atomic(address, value): adds to the int64 and returns what it was before; orders memory both ways."""


def _pause(builder):
    if host.is_x86():
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])


pause = operation(_pause)
"""pause(): tells the core that this is a spin loop, where the instruction set has a way to."""


def _call(builder, function, argument):
    target = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()
    builder.call(builder.inttoptr(function, target), [argument])


call = operation(_call)
"""call(function, argument): calls the C function at that address with one int64 argument."""

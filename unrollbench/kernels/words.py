"""Words and bytes by address: what frames are read with, and what threads wait on and call each other through."""

from __future__ import annotations

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


def on_addresses(names, codegen):
    """An intrinsic of integer arguments of those names, which returns nothing."""
    typed = types.void(*[types.intp] * len(names))
    text = f"def function(typing_context, {', '.join(names)}):\n    return signature, codegen\n"
    return intrinsic(define(text, "function", {"signature": typed, "codegen": codegen}))


@intrinsic
def peek(typing_context, address, offset):
    """The int64 `offset` bytes past `address`."""

    def codegen(context, builder, sig, args):
        return builder.load(pointer(builder, builder.add(*args)), align=8, typ=I64)

    return types.int64(types.intp, types.intp), codegen


@intrinsic
def copy_bytes(typing_context, destination, origin, count):
    """Copies `count` bytes; the two must not overlap."""

    def codegen(context, builder, sig, args):
        cgutils.raw_memcpy(builder, pointer(builder, args[0]), pointer(builder, args[1]), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def poke(typing_context, address, value):
    """Writes the int64 `value` to `address`, visible to other threads after everything written before it."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], I64.as_pointer()), ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def watch(typing_context, address):
    """The int64 at `address` as another thread last wrote it; what that thread wrote before is visible afterwards."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), ordering="acquire", align=8)

    return types.int64(types.intp), codegen


@intrinsic
def add_atomic(typing_context, address, value):
    """Adds to the int64 at `address` and returns what it was before; orders memory both ways."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], I64.as_pointer()), args[1], ordering="acq_rel")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def pause(typing_context):
    """Tells the core that this is a spin loop, where the instruction set has a way to."""

    def codegen(context, builder, sig, args):
        if host.is_x86():
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call(typing_context, function, argument):
    """Calls the C function at address `function` with one int64 argument."""

    def codegen(context, builder, sig, args):
        target = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()
        builder.call(builder.inttoptr(args[0], target), [args[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen

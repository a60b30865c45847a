"""A Numba type for one vector register, and the operations that kernels and cells use on it.

The width follows the host (64 bytes with AVX-512, 32 with AVX, otherwise 16), so one source serves all of them: LLVM
splits or pads where the host has less. Numba compiles with no fast-math flags here: NaN and infinities behave as IEEE
754 says. A Vector may also span several registers: what is written once then runs on each of them in turn, instruction
by instruction, which keeps the core's units busy where one chain of dependent instructions cannot. Nothing in this
file knows about recurrent networks.
"""

from __future__ import annotations

import operator
from functools import cache

from llvmlite import ir
from numba import types
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast

from unrollbench.kernels import host
from unrollbench.kernels.words import pointer

I64 = ir.IntType(64)


class Vector(types.Type):
    """`lanes` elements of a float type in one register, or in several."""

    def __init__(self, element: types.Float, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"vector({element.name}x{lanes})")


@cache
def vector(dtype: str, registers: int = 1) -> Vector:
    """As many of the host's full-width vectors of dtype "float32" or "float64", side by side."""
    return Vector(getattr(types, dtype), registers * host.lanes(dtype))


def llvm_vector(ty: Vector) -> ir.VectorType:
    """The LLVM type of a Vector."""
    return ir.VectorType(ir.FloatType() if ty.element.bitwidth == 32 else ir.DoubleType(), ty.lanes)


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_vector(fe_type))


# ---------------------------------------------------------------- arithmetic


def splat(builder, scalar, llvm_type):
    """The scalar in every lane."""
    undefined = ir.Constant(llvm_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, undefined, mask)


@lower_cast(types.Float, Vector)
def _float_to_vector(context, builder, from_type, to_type, value):
    return splat(builder, context.cast(builder, value, from_type, to_type.element), llvm_vector(to_type))


def _binary(function, instruction):
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vector)]
            if len(args) == 2 and vectors and all(isinstance(a, Vector) or a == vectors[0].element for a in args):
                return signature(vectors[0], vectors[0], vectors[0])
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
):
    _binary(_function, _instruction)


@infer_global(operator.neg)
class _NegTyping(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _neg(context, builder, sig, args):
    return builder.fneg(args[0])


# ---------------------------------------------------------------- parts, and memory by address


def _shuffled(builder, first, second, lanes):
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(first, second, mask)


def parts(builder, value, lanes):
    """The registers that a value of several consists of, in order, `lanes` elements each."""
    if value.type.count == lanes:
        return [value]
    undefined = ir.Constant(value.type, ir.Undefined)
    return [
        _shuffled(builder, value, undefined, range(first, first + lanes)) for first in range(0, value.type.count, lanes)
    ]


def joined(builder, registers):
    """The inverse of `parts`."""
    whole, lanes = registers[0], registers[0].type.count
    for register in registers[1:]:
        count = whole.type.count
        undefined = ir.Constant(register.type, ir.Undefined)
        widened = _shuffled(builder, register, undefined, [min(lane, lanes - 1) for lane in range(count)])
        whole = _shuffled(builder, whole, widened, range(count + lanes))
    return whole


@cache
def memory(dtype: str, registers: int = 1):
    """(load, store, zero) for vectors of that many registers, each `stride` bytes after the one before it.

    load(address, stride) -> vector; store(address, stride, vector); zero() -> vector. Addresses and strides are
    integers and need no alignment beyond the element's.
    """
    ty, one = vector(dtype, registers), vector(dtype)
    align, part = ty.element.bitwidth // 8, llvm_vector(one)

    def places(builder, address, stride):
        start = pointer(builder, address)
        offsets = [builder.mul(stride, ir.Constant(I64, index)) for index in range(registers)]
        return [builder.gep(start, [offset], source_etype=ir.IntType(8)) for offset in offsets]

    @intrinsic
    def load(typing_context, address, stride):
        def codegen(context, builder, sig, args):
            return joined(builder, [builder.load(place, align=align, typ=part) for place in places(builder, *args)])

        return ty(types.intp, types.intp), codegen

    @intrinsic
    def store(typing_context, address, stride, value):
        def codegen(context, builder, sig, args):
            address, stride, value = args
            for place, register in zip(places(builder, address, stride), parts(builder, value, one.lanes), strict=True):
                builder.store(register, place, align=align)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, ty), codegen

    @intrinsic
    def zero(typing_context):
        def codegen(context, builder, sig, args):
            return ir.Constant(llvm_vector(ty), [0.0] * ty.lanes)

        return ty(), codegen

    return load, store, zero

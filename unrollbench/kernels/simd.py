"""A Numba type for one vector register, and the operations that kernels and cells use on it.

The width follows the host (64 bytes with AVX-512, 32 with AVX, otherwise 16), so one source serves all of them: LLVM
splits or pads where the host has less. Numba compiles with no fast-math flags here: NaN and infinities behave as IEEE
754 says. Nothing in this file knows about recurrent networks.
"""

from __future__ import annotations

import operator
from functools import cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast

from unrollbench.cells import functions
from unrollbench.kernels import host
from unrollbench.kernels.words import pointer

I64 = ir.IntType(64)


class Vector(types.Type):
    """`lanes` elements of a float type in one register."""

    def __init__(self, element: types.Float, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"vector({element.name}x{lanes})")


@cache
def vector(dtype: str) -> Vector:
    """The host's full-width vector of dtype "float32" or "float64"."""
    return Vector(getattr(types, dtype), host.lanes(dtype))


def _llvm(ty: Vector) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if ty.element.bitwidth == 32 else ir.DoubleType(), ty.lanes)


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _llvm(fe_type))


# ---------------------------------------------------------------- arithmetic


def _splat(builder, scalar, llvm_type):
    undefined = ir.Constant(llvm_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, undefined, mask)


@lower_cast(types.Float, Vector)
def _float_to_vector(context, builder, from_type, to_type, value):
    return _splat(builder, context.cast(builder, value, from_type, to_type.element), _llvm(to_type))


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


# ---------------------------------------------------------------- memory, by address


@cache
def memory(dtype: str):
    """(load, store, zero) for `dtype`: load(address) -> vector, store(address, vector), zero() -> vector.

    Addresses are integers and need no alignment beyond the element's.
    """
    ty = vector(dtype)
    align = ty.element.bitwidth // 8

    @intrinsic
    def load(typing_context, address):
        def codegen(context, builder, sig, args):
            return builder.load(pointer(builder, args[0]), align=align, typ=_llvm(ty))

        return ty(types.intp), codegen

    @intrinsic
    def store(typing_context, address, value):
        def codegen(context, builder, sig, args):
            builder.store(args[1], pointer(builder, args[0]), align=align)
            return context.get_dummy_value()

        return types.void(types.intp, ty), codegen

    @intrinsic
    def zero(typing_context):
        def codegen(context, builder, sig, args):
            return ir.Constant(_llvm(ty), [0.0] * ty.lanes)

        return ty(), codegen

    return load, store, zero


# ---------------------------------------------------------------- the register tile of a matrix product


def _emit_tile(builder, ty, rows, offsets, operands):
    """Instructions of the register tile that `tile` describes; operands are its arguments."""
    count, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row = operands
    llvm_type, size = _llvm(ty), ty.element.bitwidth // 8
    name = f"llvm.fmuladd.v{ty.lanes}f{ty.element.bitwidth}"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(llvm_type, [llvm_type] * 3), name)
    cells = [(r, c) for r in range(rows) for c in range(len(offsets))]

    def at(address, byte_offset):
        return builder.gep(address, [byte_offset], source_etype=ir.IntType(8))

    def times(stride, index):
        return builder.mul(stride, ir.Constant(I64, index))

    def cell_at(address, stride, r, c):
        return at(address, builder.add(times(stride, r), ir.Constant(I64, offsets[c])))

    start, out, first_a, first_w = (pointer(builder, address) for address in (start, out, a, w))
    initial = [builder.load(cell_at(start, start_row, r, c), align=size, typ=llvm_type) for r, c in cells]
    entry, body, done = (
        builder.basic_block,
        builder.append_basic_block("tile.body"),
        builder.append_basic_block("tile.done"),
    )
    zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
    builder.cbranch(builder.icmp_signed(">", count, zero), body, done)

    builder.position_at_end(body)
    k, a_at, w_at = builder.phi(I64), builder.phi(ir.PointerType()), builder.phi(ir.PointerType())
    sums = [builder.phi(llvm_type) for _ in cells]
    weights = [builder.load(at(w_at, times(w_column, c)), align=size, typ=llvm_type) for c in range(len(offsets))]
    updated = []
    for r in range(rows):
        scalar = builder.load(at(a_at, times(a_row, r)), align=size, typ=llvm_type.element)
        spread = _splat(builder, scalar, llvm_type)
        updated += [builder.call(fma, [spread, w_c, sums[r * len(offsets) + c]]) for c, w_c in enumerate(weights)]
    following = builder.add(k, one)
    loop = [(k, zero, following), (a_at, first_a, at(a_at, a_k)), (w_at, first_w, at(w_at, w_k))]
    for phi, before, after in (*loop, *zip(sums, initial, updated, strict=True)):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, done)

    builder.position_at_end(done)
    results = [builder.phi(llvm_type) for _ in cells]
    for result, before, after in zip(results, initial, updated, strict=True):
        result.add_incoming(before, entry)
        result.add_incoming(after, body)
    for (r, c), result in zip(cells, results, strict=True):
        builder.store(result, cell_at(out, out_row, r, c), align=size)


@cache
def tile(dtype: str, rows: int, offsets: tuple[int, ...]):
    """A function that multiplies a tile held in rows * columns registers, columns = len(offsets):

        for r in range(rows):
            for c in range(columns):
                out[r, c] = start[r, c] + sum(a[r, k] * w[c, k] for k in range(K))

    where a[r, k] is one element and w[c, k], start[r, c], out[r, c] are one vector each. Per k it reads rows elements
    and columns vectors and does rows * columns vector multiply-adds.

    Arguments, all integers: K; the address of a and its strides over r and k; of w and its strides over c and k; of
    start and of out, each with a stride over r (column c lies at offsets[c]). Strides and offsets are in bytes. `start`
    may be `out`, and with stride 0 a row that all rows share (a bias).
    """
    ty = vector(dtype)

    def codegen(context, builder, sig, args):
        _emit_tile(builder, ty, rows, offsets, args)
        return context.get_dummy_value()

    @intrinsic
    def product(typing_context, count, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row):
        return types.void(*[types.intp] * 11), codegen

    return product


@cache
def accumulate(dtype: str, rows: int, offsets: tuple[int, ...], depth: int, a_row: int, out_row: int):
    """`tile` with all but addresses built in: accumulate(a, w, out) adds a . w to out; K = depth, w is packed."""
    ty = vector(dtype)
    size = ty.element.bitwidth // 8
    width = size * ty.lanes

    def codegen(context, builder, sig, args):
        a, w, out = args
        count, row, k, column, next_k, step = (
            ir.Constant(I64, value) for value in (depth, a_row, size, depth * width, width, out_row)
        )
        _emit_tile(builder, ty, rows, offsets, (count, a, row, k, w, column, next_k, out, step, out, step))
        return context.get_dummy_value()

    @intrinsic
    def product(typing_context, a, w, out):
        return types.void(*[types.intp] * 3), codegen

    return product


# ---------------------------------------------------------------- element-wise functions


class _Emitter:
    """Builds LLVM instructions on one vector type; `constant` broadcasts a Python number."""

    def __init__(self, builder, ty):
        self.builder, self.ty, self.llvm = builder, ty, _llvm(ty)
        bits = ty.element.bitwidth
        self.integers = ir.VectorType(ir.IntType(bits), ty.lanes)
        self.suffix = f"v{ty.lanes}f{bits}"

    def constant(self, value):
        value = float(np.float32(value)) if self.ty.element.bitwidth == 32 else float(value)
        return ir.Constant(self.llvm, [value] * self.ty.lanes)

    def integer(self, value):
        return ir.Constant(self.integers, [value] * self.ty.lanes)

    def fma(self, x, y, z):
        function = ir.FunctionType(self.llvm, [self.llvm] * 3)
        name = f"llvm.fmuladd.{self.suffix}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), [x, y, z])

    def at_least(self, x, bound):
        """The larger of the two; NaN in x stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, bound), bound, x)

    def at_most(self, x, bound):
        """The smaller of the two; NaN in x stays."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, bound), bound, x)

    def reciprocal(self, x):
        """1/x within 1 ulp for normal x >= 1; by an estimate and Newton's iteration where that beats a division."""
        if not host.vector_unit().fast_reciprocal:
            return self.builder.fdiv(self.constant(1.0), x)
        single = self.ty.element.bitwidth == 32
        mask = ir.IntType(16 if single else 8)
        function = ir.FunctionType(self.llvm, [self.llvm, self.llvm, mask])
        name = "llvm.x86.avx512.rcp14.ps.512" if single else "llvm.x86.avx512.rcp14.pd.512"
        estimate = cgutils.get_or_insert_function(self.builder.module, function, name)
        y = self.builder.call(estimate, [x, self.constant(0.0), ir.Constant(mask, -1)])
        for _ in range(1 if single else 2):
            error = self.fma(self.builder.fneg(x), y, self.constant(1.0))
            y = self.fma(y, error, y)
        return y


@cache
def _exponential_table(bits):
    """(exponent bias, mantissa bits, rounding constant, high and low part of ln 2, polynomial of (e^r - 1 - r) / r^2).

    Source: Cephes expf for 32 bits; the Taylor series, exact to 4e-18 for |r| <= ln(2)/2, for 64.
    """
    if bits == 32:
        series = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
        return 127, 23, 1.5 * 2**23, 0.693359375, -2.12194440e-4, series
    factorials = np.cumprod(np.arange(1, 14, dtype=np.float64))
    return 1023, 52, 1.5 * 2**52, 6.93145751953125e-1, 1.42860682030941723212e-6, tuple(1 / factorials[:0:-1])


def _split_exponential(e, x):
    """(s, p) with exp(x) = s * (1 + p), s a power of two and |p| < 0.42. x must be clamped to the normal range."""
    bias, mantissa, magic, ln2_high, ln2_low, series = _exponential_table(e.ty.element.bitwidth)
    shifted = e.fma(x, e.constant(1 / np.log(2)), e.constant(magic))
    n = e.builder.fsub(shifted, e.constant(magic))
    r = e.fma(n, e.constant(-ln2_low), e.fma(n, e.constant(-ln2_high), x))
    q = e.constant(series[0])
    for coefficient in series[1:]:
        q = e.fma(q, r, e.constant(coefficient))
    p = e.fma(e.builder.fmul(q, r), r, r)
    exponent = e.builder.shl(e.builder.bitcast(shifted, e.integers), e.integer(mantissa))
    scale = e.builder.bitcast(e.builder.add(exponent, e.integer(bias << mantissa)), e.llvm)
    return scale, p


def _sigmoid(e, x):
    limit = (
        80.0 if e.ty.element.bitwidth == 32 else 700.0
    )  # beyond it 1 + exp(-x) rounds to 1, or 1/(1 + exp(-x)) is < 2e-35
    x = e.at_most(e.at_least(e.builder.fneg(x), e.constant(-limit)), e.constant(limit))
    scale, p = _split_exponential(e, x)
    return e.reciprocal(e.fma(scale, p, e.builder.fadd(scale, e.constant(1.0))))


def _tanh(e, x):
    limit = 20.0 if e.ty.element.bitwidth == 32 else 44.0  # tanh(limit / 2) rounds to 1
    x = e.at_most(e.at_least(e.builder.fadd(x, x), e.constant(-limit)), e.constant(limit))
    scale, p = _split_exponential(e, x)
    below = e.fma(scale, p, e.builder.fsub(scale, e.constant(1.0)))  # exp(2x) - 1 without cancellation near 0
    return e.builder.fmul(below, e.reciprocal(e.builder.fadd(below, e.constant(2.0))))


def _clip(e, x, bound):
    return e.at_most(e.at_least(x, e.builder.fneg(bound)), bound)


def _clip_gradient(e, x, bound, gradient):
    outside = e.builder.or_(
        e.builder.fcmp_ordered("<", x, e.builder.fneg(bound)), e.builder.fcmp_ordered(">", x, bound)
    )
    return e.builder.select(outside, e.constant(0.0), gradient)


def _vectorise(function, emit):
    """Makes compiled code call `emit` for `function` wherever an argument is a Vector; scalars are broadcast."""

    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args, kws):
            vectors = [a for a in args if isinstance(a, Vector)]
            return signature(vectors[0], *[vectors[0]] * len(args)) if vectors else None

    def lower(context, builder, sig, args):
        return emit(_Emitter(builder, sig.return_type), *args)

    for count in (1, 2, 3):
        lower_builtin(function, *[Vector] * count)(lower)


for _function, _emit in (
    (functions.sigmoid, _sigmoid),
    (functions.tanh, _tanh),
    (functions.clip, _clip),
    (functions.clip_gradient, _clip_gradient),
):
    _vectorise(_function, _emit)

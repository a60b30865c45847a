"""Rows of elements scaled for products in pairs (`pairs`), by a power of two each, with what is told of them.

Nothing is read or written beyond a row's elements and the vectors that hold them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from unrollbench.kernels.pairs import FACTOR_OF_ZEROS, LARGEST, LARGEST_FACTOR, MOST_PRODUCTS, PAIRED, SPREAD, STEPS
from unrollbench.kernels.simd import Vector, multiply_add, splat, vector
from unrollbench.kernels.words import I64, Emit, at, pointer


@cache
def scale_row(dtype: str) -> Emit:
    """scale_row(depth, a, out, exponent): writes the scaled row to out; 0, or 1 if it cannot be multiplied in pairs.

    out: a vector that begins with the factor, its inverse and the sum of the products of the scaled row's pairs; then
    the scaled row, zero beyond `depth` in its last vector. exponent: `weights_exponent`, and not NO_PAIRS.
    """
    ty = vector(dtype)
    width = ty.size * ty.lanes
    mantissa, bias = {32: (23, 127), 64: (52, 1023)}[ty.bits]
    number, several = ir.IntType(ty.bits), ir.VectorType(ir.IntType(ty.bits), ty.lanes)
    positive = ir.Constant(several, [(1 << (ty.bits - 1)) - 1] * ty.lanes)
    following = ir.Constant(ir.VectorType(ir.IntType(32), ty.lanes), [lane | 1 for lane in range(ty.lanes)])
    signs = [ir.Constant(ty.llvm, lanes) for lanes in _signs(ty.lanes)]
    zeros = ir.Constant(ty.llvm, [0.0] * ty.lanes)

    def emit(builder: Any, depth: Any, a: Any, out: Any, exponent: Any) -> Any:
        row, head = pointer(builder, a), pointer(builder, out)
        scaled = at(builder, head, width)

        def measured(offset: Any, mask: Any, carried: list[Any]) -> list[Any]:
            """The largest magnitude of each lane, as an integer: NaN's is larger than infinity's; and their sum."""
            bits = builder.and_(builder.bitcast(_read(builder, ty, row, offset, mask), several), positive)
            larger = builder.select(builder.icmp_signed(">", bits, carried[0]), bits, carried[0])
            return [larger, builder.fadd(carried[1], builder.bitcast(bits, ty.llvm))]

        largest, total = _each_vector(builder, ty, depth, measured, [ir.Constant(several, [0] * ty.lanes), zeros])
        largest, total = _reduced(builder, ty, "smax.{}i{}", number, [largest]), _sum(builder, ty, total)
        size = _wide(builder, builder.lshr(largest, ir.Constant(number, mantissa)))
        wanted = builder.sub(builder.add(exponent, ir.Constant(I64, bias)), size)
        too_small = builder.icmp_signed(">", wanted, ir.Constant(I64, LARGEST_FACTOR))
        power = builder.select(too_small, ir.Constant(I64, FACTOR_OF_ZEROS), wanted)
        factor, inverse = (_power(builder, ty, each, bias, mantissa) for each in (power, builder.neg(power)))
        spread = splat(builder, factor, ty.llvm)

        def multiplied(offset: Any, mask: Any, carried: list[Any]) -> list[Any]:
            """The products of each lane's pairs, and squares; which lanes begin a pair repeats after three vectors."""
            products, squares, first, second, third = carried
            value = builder.fmul(_read(builder, ty, row, offset, mask), spread)
            builder.store(value, builder.gep(scaled, [offset], source_etype=ir.IntType(8)), align=ty.size)
            other = builder.shuffle_vector(value, value, following)
            products = multiply_add(builder, ty, builder.fmul(value, first), other, products)
            return [products, multiply_add(builder, ty, value, value, squares), second, third, first]

        products, squares, *_ = _each_vector(builder, ty, depth, multiplied, [zeros, zeros, *signs])
        products, squares = _sum(builder, ty, products), _sum(builder, ty, squares)
        for index, value in enumerate((factor, inverse, products)):
            builder.store(value, at(builder, head, index * ty.size), align=ty.size)
        not_zero = builder.icmp_signed(">", largest, ir.Constant(number, 0))
        beyond = builder.icmp_signed(">=", size, ir.Constant(I64, bias + LARGEST))
        scalar = ty.llvm.element
        element, count = builder.bitcast(largest, scalar), builder.sitofp(depth, scalar)
        spread_of_all = builder.fmul(total, ir.Constant(scalar, float(SPREAD)))
        uneven = builder.fcmp_ordered(">", builder.fmul(element, count), spread_of_all)
        # |products| > MOST_PRODUCTS sqrt(depth) squares / depth
        square = builder.fmul(builder.fmul(products, products), count)
        most = builder.fmul(squares, ir.Constant(scalar, MOST_PRODUCTS))
        alike = builder.fcmp_ordered(">", square, builder.fmul(most, most))
        unfit = builder.or_(builder.or_(beyond, builder.or_(uneven, alike)), builder.and_(too_small, not_zero))
        return builder.zext(unfit, I64)

    return emit


def _signs(lanes: int) -> list[list[float]]:
    """Of three vectors, what each lane's product with the next one counts with: they have 2^n lanes, STEPS is 6."""
    return [[float(PAIRED.get((v * lanes + lane) % STEPS, 0)) for lane in range(lanes)] for v in range(3)]


def _power(builder: Any, ty: Vector, power: Any, bias: int, mantissa: int) -> Any:
    """2^power."""
    number = ir.IntType(ty.bits)
    exponent = _narrow(builder, builder.add(power, ir.Constant(I64, bias)), number)
    return builder.bitcast(builder.shl(exponent, ir.Constant(number, mantissa)), ty.llvm.element)


def _narrow(builder: Any, value: Any, ty: Any) -> Any:
    return value if ty.width == 64 else builder.trunc(value, ty)


def _wide(builder: Any, value: Any) -> Any:
    return value if value.type.width == 64 else builder.zext(value, I64)


def _each_vector(builder: Any, ty: Vector, count: Any, body: Any, carried: list[Any]) -> list[Any]:
    """body(byte offset, mask, carried) for each vector of `count` elements; what it returns it is called with next.

    mask: of the elements that there are of the last one, if it is no whole one; None of those before it.
    """
    width, zero, lanes = ir.Constant(I64, ty.size * ty.lanes), ir.Constant(I64, 0), ir.Constant(I64, ty.lanes)
    end, left = builder.mul(builder.sdiv(count, lanes), width), builder.srem(count, lanes)
    entry, (loop, beyond, rest, done) = builder.basic_block, [builder.append_basic_block() for _ in range(4)]
    builder.cbranch(builder.icmp_signed(">", end, zero), loop, beyond)

    def either(first: list[Any], origin: Any, second: list[Any], other: Any) -> list[Any]:
        """The values that came from whichever block was before this one."""
        found = [builder.phi(value.type) for value in first]
        for phi, *values in zip(found, first, second, strict=True):
            for value, block in zip(values, (origin, other), strict=True):
                phi.add_incoming(value, block)
        return found

    builder.position_at_end(loop)
    offset, before = builder.phi(I64), [builder.phi(value.type) for value in carried]
    found = body(offset, None, before)
    following = builder.add(offset, width)
    for phi, first, value in zip((offset, *before), (zero, *carried), (following, *found), strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, beyond)
    builder.position_at_end(beyond)
    whole = either(carried, entry, found, loop)
    builder.cbranch(builder.icmp_signed(">", left, zero), rest, done)
    builder.position_at_end(rest)
    several = ir.VectorType(ir.IntType(ty.bits), ty.lanes)
    lane = ir.Constant(several, list(range(ty.lanes)))
    last = body(
        end, builder.icmp_signed("<", lane, splat(builder, _narrow(builder, left, several.element), several)), whole
    )
    builder.branch(done)
    builder.position_at_end(done)
    return either(whole, beyond, last, rest)


def _read(builder: Any, ty: Vector, place: Any, offset: Any, mask: Any) -> Any:
    """A vector, with zeros for what its mask leaves out, which is not read."""
    place = builder.gep(place, [offset], source_etype=ir.IntType(8))
    if mask is None:
        return builder.load(place, align=ty.size, typ=ty.llvm)
    function = ir.FunctionType(ty.llvm, [ir.PointerType(), ir.IntType(32), mask.type, ty.llvm])
    load = cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.load.v{ty.lanes}f{ty.bits}.p0")
    zeros = ir.Constant(ty.llvm, [0.0] * ty.lanes)
    return builder.call(load, [place, ir.Constant(ir.IntType(32), ty.size), mask, zeros])


def _sum(builder: Any, ty: Vector, value: Any) -> Any:
    """The sum of a vector's elements, in any order."""
    zero = ir.Constant(ty.llvm.element, -0.0)
    return _reduced(builder, ty, "fadd.{}f{}", ty.llvm.element, [zero, value], ("reassoc",))


def _reduced(
    builder: Any, ty: Vector, operation: str, result: Any, arguments: list[Any], fastmath: tuple[str, ...] = ()
) -> Any:
    """What one of LLVM's reductions makes of a vector, the last argument."""
    function = ir.FunctionType(result, [value.type for value in arguments])
    name = "llvm.vector.reduce." + operation.format(f"v{ty.lanes}", ty.bits)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments, fastmath=fastmath)

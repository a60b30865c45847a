"""sigmoid, tanh, clip and clip_gradient on vector registers: what `cells.functions` become in compiled equations.

exp(x) = 2^n 2^(j/m) e^r with m n + j = round(m x / ln 2), 0 <= j < m and |r| <= ln(2) / (2 m): e^r is a polynomial, the
shorter the larger m is, 2^(j/m) is looked up in a register of m elements, and 2^n is an addition to its exponent.
Without AVX-512F m is 1: with the eight elements of AVX2 nothing was gained. No result is off by more than 4 units in
the last place, but that sigmoid falls no further than to exp(-60) in float32 and exp(-650) in float64; NaN stays NaN
and infinities saturate.

The table's entries are (as in Gal and Bachelis, ACM TOMS 17, 1991) numbers T of half a mantissa near 2^(j/m), and r is
corrected by ln(2^(j/m) / T): then (2^n T - 1) / 2 is exact for small n, on which tanh relies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from unrollbench.cells import functions
from unrollbench.kernels import host
from unrollbench.kernels.simd import Vector, multiply_add


@dataclass(frozen=True)
class _Format:
    """What the exponential needs of a float type.

    mantissa: its bits; ln2_high + ln2_low is ln 2, the product of ln2_high with n m + j being exact;
    series: m -> two series of e^r = 1 + r + r^2 (series[0] r^k + ... + series[-1]), one for e^r and one for e^r - 1,
    whose error counts relative to r; sigmoid is computed within +-sigmoid_limit, beyond which 1 + exp(-x) rounds to 1
    or its inverse is next to nothing, tanh within +-tanh_limit, where it rounds to 1. The product of both denominators
    is a finite number.
    """

    mantissa: int
    ln2_high: float
    ln2_low: float
    series: dict[int, tuple[tuple[float, ...], tuple[float, ...]]]
    sigmoid_limit: float
    tanh_limit: float


def _taylor(terms: int) -> tuple[float, ...]:
    """1/(k+1)!, ..., 1/2! for k terms."""
    return tuple(1 / factorial(power) for power in range(terms + 1, 1, -1))


_NEAREST = (1.3882515e-3, 8.3665472e-3, 4.16672007e-2, 1.66665434e-1, 4.99999981e-1)
"""Of all series of five terms that with the smallest relative error of (e^r - 1) / r for |r| <= ln(2) / 2: 1.3e-8,
found by Lawson's algorithm."""
_SERIES_32 = {1: (_NEAREST, _NEAREST), 16: (_taylor(2), _taylor(3))}
_SERIES_64 = {1: (_taylor(12), _taylor(12)), 8: (_taylor(7), _taylor(7))}
"""Off by 1.3e-8 at most in float32, and by 4e-17 in float64, of e^r or of e^r - 1 itself."""
_FORMATS = {
    32: _Format(23, 0.693359375, -2.12194440e-4, _SERIES_32, 60.0, 10.0),
    64: _Format(52, 6.93145751953125e-1, 1.42860682030941723212e-6, _SERIES_64, 650.0, 22.0),
}
_LOOK_UP = {32: "llvm.x86.avx512.permvar.si.512", 64: "llvm.x86.avx512.permvar.di.512"}
"""Bits of an element -> the instruction of AVX-512F that looks up in a register, by the low bits of an integer."""


@cache
def _powers(bits: int, count: int) -> tuple[list[int], list[float]]:
    """(T, rest) for j in range(count): T e^rest = 2^(j / count), and T has half a mantissa.

    T is given as the integer that, plus j shifted to the mantissa's highest bits, is the number's bits.
    """
    f, kinds = _FORMATS[bits], {32: (np.float32, np.int32), 64: (np.float64, np.int64)}
    real, integer = kinds[bits]
    exact, half = np.exp2(np.arange(count, dtype=np.longdouble) / count), 2.0 ** (f.mantissa // 2)
    near = np.round(exact * half) / half
    highest = f.mantissa - (count.bit_length() - 1)
    powers = near.astype(real).view(integer) - (np.arange(count).astype(integer) << highest)
    return powers.tolist(), np.log(exact / near).astype(float).tolist()


Value = Any
"""One LLVM value for all vectors of a tile, or a tuple with one per vector."""


class Emitter:
    """Builds each instruction for `count` vectors of one type, one after the other.

    So their chains stand side by side. A function is a chain of some 20 instructions that wait for each other, and a
    core looks about 100 ahead: a vector of LSTM units took 80 cycles by itself, 62 and 60 beside one and two others, 54
    beside three and 53 beside five, with polynomials of seven terms. `constant` is a number in every lane.
    """

    def __init__(self, builder: ir.IRBuilder, ty: Vector, count: int = 1) -> None:
        self.builder, self.ty, self.llvm, self.count = builder, ty, ty.llvm, count
        self.bits, self.format = ty.bits, _FORMATS[ty.bits]
        self.integers = ir.VectorType(ir.IntType(self.bits), ty.lanes)
        self.parts_of_2 = ty.lanes if host.vector_unit().avx512 else 1
        """m of this module's text."""

    def each(self, instruction: Callable[..., Any], *operands: Value) -> Value:
        """The instruction on each vector's operands; once, where all vectors have the same."""
        if not any(isinstance(operand, tuple) for operand in operands):
            return instruction(*operands)
        each = (tuple(o[index] if isinstance(o, tuple) else o for o in operands) for index in range(self.count))
        return tuple(instruction(*one) for one in each)

    def constant(self, value: float) -> Value:
        number = float(np.float32(value)) if self.bits == 32 else float(value)
        return ir.Constant(self.llvm, [number] * self.ty.lanes)

    def integer(self, value: int) -> Value:
        return ir.Constant(self.integers, [value] * self.ty.lanes)

    def add(self, x: Value, y: Value) -> Value:
        return self.each(self.builder.fadd, x, y)

    def sub(self, x: Value, y: Value) -> Value:
        return self.each(self.builder.fsub, x, y)

    def mul(self, x: Value, y: Value) -> Value:
        return self.each(self.builder.fmul, x, y)

    def neg(self, x: Value) -> Value:
        return self.each(self.builder.fneg, x)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        return self.each(lambda *xyz: multiply_add(self.builder, self.ty, *xyz), x, y, z)

    def polynomial(self, coefficients: Any, x: Value) -> Value:
        """coefficients[0] x^k + ... + coefficients[-1]."""
        value = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.constant(coefficient))
        return value

    def select(self, comparison: str, x: Value, bound: Value, then: Value, otherwise: Value) -> Value:
        """`then` where x compares so with the bound; `otherwise` where it does not, or is NaN."""

        def instruction(x: Value, bound: Value, then: Value, otherwise: Value) -> Value:
            return self.builder.select(self.builder.fcmp_ordered(comparison, x, bound), then, otherwise)

        return self.each(instruction, x, bound, then, otherwise)

    def at_least(self, x: Value, bound: Value) -> Value:
        """The larger of the two; NaN in x stays."""
        return self.select("<", x, bound, bound, x)

    def at_most(self, x: Value, bound: Value) -> Value:
        """The smaller of the two; NaN in x stays."""
        return self.select(">", x, bound, bound, x)

    def within(self, x: Value, limit: float) -> Value:
        """x limited to [-limit, limit]; NaN stays."""
        return self.at_most(self.at_least(x, self.constant(-limit)), self.constant(limit))

    def whole(self, x: Value, factor: float) -> tuple[Value, Value]:
        """(k, s): k = round(x * factor) as a float, and s, whose low bits are k as an integer."""
        magic = self.constant(1.5 * 2**self.format.mantissa)
        shifted = self.fma(x, self.constant(factor), magic)
        return self.sub(shifted, magic), shifted

    def power_of_two(self, s: Value) -> Value:
        """2^n T for the s of `whole`, whose k is n m + j; anything, where that came from NaN."""
        powers, _ = _powers(self.bits, self.parts_of_2)
        highest = self.integer(self.format.mantissa - (self.parts_of_2.bit_length() - 1))

        def instruction(s: Value) -> Value:
            k = self.builder.bitcast(s, self.integers)
            power = self.integer(powers[0]) if len(powers) == 1 else self._looked_up(powers, k)
            return self.builder.bitcast(self.builder.add(self.builder.shl(k, highest), power), self.llvm)

        return self.each(instruction, s)

    def corrected(self, r: Value, s: Value, factor: float) -> Value:
        """r + factor * ln(2^(j/m) / T) for the s of `whole`, whose k is n m + j."""
        _, rest = _powers(self.bits, self.parts_of_2)
        if len(rest) == 1:
            return r
        table = np.array([factor * value for value in rest], f"float{self.bits}").view(f"int{self.bits}").tolist()

        def instruction(r: Value, s: Value) -> Value:
            found = self._looked_up(table, self.builder.bitcast(s, self.integers))
            return self.builder.fadd(r, self.builder.bitcast(found, self.llvm))

        return self.each(instruction, r, s)

    def _looked_up(self, table: list[int], index: Value) -> Value:
        """Of each lane, the element of the table that the low bits of the index say."""
        function = ir.FunctionType(self.integers, [self.integers] * 2)
        look_up = cgutils.get_or_insert_function(self.builder.module, function, _LOOK_UP[self.bits])
        return self.builder.call(look_up, [ir.Constant(self.integers, table), index])

    def reciprocal(self, x: Value) -> Value:
        """1/x within 1 ulp for normal x >= 0.5; by an estimate and Newton's iteration where that beats a division."""
        if not host.vector_unit().avx512:
            return self.each(self.builder.fdiv, self.constant(1.0), x)
        y = self.each(self._estimate, x)
        for _ in range(1 if self.bits == 32 else 2):
            error = self.fma(self.neg(x), y, self.constant(1.0))
            y = self.fma(y, error, y)
        return y

    def _estimate(self, x: Value) -> Value:
        mask = ir.IntType(max(8, self.ty.lanes))
        function = ir.FunctionType(self.llvm, [self.llvm, self.llvm, mask])
        name = "llvm.x86.avx512.rcp14.ps.512" if self.bits == 32 else "llvm.x86.avx512.rcp14.pd.512"
        estimate = cgutils.get_or_insert_function(self.builder.module, function, name)
        return self.builder.call(estimate, [x, self.constant(0.0), ir.Constant(mask, -1)])


# ---------------------------------------------------------------- quotients: (numerator, denominator)


def _sigmoid(e: Emitter, x: Value) -> tuple[Value, Value]:
    """1 / (1 + exp(-x)), with exp(-x) = 2^(k/m) e^-s for x = s - k ln(2) / m: the negation is in the coefficients."""
    f, m = e.format, e.parts_of_2
    x = e.within(x, f.sigmoid_limit)
    k, shifted = e.whole(x, -m / log(2))
    s = e.fma(k, e.constant(f.ln2_low / m), e.fma(k, e.constant(f.ln2_high / m), x))
    s = e.corrected(s, shifted, -1.0)
    series, _ = f.series[m]
    ascending = (1.0, 1.0, *reversed(series))
    signed = [(-1) ** power * value for power, value in enumerate(ascending)]
    one = e.constant(1.0)
    return one, e.fma(e.polynomial(signed[::-1], s), e.power_of_two(shifted), one)


def _tanh(e: Emitter, x: Value) -> tuple[Value, Value]:
    """E / (E + 1) with E = (exp(2x) - 1) / 2, which is S p + (S - 1) / 2 without cancellation near 0.

    exp(2x) = S e^(2s) with S = 2^n T, and p = (e^(2s) - 1) / 2 = s + s^2 (...): the factor 2 is in the coefficients.
    """
    f, m = e.format, e.parts_of_2
    x = e.within(x, f.tanh_limit)
    k, shifted = e.whole(x, 2 * m / log(2))
    if e.bits == 32:  # k / m <= 29, and float32's ln 2 is off by 1.9e-9: the sum is below a rounding error
        s = e.fma(k, e.constant(-log(2) / 2 / m), x)
    else:
        s = e.fma(k, e.constant(-f.ln2_low / 2 / m), e.fma(k, e.constant(-f.ln2_high / 2 / m), x))
    s = e.corrected(s, shifted, 0.5)
    _, series = f.series[m]
    doubled = [value * 2 ** (power + 1) for power, value in enumerate(reversed(series))]
    p = e.fma(e.mul(e.polynomial(doubled[::-1], s), s), s, s)
    scale = e.power_of_two(shifted)
    below = e.fma(scale, p, e.fma(scale, e.constant(0.5), e.constant(-0.5)))
    return below, e.add(below, e.constant(1.0))


def _clip(e: Emitter, x: Value, bound: Value) -> Value:
    return e.at_most(e.at_least(x, e.neg(bound)), bound)


def _clip_gradient(e: Emitter, x: Value, bound: Value, gradient: Value) -> Value:
    inside = e.select("<", x, e.neg(bound), e.constant(0.0), gradient)
    return e.select(">", x, bound, e.constant(0.0), inside)


QUOTIENTS = {functions.sigmoid: _sigmoid, functions.tanh: _tanh}
"""Functions that are a quotient, and what emits its two parts. The first is 1 where it is the same for all vectors."""
OTHERS = {functions.clip: _clip, functions.clip_gradient: _clip_gradient}
"""The other functions that equations may call."""

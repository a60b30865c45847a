"""sigmoid, tanh, clip and clip_gradient on vector registers: what replaces `cells.functions` in compiled equations.

exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; e^r is a polynomial, 2^n an addition to the exponent. No
result is off by more than 4 units in the last place, but that sigmoid falls no further than to exp(-80) in float32 and
exp(-700) in float64; NaN stays NaN and infinities saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from unrollbench.cells import functions
from unrollbench.kernels import host
from unrollbench.kernels.products import OPTIONS
from unrollbench.kernels.simd import Vector, joined, llvm_vector, parts


@dataclass(frozen=True)
class _Format:
    """What the exponential needs of a float type.

    bias, mantissa: of the exponent; ln2_high + ln2_low is ln 2, the product of ln2_high with n being exact; series:
    e^r = 1 + r + r^2 (series[0] r^k + ... + series[-1]); sigmoid is computed within +-sigmoid_limit, beyond which
    1 + exp(-x) rounds to 1 or its inverse vanishes, tanh within +-tanh_limit, where it rounds to 1.
    """

    bias: int
    mantissa: int
    ln2_high: float
    ln2_low: float
    series: tuple[float, ...]
    sigmoid_limit: float
    tanh_limit: float


_CEPHES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Source: Cephes, expf."""
_TAYLOR = tuple(1 / factorial(power) for power in range(13, 1, -1))
"""Exact to 4e-18 for |r| <= ln(2) / 2."""
_FORMATS = {
    32: _Format(127, 23, 0.693359375, -2.12194440e-4, _CEPHES, 80.0, 10.0),
    64: _Format(1023, 52, 6.93145751953125e-1, 1.42860682030941723212e-6, _TAYLOR, 700.0, 22.0),
}


def equation(function: Callable[..., Any]) -> Any:
    """A cell's equation for vectors, compiled into whatever calls it."""
    return njit(function, forceinline=True, **OPTIONS)


class _Emitter:
    """Builds LLVM instructions on one vector type; `constant` broadcasts a Python number."""

    def __init__(self, builder, ty):
        self.builder, self.ty, self.llvm = builder, ty, llvm_vector(ty)
        self.bits = ty.element.bitwidth
        self.format = _FORMATS[self.bits]
        self.integers = ir.VectorType(ir.IntType(self.bits), ty.lanes)

    def constant(self, value):
        value = float(np.float32(value)) if self.bits == 32 else float(value)
        return ir.Constant(self.llvm, [value] * self.ty.lanes)

    def integer(self, value):
        return ir.Constant(self.integers, [value] * self.ty.lanes)

    def fma(self, x, y, z):
        function = ir.FunctionType(self.llvm, [self.llvm] * 3)
        name = f"llvm.fmuladd.v{self.ty.lanes}f{self.bits}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), [x, y, z])

    def polynomial(self, coefficients, x):
        """coefficients[0] x^k + ... + coefficients[-1]."""
        value = self.constant(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.constant(coefficient))
        return value

    def at_least(self, x, bound):
        """The larger of the two; NaN in x stays."""
        return self.builder.select(self.builder.fcmp_ordered("<", x, bound), bound, x)

    def at_most(self, x, bound):
        """The smaller of the two; NaN in x stays."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, bound), bound, x)

    def within(self, x, limit):
        """x limited to [-limit, limit]; NaN stays."""
        return self.at_most(self.at_least(x, self.constant(-limit)), self.constant(limit))

    def whole(self, x, factor):
        """(n, s): n = round(x * factor) as a float, and s, whose low bits are n as an integer."""
        magic = self.constant(1.5 * 2**self.format.mantissa)
        shifted = self.fma(x, self.constant(factor), magic)
        return self.builder.fsub(shifted, magic), shifted

    def power_of_two(self, s, start):
        """The bits `start` with n added to the exponent, for the s of `whole`."""
        mantissa = self.integer(self.format.mantissa)
        exponent = self.builder.shl(self.builder.bitcast(s, self.integers), mantissa)
        return self.builder.bitcast(self.builder.add(exponent, start), self.llvm)

    def reciprocal(self, x):
        """1/x within 1 ulp for normal x >= 0.5; by an estimate and Newton's iteration where that beats a division."""
        if not host.vector_unit().fast_reciprocal:
            return self.builder.fdiv(self.constant(1.0), x)
        y = self._estimate(x)
        for _ in range(1 if self.bits == 32 else 2):
            error = self.fma(self.builder.fneg(x), y, self.constant(1.0))
            y = self.fma(y, error, y)
        return y

    def _estimate(self, x):
        lanes = 512 // self.bits
        register, mask = ir.VectorType(self.llvm.element, lanes), ir.IntType(max(8, lanes))
        function = ir.FunctionType(register, [register, register, mask])
        name = "llvm.x86.avx512.rcp14.ps.512" if self.bits == 32 else "llvm.x86.avx512.rcp14.pd.512"
        estimate = cgutils.get_or_insert_function(self.builder.module, function, name)
        nothing, all_lanes = ir.Constant(register, [0.0] * lanes), ir.Constant(mask, -1)
        found = [self.builder.call(estimate, [part, nothing, all_lanes]) for part in parts(self.builder, x, lanes)]
        return joined(self.builder, found)


def _sigmoid(e, x):
    """1 / (1 + exp(-x)), with exp(-x) = 2^n e^-s for x = s - n ln 2: the negation is in the coefficients."""
    f = e.format
    x = e.within(x, f.sigmoid_limit)
    n, shifted = e.whole(x, -1 / log(2))
    s = e.fma(n, e.constant(f.ln2_low), e.fma(n, e.constant(f.ln2_high), x))
    ascending = (1.0, 1.0, *reversed(f.series))
    signed = [(-1) ** power * value for power, value in enumerate(ascending)]
    exponential = e.power_of_two(shifted, e.builder.bitcast(e.polynomial(signed[::-1], s), e.integers))
    return e.reciprocal(e.builder.fadd(exponential, e.constant(1.0)))


def _tanh(e, x):
    """E / (E + 1) with E = (exp(2x) - 1) / 2, which is 2^n p + (2^n - 1) / 2 without cancellation near 0.

    exp(2x) = 2^n e^(2s) and p = (e^(2s) - 1) / 2 = s + s^2 (...): the factor 2 is in the coefficients.
    """
    f = e.format
    x = e.within(x, f.tanh_limit)
    n, shifted = e.whole(x, 2 / log(2))
    if e.bits == 32:  # n <= 29, and float32's ln 2 is off by 1.4e-9: the sum is below a rounding error
        s = e.fma(n, e.constant(-log(2) / 2), x)
    else:
        s = e.fma(n, e.constant(-f.ln2_low / 2), e.fma(n, e.constant(-f.ln2_high / 2), x))
    doubled = [value * 2 ** (power + 1) for power, value in enumerate(reversed(f.series))]
    p = e.fma(e.builder.fmul(e.polynomial(doubled[::-1], s), s), s, s)
    scale = e.power_of_two(shifted, e.integer(f.bias << f.mantissa))
    below = e.fma(scale, p, e.fma(scale, e.constant(0.5), e.constant(-0.5)))
    return e.builder.fmul(below, e.reciprocal(e.builder.fadd(below, e.constant(1.0))))


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


FUNCTIONS = {
    functions.sigmoid: _sigmoid,
    functions.tanh: _tanh,
    functions.clip: _clip,
    functions.clip_gradient: _clip_gradient,
}
"""What equations may call, and what emits it for vectors."""

for _function, _emit in FUNCTIONS.items():
    _vectorise(_function, _emit)

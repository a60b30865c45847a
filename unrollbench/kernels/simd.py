"""One vector register: its LLVM type, and the few instructions that kernels and equations share.

The width follows the host (64 bytes with AVX-512, 32 with AVX, otherwise 16), so one source serves all of them. No
fast-math flags are set: NaN and infinities behave as IEEE 754 says. Nothing here knows of recurrent networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from llvmlite import ir
from numba.core import cgutils

from unrollbench.case import DTYPES
from unrollbench.kernels import host


@dataclass(frozen=True)
class Vector:
    """`lanes` elements of `bits` bits each, float32 or float64."""

    bits: int
    lanes: int

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type."""
        return ir.VectorType(ir.FloatType() if self.bits == 32 else ir.DoubleType(), self.lanes)

    @property
    def size(self) -> int:
        """Bytes of an element, to which every vector in memory is aligned at least."""
        return self.bits // 8


@cache
def vector(dtype: str) -> Vector:
    """The host's full-width register of dtype "float32" or "float64"."""
    return Vector(8 * DTYPES[dtype], host.lanes(dtype))


def splat(builder, scalar, llvm_type):
    """The scalar in every lane."""
    undefined = ir.Constant(llvm_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), llvm_type.count), [0] * llvm_type.count)
    return builder.shuffle_vector(first, undefined, mask)


def multiply_add(builder, ty: Vector, x, y, z):
    """x * y + z, rounded once where the host has such an instruction."""
    function = ir.FunctionType(ty.llvm, [ty.llvm] * 3)
    name = f"llvm.fmuladd.v{ty.lanes}f{ty.bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [x, y, z])

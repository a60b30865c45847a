"""The transpose of a block of rows, written where products read it in order."""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.simd import vector
from unrollbench.kernels.words import pointer


@cache
def transpose(dtype: str) -> Kernel:
    """transpose(rows, columns, origin, origin_row, target, target_row): target[c, r] = origin[r, c].

    origin_row, target_row: bytes from row to row. Whole squares of the vector's width go through registers.
    """
    lanes, size = host.lanes(dtype), DTYPES[dtype]
    text = f"""
def transpose(rows, columns, origin, origin_row, target, target_row):
    whole = columns // {lanes} * {lanes}
    for first in range(0, rows, {lanes}):
        last, c = min(first + {lanes}, rows), 0
        if last - first == {lanes}:
            while c < whole:
                at, to = origin + first * origin_row + c * {size}, target + c * target_row + first * {size}
                square(at, origin_row, to, target_row)
                c += {lanes}
        while c < columns:
            for r in range(first, last):
                element(origin + r * origin_row + c * {size}, target + c * target_row + r * {size})
            c += 1
"""
    return kernel(text, "transpose", {"square": _square(dtype), "element": _element(dtype)})


@cache
def _square(dtype: str):
    """A function (origin, origin_row, target, target_row) that transposes a square of vectors in registers.

    Rows i and i + half are interleaved, element by element, into rows 2 i and 2 i + 1; after as many rounds as the
    width has bits, that is the transpose.
    """
    ty = vector(dtype)
    lanes, half = ty.lanes, ty.lanes // 2

    def emit(builder, origin, origin_row, target, target_row):
        def place(address, stride, row):
            offset = builder.mul(stride, ir.Constant(ir.IntType(64), row))
            return builder.gep(pointer(builder, address), [offset], source_etype=ir.IntType(8))

        def interleaved(x, y, first):
            pairs = [lane for k in range(first, first + half) for lane in (k, lanes + k)]
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), lanes), pairs))

        rows = [builder.load(place(origin, origin_row, r), align=ty.size, typ=ty.llvm) for r in range(lanes)]
        for _ in range(lanes.bit_length() - 1):
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [interleaved(x, y, first) for x, y in pairs for first in (0, half)]
        for r, row in enumerate(rows):
            builder.store(row, place(target, target_row, r), align=ty.size)

    return emit


@cache
def _element(dtype: str):
    """A function (origin, target) that copies one element."""
    ty = vector(dtype)

    def emit(builder, origin, target):
        value = builder.load(pointer(builder, origin), align=ty.size, typ=ty.llvm.element)
        builder.store(value, pointer(builder, target), align=ty.size)

    return emit

"""The transpose of a block of rows, written where products read it in order."""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.simd import vector
from unrollbench.kernels.words import pointer, prefetch


@cache
def transpose(dtype: str) -> Kernel:
    """transpose(rows, columns, origin, origin_row, target, target_row): target[c, r] = origin[r, c].

    origin_row, target_row: bytes from row to row. Squares of the vector's width go through registers; the last ones in
    a direction cover some of those before them again.
    """
    lanes, size = host.lanes(dtype), DTYPES[dtype]
    text = f"""
def transpose(rows, columns, origin, origin_row, target, target_row):
    for first in range(0, rows, {lanes}):
        last, c = min(first + {lanes}, rows), 0
        while c < columns:
            if rows >= {lanes} and columns >= {lanes}:
                r, at = last - {lanes}, min(c, columns - {lanes})
                to = target + at * target_row + r * {size}
                square(origin + r * origin_row + at * {size}, origin_row, to, target_row)
                c += {lanes}
            else:
                for r in range(first, last):
                    element(origin + r * origin_row + c * {size}, target + c * target_row + r * {size})
                c += 1
"""
    return kernel(text, "transpose", {"square": _square(dtype), "element": _element(dtype)})


@cache
def _square(dtype: str):
    """A function (origin, origin_row, target, target_row) that transposes a square of vectors in registers.

    Each round pairs rows that are twice as far apart as before. The first ones interleave within 16 bytes, elements and
    then pairs of them, the others take 16 bytes at a time: any other way needs instructions that take longer.
    """
    ty = vector(dtype)
    lanes, block = ty.lanes, min(ty.lanes, 16 // ty.size)
    rounds = []
    for apart in (1 << bit for bit in range(lanes.bit_length() - 1)):
        if apart < block:
            taken = [at + k for at in range(0, lanes, block) for k in range(0, block // 2, apart)]
            halves = [[at + half for at in taken] for half in (0, block // 2)]
            picks = [[at + own + e for at in each for own in (0, lanes) for e in range(apart)] for each in halves]
        else:
            halves = [range(half, 2 * lanes, 2 * block) for half in (0, block)]
            picks = [[at + e for at in each for e in range(block)] for each in halves]
        rounds.append((apart, picks))

    def emit(builder, origin, origin_row, target, target_row):
        def place(address, stride, row):
            offset = builder.mul(stride, ir.Constant(ir.IntType(64), row))
            return builder.gep(pointer(builder, address), [offset], source_etype=ir.IntType(8))

        rows = [builder.load(place(origin, origin_row, r), align=ty.size, typ=ty.llvm) for r in range(lanes)]
        for r in range(lanes):
            prefetch(builder, place(origin, origin_row, lanes + r), 2)
        held = [[(r, c) for c in range(lanes)] for r in range(lanes)]
        for apart, picks in rounds:
            for i in (i for i in range(lanes) if not i & apart):
                both, pair = held[i] + held[i + apart], rows[i : i + apart + 1 : apart]
                for at, pick in zip((i, i + apart), picks, strict=True):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), pick)
                    rows[at], held[at] = builder.shuffle_vector(*pair, mask), [both[k] for k in pick]
        for row, ((_, c), *_) in zip(rows, held, strict=True):
            builder.store(row, place(target, target_row, c), align=ty.size)

    return emit


@cache
def _element(dtype: str):
    """A function (origin, target) that copies one element."""
    ty = vector(dtype)

    def emit(builder, origin, target):
        value = builder.load(pointer(builder, origin), align=ty.size, typ=ty.llvm.element)
        builder.store(value, pointer(builder, target), align=ty.size)

    return emit

"""The transpose of a block of rows, written where products read it in order."""

from __future__ import annotations

from functools import cache

from llvmlite import ir

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.simd import vector
from unrollbench.kernels.words import peek, pointer, prefetch


@cache
def transpose(dtype: str) -> Kernel:
    """transpose(rows, columns, origin, origin_row, numbers, target, target_row): target[c, r] = origin[numbers[r], c].

    origin_row, target_row: bytes from row to row. numbers: an address of int64, of which there are as many more as a
    vector has elements: those rows it asks for, since they are the next ones to be transposed. Squares of the vector's
    width go through registers; the last ones in a direction cover some of those before them again.
    """
    lanes, size = host.lanes(dtype), DTYPES[dtype]
    text = f"""
def transpose(rows, columns, origin, origin_row, numbers, target, target_row):
    for first in range(0, rows, {lanes}):
        last, c = min(first + {lanes}, rows), 0
        while c < columns:
            if rows >= {lanes} and columns >= {lanes}:
                r, at = last - {lanes}, min(c, columns - {lanes})
                to = target + at * target_row + r * {size}
                square(origin + at * {size}, origin_row, numbers + 8 * r, to, target_row)
                c += {lanes}
            else:
                for r in range(first, last):
                    row = origin + peek(numbers, 8 * r) * origin_row
                    element(row + c * {size}, target + c * target_row + r * {size})
                c += 1
"""
    return kernel(text, "transpose", {"peek": peek, "square": _square(dtype), "element": _element(dtype)})


@cache
def _square(dtype: str):
    """A function (origin, origin_row, numbers, target, target_row) that transposes a square of vectors in registers.

    Each round pairs rows that are twice as far apart as before. The first ones interleave within 16 bytes, elements and
    then pairs of them, the others take 16 bytes at a time: any other way needs instructions that take longer.
    """
    ty, word = vector(dtype), ir.IntType(64)
    lanes, block = ty.lanes, min(ty.lanes, 16 // ty.size)
    rounds = []
    for distance in (1 << bit for bit in range(lanes.bit_length() - 1)):
        if distance < block:
            taken = [at + k for at in range(0, lanes, block) for k in range(0, block // 2, distance)]
            halves = [[at + half for at in taken] for half in (0, block // 2)]
            picks = [[at + own + e for at in each for own in (0, lanes) for e in range(distance)] for each in halves]
        else:
            halves = [range(half, 2 * lanes, 2 * block) for half in (0, block)]
            picks = [[at + e for at in each for e in range(block)] for each in halves]
        rounds.append((distance, picks))

    def emit(builder, origin, origin_row, numbers, target, target_row):
        def place(address, stride, row):
            return builder.gep(pointer(builder, address), [builder.mul(stride, row)], source_etype=ir.IntType(8))

        places = [place(origin, origin_row, peek(builder, numbers, word(8 * r))) for r in range(2 * lanes)]
        rows = [builder.load(at, align=ty.size, typ=ty.llvm) for at in places[:lanes]]
        for at in places[lanes:]:
            prefetch(builder, at, 2)
        columns = [list(range(lanes))] * lanes  # those that the elements of each vector come from
        for distance, picks in rounds:
            for i in (i for i in range(lanes) if not i & distance):
                both, pair = columns[i] + columns[i + distance], rows[i : i + distance + 1 : distance]
                for at, pick in zip((i, i + distance), picks, strict=True):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), pick)
                    rows[at], columns[at] = builder.shuffle_vector(*pair, mask), [both[k] for k in pick]
        for row, (column, *_) in zip(rows, columns, strict=True):
            builder.store(row, place(target, target_row, word(column)), align=ty.size)

    return emit


@cache
def _element(dtype: str):
    """A function (origin, target) that copies one element."""
    ty = vector(dtype)

    def emit(builder, origin, target):
        value = builder.load(pointer(builder, origin), align=ty.size, typ=ty.llvm.element)
        builder.store(value, pointer(builder, target), align=ty.size)

    return emit

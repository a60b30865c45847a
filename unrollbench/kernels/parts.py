"""float32 numbers cut into three bfloat16 parts, in the order in which a matrix unit reads them.

The parts' sum is the number: each is the nearest finite bfloat16 to what the ones before it leave. Parts below 2^-126
count as zero in the unit, so numbers below 2^-102 have fewer bits there.

k, the contracted index, goes in chunks of 32 steps, of which step j shares a word with step 16 + j. Of 16 rows of an
operand the parts of chunk after chunk lie next to each other, in tiles of 1 KiB. Behind them there is room for the
first parts again, with zeros in the place of infinities, and then a line that says whether there are any: what the
smaller parts of a weight are multiplied by must not be infinite, since some of these are zero. Of a column of weights,
16 units wide, there are the parts only; `pack.split` cuts those that are known before a program runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from unrollbench.kernels.amx import ROWS, TILE_BYTES, WIDTH
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.words import I64, at, pointer, put

PARTS, CHUNK = 3, 32
"""Parts of a number, and steps of k that a tile spans."""
PARTS_BYTES = PARTS * TILE_BYTES
"""Of a chunk's parts."""
FLAG_BYTES = 64
UPPER, HALF = 0xFFFF0000, 0x8000
"""The bits of a float32 that a bfloat16 has, and half of the last of them."""


def chunks(depth: int) -> int:
    """Chunks that so many steps of k take."""
    return -(-depth // CHUNK)


def tile_bytes(depth: int) -> int:
    """Bytes of 16 rows of so many numbers."""
    return chunks(depth) * (PARTS_BYTES + TILE_BYTES) + FLAG_BYTES


def column_bytes(depth: int) -> int:
    """Bytes of a column of so many weights."""
    return chunks(depth) * PARTS_BYTES


@cache
def split() -> Kernel:
    """Cuts rows of float32, 16 after 16.

    Arguments: how many rows, and numbers in each; the address of the first and bytes from one to the next; and the
    address of the result, of `tile_bytes` per 16 rows.
    """
    text = f"""
def split(rows, depth, a, a_row, out):
    chunks = (depth + {CHUNK - 1}) // {CHUNK}
    while rows > 0:
        infinite, finite = 0, out + chunks * {PARTS_BYTES}
        for row in range(min({ROWS}, rows)):
            at, place, left = a + row * a_row, out + row * {WIDTH}, depth
            while left >= {CHUNK}:
                infinite = infinite + cut(at, place)
                at, place, left = at + {4 * CHUNK}, place + {PARTS_BYTES}, left - {CHUNK}
            if left > 0:
                infinite = infinite + cut(at, place, left)
        if infinite > 0:
            for row in range(min({ROWS}, rows)):
                at, place, left = a + row * a_row, finite + row * {WIDTH}, depth
                while left > 0:
                    cut_finite(at, place, left)
                    at, place, left = at + {4 * CHUNK}, place + {TILE_BYTES}, left - {CHUNK}
        out = finite + chunks * {TILE_BYTES}
        put(out, infinite)
        a, out, rows = a + {ROWS} * a_row, out + {FLAG_BYTES}, rows - {ROWS}
"""
    return kernel(text, "split", {"put": put, "cut": _cut_chunk, "cut_finite": _cut_finite})


@cache
def split_columns() -> Kernel:
    """Cuts columns of weights.

    Arguments: how many rows (steps of k), and columns; the address of the first and bytes from row to row; that of a
    vector of zeros; and the address of the result, of `column_bytes` per column.
    """
    text = f"""
def split_columns(depth, columns, rows, stride, zeros, out):
    for column in range(columns):
        first = 0
        while first < depth:
            for j in range({ROWS}):
                low, high = first + j, first + j + {ROWS}
                above = rows + low * stride if low < depth else zeros
                below = rows + high * stride if high < depth else zeros
                cut_words(above, below, out + j * {WIDTH})
            first, out = first + {CHUNK}, out + {PARTS_BYTES}
        rows += {WIDTH}
"""
    return kernel(text, "split_columns", {"cut_words": _cut_words})


class _Vector:
    """16 numbers and their parts, as words whose upper halves they are."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.float, self.words = builder, value.type, ir.VectorType(ir.IntType(32), ROWS)
        self.is_finite, first = self._finite(self._bits(value)), self._rounded(value)
        first = builder.select(self._finite(first), first, self._upper(self._bits(value)))  # not up to infinity
        rest = builder.fsub(value, builder.bitcast(first, self.float))
        rest = builder.select(self.is_finite, rest, ir.Constant(self.float, None))
        second = self._rounded(rest)
        third = self._upper(self._bits(builder.fsub(rest, builder.bitcast(second, self.float))))
        same = self._upper(self._bits(builder.fadd(value, value)))  # of infinity and NaN, which is quiet then
        self.parts = [builder.select(self.is_finite, first, same), second, third]
        self.finite = builder.select(self.is_finite, first, self._all(0))

    def _finite(self, words: Any) -> Any:
        size = self.builder.and_(words, self._all(0x7FFFFFFF))
        return self.builder.icmp_unsigned("<", size, self._all(0x7F800000))

    def _all(self, number: int) -> Any:
        return ir.Constant(self.words, [number] * ROWS)

    def _bits(self, value: Any) -> Any:
        return self.builder.bitcast(value, self.words)

    def _upper(self, words: Any) -> Any:
        return self.builder.and_(words, self._all(UPPER))

    def _rounded(self, value: Any) -> Any:
        return self._upper(self.builder.add(self._bits(value), self._all(HALF)))


def _store_words(builder: Any, low: Any, high: Any, place: Any) -> None:
    """Stores words with the upper halves of `low` in their lower halves."""
    shift = ir.Constant(low.type, [16] * ROWS)
    builder.store(builder.or_(builder.lshr(low, shift), high), place, align=4)


def _store_parts(builder: Any, low: _Vector, high: _Vector, out: Any) -> None:
    for index, pair in enumerate(zip(low.parts, high.parts, strict=True)):
        _store_words(builder, *pair, at(builder, pointer(builder, out), index * TILE_BYTES))


def _chunk(builder: Any, a: Any, count: Any) -> tuple[_Vector, _Vector]:
    """The two vectors of a row's next 32 numbers, with zeros beyond `count`, if that is given."""
    low, high = (_Vector(builder, _read(builder, a, count, first)) for first in (0, ROWS))
    return low, high


def _cut_chunk(builder: Any, a: Any, out: Any, count: Any = None) -> Any:
    """Writes a row's words of a chunk; the int64 is 1 if some number is not finite."""
    low, high = _chunk(builder, a, count)
    _store_parts(builder, low, high, out)
    mask = ir.IntType(ROWS)
    finite = builder.bitcast(builder.and_(low.is_finite, high.is_finite), mask)
    return builder.zext(builder.icmp_unsigned("!=", finite, ir.Constant(mask, (1 << ROWS) - 1)), I64)


def _cut_finite(builder: Any, a: Any, out: Any, count: Any) -> None:
    """Writes a row's words of the first parts of a chunk, with zeros in the place of infinities."""
    low, high = _chunk(builder, a, count)
    _store_words(builder, low.finite, high.finite, pointer(builder, out))


def _cut_words(builder: Any, low: Any, high: Any, out: Any) -> None:
    """Writes a row of a column's parts, of two vectors that lie 16 steps of k apart."""
    _store_parts(builder, *(_Vector(builder, _read(builder, address, None, 0)) for address in (low, high)), out)


def _read(builder: Any, address: Any, count: Any, first: int) -> Any:
    """Numbers `first` to `first` + 15 from an address on, with zeros in the place of those from number `count` on."""
    place, numbers = at(builder, pointer(builder, address), 4 * first), ir.VectorType(ir.FloatType(), ROWS)
    if count is None:
        return builder.load(place, align=4, typ=numbers)
    words, word = ir.VectorType(I64, ROWS), ir.IntType(32)
    undefined = ir.Constant(words, ir.Undefined)
    one = builder.insert_element(undefined, count, ir.Constant(word, 0))
    spread = builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(word, ROWS), [0] * ROWS))
    mask = builder.icmp_signed("<", ir.Constant(words, list(range(first, first + ROWS))), spread)
    function = ir.FunctionType(numbers, [place.type, word, mask.type, numbers])
    read = cgutils.get_or_insert_function(builder.module, function, f"llvm.masked.load.v{ROWS}f32.p0")
    return builder.call(read, [place, ir.Constant(word, 4), mask, ir.Constant(numbers, None)])

"""The register tile of a matrix product: a few rows times a few vector columns, summed in registers.

While it works it can ask for the weights that the next tiles need, where these do not fit in the second-level cache.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from unrollbench.kernels.simd import llvm_vector, splat, vector
from unrollbench.kernels.words import pointer

I64 = ir.IntType(64)


class _Tile:
    """Emits a tile into a function that is being compiled. Its operands are LLVM integers, as `tile` has them."""

    def __init__(self, builder, ty, rows, offsets, operands):
        self.builder, self.rows, self.offsets = builder, rows, offsets
        self.llvm, self.size = llvm_vector(ty), ty.element.bitwidth // 8
        name = f"llvm.fmuladd.v{ty.lanes}f{ty.element.bitwidth}"
        signature = ir.FunctionType(self.llvm, [self.llvm] * 3)
        self.fma = cgutils.get_or_insert_function(builder.module, signature, name)
        a, self.a_row, self.a_k, w, self.w_column, self.w_k, start, self.start_row, out, self.out_row = operands
        self.a, self.w, self.start, self.out = (pointer(builder, address) for address in (a, w, start, out))
        self.cells = [(r, c) for r in range(rows) for c in range(len(offsets))]

    def at(self, address, offset):
        return self.builder.gep(address, [offset], source_etype=ir.IntType(8))

    def times(self, stride, index):
        return self.builder.mul(stride, ir.Constant(I64, index))

    def load(self):
        """The sums that the tile starts from."""
        places = [self._cell_at(self.start, self.start_row, r, c) for r, c in self.cells]
        return [self.builder.load(place, align=self.size, typ=self.llvm) for place in places]

    def store(self, sums):
        for (r, c), value in zip(self.cells, sums, strict=True):
            self.builder.store(value, self._cell_at(self.out, self.out_row, r, c), align=self.size)

    def _cell_at(self, address, stride, r, c):
        return self.at(address, self.builder.add(self.times(stride, r), ir.Constant(I64, self.offsets[c])))

    def add(self, count, sums, ahead=None):
        """The sums after `count` more steps of k. ahead: (address, stride) of the line to ask for in each step."""
        builder, zero = self.builder, ir.Constant(I64, 0)
        entry, body, done = builder.basic_block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", count, zero), body, done)
        builder.position_at_end(body)
        walks = [(self.a, self.a_k), (self.w, self.w_k), *([ahead] if ahead else [])]
        k, places = builder.phi(I64), [builder.phi(ir.PointerType()) for _ in walks]
        before = [builder.phi(self.llvm) for _ in self.cells]
        after = self._step(places[0], places[1], before)
        if ahead:
            self._prefetch(places[2])
        following = builder.add(k, ir.Constant(I64, 1))
        moved = [(place, first, self.at(place, stride)) for place, (first, stride) in zip(places, walks, strict=True)]
        for phi, first, value in ((k, zero, following), *moved, *zip(before, sums, after, strict=True)):
            phi.add_incoming(first, entry)
            phi.add_incoming(value, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, done)
        builder.position_at_end(done)
        results = [builder.phi(self.llvm) for _ in self.cells]
        for result, first, value in zip(results, sums, after, strict=True):
            result.add_incoming(first, entry)
            result.add_incoming(value, body)
        return results

    def _step(self, a, w, sums):
        columns = range(len(self.offsets))
        places = [self.at(w, self.times(self.w_column, c)) for c in columns]
        weights = [self.builder.load(place, align=self.size, typ=self.llvm) for place in places]
        updated = []
        for r in range(self.rows):
            place = self.at(a, self.times(self.a_row, r))
            scalar = self.builder.load(place, align=self.size, typ=self.llvm.element)
            spread = splat(self.builder, scalar, self.llvm)
            updated += [self.builder.call(self.fma, [spread, weights[c], sums[r * len(columns) + c]]) for c in columns]
        return updated

    def _prefetch(self, place):
        """Asks for the line at an address, for reading, in the second-level cache."""
        word = ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [ir.PointerType(), word, word, word])
        prefetch = cgutils.get_or_insert_function(self.builder.module, function, "llvm.prefetch.p0")
        self.builder.call(prefetch, [place, *(ir.Constant(word, value) for value in (0, 2, 1))])


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
        emitted = _Tile(builder, ty, rows, offsets, args[1:])
        emitted.store(emitted.add(args[0], emitted.load()))
        return context.get_dummy_value()

    @intrinsic
    def product(typing_context, count, a, a_row, a_k, w, w_column, w_k, start, start_row, out, out_row):
        return types.void(*[types.intp] * 11), codegen

    return product


@cache
def accumulate(dtype: str, rows: int, offsets: tuple[int, ...], depth: int, a_row: int, out_row: int):
    """`tile` with all but addresses built in: adds a . w to out; K = depth, w is packed.

    Arguments: a, w, out; ahead and ahead_k, a line of later weights to ask for at the first step of k, and what to add
    for the next step's. One row asks for nothing: it reads each weight once, and the hardware follows that by itself.
    """
    ty = vector(dtype)
    size = ty.element.bitwidth // 8
    width = size * ty.lanes

    def codegen(context, builder, sig, args):
        a, w, out, ahead, ahead_k = args
        row, k, column, next_k, step = (
            ir.Constant(I64, value) for value in (a_row, size, depth * width, width, out_row)
        )
        emitted = _Tile(builder, ty, rows, offsets, (a, row, k, w, column, next_k, out, step, out, step))
        place = (pointer(builder, ahead), ahead_k) if rows > 1 else None
        emitted.store(emitted.add(ir.Constant(I64, depth), emitted.load(), place))
        return context.get_dummy_value()

    @intrinsic
    def product(typing_context, a, w, out, ahead, ahead_k):
        return types.void(*[types.intp] * 5), codegen

    return product

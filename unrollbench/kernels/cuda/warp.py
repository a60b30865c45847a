"""What generated text calls beside Python's own: wide loads, and values passed between the lanes of a tile.

vector(array, i): array[i], array[i + 1], ... as many as 16 bytes hold, by one load; i is a multiple of that number.
dot(total, p, q): total + p[0] * q[0] + p[1] * q[1] + ..., added in this order.
exchange(value, mask): the value that the lane x ^ mask passes; mask is a power of two less than the lanes, and every
thread of the block calls it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

from unrollbench.kernels.cuda.tiling import VECTOR_BYTES


@intrinsic
def vector(typing_context, array, index):
    """The elements of an aligned vector. LLVM never makes one itself: it does not know that rows begin at multiples."""
    count = VECTOR_BYTES * 8 // array.dtype.bitwidth
    found = types.UniTuple(array.dtype, count)

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        whole = ir.VectorType(data.type.pointee, count).as_pointer()
        first = builder.bitcast(builder.gep(data, [arguments[1]]), whole)
        loaded = builder.load(first, align=VECTOR_BYTES)
        values = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), place)) for place in range(count)]
        return context.make_tuple(builder, signature.return_type, values)

    return found(array, types.uint64), codegen


@intrinsic
def dot(typing_context, total, p, q):
    """One expression, since hundreds of them stand in a text, and each takes its time to be compiled."""

    def codegen(context, builder, signature, arguments):
        total, p, q = arguments
        for place in range(signature.args[1].count):
            term = builder.fmul(builder.extract_value(p, place), builder.extract_value(q, place), flags=["contract"])
            total = builder.fadd(total, term, flags=["contract"])
        return total

    return total(total, p, q), codegen


@cuda.jit(device=True, forceinline=True)
def exchange(value, mask):
    """By a shuffle: all threads of a warp are in the same place when they call it."""
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, mask)

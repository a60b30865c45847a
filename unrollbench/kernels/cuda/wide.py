"""Loads of 16 bytes at once, the widest that a thread has: text of single elements is compiled to single loads."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from unrollbench.kernels.cuda.device import Compiler

WIDE_BYTES = 16


def wide_load(compiler: Compiler) -> Any:
    """wide(array, index): elements index and index + 1 of int64, by one load. index is even, and not negative."""
    return _simulated if compiler.simulated else _wide


def _simulated(array: Any, index: Any) -> tuple[Any, Any]:
    if index % 2:
        raise IndexError(f"a load of {WIDE_BYTES} bytes begins at element {index}, which is odd")
    return array[index], array[index + 1]


@intrinsic
def _wide(typing_context, array, index):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        both = ir.VectorType(ir.IntType(64), 2)
        first = builder.gep(data, [arguments[1]])
        loaded = builder.load(builder.bitcast(first, both.as_pointer()), align=WIDE_BYTES)
        values = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), place)) for place in range(2)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.int64, 2)(array, types.uint64), codegen

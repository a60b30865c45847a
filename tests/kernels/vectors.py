"""Vector functions applied to whole arrays, through a compiled loop of one vector per turn."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from unrollbench.kernels import elementary, host, pack, simd
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.source import define
from unrollbench.tensors import Array

SIMD: Any = simd  # untyped: its functions are Numba intrinsics


def call(kernel: Kernel, *arguments: int) -> None:
    """Calls a compiled kernel with integer arguments."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(kernel.address)(*arguments)


def applied(function: Callable[..., Any], *arrays: Array, registers: int = 1) -> Array:
    """function(*arrays), element by element, as compiled code computes it on that many vector registers at once."""
    dtype, count = arrays[0].dtype.name, arrays[0].size
    lanes = registers * host.lanes(dtype)
    blocks = -(-count // lanes)
    padded = [pack.aligned((blocks * lanes,), dtype) for _ in range(len(arrays) + 1)]
    for target, array in zip(padded[1:], arrays, strict=True):
        target[:count] = array
    call(_loop(function, dtype, registers, len(arrays)), blocks, *(array.ctypes.data for array in padded))
    return padded[0][:count]


@cache
def _loop(function: Callable[..., Any], dtype: str, registers: int, arguments: int) -> Kernel:
    """A kernel (blocks, out, in_0, ...) that applies the function to vector after vector."""
    assert function in elementary.FUNCTIONS
    load, store, _ = SIMD.memory(dtype, registers)
    width = host.vector_unit().width_bytes
    step = registers * width
    names = [f"in_{index}" for index in range(arguments)]
    loads = ", ".join(f"load({name} + at, {width})" for name in names)
    text = f"def loop(blocks, out, {', '.join(names)}):\n"
    text += f"    for at in range(0, blocks * {step}, {step}):\n        store(out + at, {width}, function({loads}))\n"
    return Kernel("loop", define(text, "loop", {"load": load, "store": store, "function": function}), arguments + 2)

"""Vector functions applied to whole arrays, through a compiled loop of one vector per turn."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from unrollbench.kernels import host, pack, simd
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.source import define
from unrollbench.tensors import Array

SIMD: Any = simd  # untyped: its functions are Numba intrinsics


def call(kernel: Kernel, *arguments: int) -> None:
    """Calls a compiled kernel with integer arguments."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(kernel.address)(*arguments)


def applied(function: Callable[..., Any], *arrays: Array) -> Array:
    """function(*arrays), element by element, as compiled code computes it on vector registers."""
    dtype, count = arrays[0].dtype.name, arrays[0].size
    blocks = -(-count // host.lanes(dtype))
    padded = [pack.aligned((blocks * host.lanes(dtype),), dtype) for _ in range(len(arrays) + 1)]
    for target, array in zip(padded[1:], arrays, strict=True):
        target[:count] = array
    call(_loop(function, dtype, len(arrays)), blocks, *(array.ctypes.data for array in padded))
    return padded[0][:count]


@cache
def _loop(function: Callable[..., Any], dtype: str, arguments: int) -> Kernel:
    """A kernel (blocks, out, in_0, ...) that applies the function to vector after vector."""
    load, store, _ = SIMD.memory(dtype)
    width = host.vector_unit().width_bytes
    names = [f"in_{index}" for index in range(arguments)]
    loads = ", ".join(f"load({name} + at)" for name in names)
    text = f"def loop(blocks, out, {', '.join(names)}):\n"
    text += f"    for at in range(0, blocks * {width}, {width}):\n        store(out + at, function({loads}))\n"
    return Kernel("loop", define(text, "loop", {"load": load, "store": store, "function": function}), arguments + 2)

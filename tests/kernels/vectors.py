"""Vector functions applied to whole arrays, through a compiled loop of one vector per turn."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from unrollbench.kernels import host, pack
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.equations import Equations, Place, on_tile
from unrollbench.kernels.expression import Expression
from unrollbench.kernels.lowering import kernel
from unrollbench.tensors import Array


def call(called: Kernel, *arguments: int) -> None:
    """Calls a compiled kernel with integer arguments."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(called.address)(*arguments)


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Small integers, whose products and sums every float type holds exactly."""
    return rng.integers(-4, 5, shape).astype(dtype)


def applied(function: Callable[..., Any], *arrays: Array, registers: int = 1) -> Array:
    """function(*arrays), element by element, as compiled code computes it on that many vector registers at once."""
    dtype, count = arrays[0].dtype.name, arrays[0].size
    lanes = registers * host.lanes(dtype)
    blocks = -(-count // lanes)
    padded = [pack.aligned((blocks * lanes,), dtype) for _ in range(len(arrays) + 1)]
    for target, array in zip(padded[1:], arrays, strict=True):
        target[:count] = array
    loop = _loop(function, dtype, registers, len(arrays), host.vector_unit())
    call(loop, blocks, *(array.ctypes.data for array in padded))
    return padded[0][:count]


@cache
def _loop(function: Callable[..., Any], dtype: str, registers: int, arguments: int, unit: host.VectorUnit) -> Kernel:
    """A kernel (blocks, out, in_0, ...) that applies the function to vector after vector. unit: the host's."""
    names = [f"in_{index}" for index in range(arguments)]
    loads = tuple((Expression(), Place(name)) for name in names)
    result = function(*(argument for argument, _ in loads))
    tile = on_tile(dtype, 1, registers, Equations(loads, ((result, Place("out")),)))
    step = registers * unit.width_bytes
    text = f"def loop(blocks, out, {', '.join(names)}):\n"
    text += f"    for at in range(0, blocks * {step}, {step}):\n"
    text += f"        tile({', '.join(f'{name} + at' for name in (*names, 'out'))})\n"
    return kernel(text, "loop", {"tile": tile})


def with_registers(monkeypatch: pytest.MonkeyPatch, registers: int) -> None:
    """As on a host with so many vector registers."""
    unit = replace(host.vector_unit(), registers=registers)
    monkeypatch.setattr(host, "vector_unit", lambda: unit)

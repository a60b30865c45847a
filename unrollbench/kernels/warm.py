"""What a process pays once, before its first kernel: Numba's lazy imports, its type tables, LLVM's start."""

from __future__ import annotations

import numba


def compile_one() -> None:
    """A function that is none of the cases' own is compiled, so that the first case's build is its own and no more."""

    @numba.njit("f4(f4[::1], i8)", nogil=True, error_model="numpy")
    def total(values, count):
        result = numba.float32(0)
        for i in range(count):
            result += values[i]
        return result

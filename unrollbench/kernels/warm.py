"""What a process pays once, before its first kernel: Numba's lazy imports, type tables and builtins, LLVM's start."""

from __future__ import annotations

import numba


def compile_one() -> None:
    """A function that is none of the cases' own is compiled, so that the first case's build is its own and no more."""

    @numba.cfunc("void(int64, int64)", nopython=True, error_model="numpy")
    def count(first, second):
        total = 0
        for i in range(min(first, second)):
            total += i

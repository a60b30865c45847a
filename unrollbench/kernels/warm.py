"""What a process pays once, before its first kernel: Numba's lazy imports, type tables and builtins, LLVM's start."""

from __future__ import annotations

import numba

from unrollbench.kernels import threads


def compile_one() -> None:
    """What is none of the cases' own is compiled, so that a case's build is its own and no more.

    A function, with which Numba starts, and what the threads of every team run; no thread is started.
    """
    threads.compiled()
    threads.barrier_kernel()

    @numba.cfunc("void(int64, int64)", nopython=True, error_model="numpy")
    def count(first, second):
        total = 0
        for i in range(min(first, second)):
            total += i

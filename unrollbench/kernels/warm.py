"""What a process pays once, before its first kernel: Numba's imports, LLVM's start, the code of teams of threads."""

from __future__ import annotations

from unrollbench.kernels import threads


def compile_one() -> None:
    """What is none of the cases' own is compiled, so that a case's build is its own and no more.

    That is what the threads of every team run; no thread is started.
    """
    threads.launcher()
    threads.barrier_kernel()

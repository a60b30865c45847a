"""Generated kernels that do nothing but what a ceiling is named after: multiply-adds, or reads of 16 bytes.

    multiply_adds   each round, COPIES times, every sum s of a thread becomes s a[0] + a[1]
    read_shared     a block copies its share of the words to shared memory, and reads it there, round after round
    read_global     the grid reads the words from the first to the last, and again from the first: a round is
                    GLOBAL_LOADS loads of every thread

Sums are stored at the end, so that no compiler leaves anything out.
"""

from __future__ import annotations

from typing import Any

from unrollbench.kernels.cuda.device import Compiler
from unrollbench.kernels.cuda.tile import indented
from unrollbench.kernels.cuda.tiling import Limits
from unrollbench.kernels.cuda.wide import WIDE_BYTES, wide_load
from unrollbench.kernels.source import define, function

CHAINS = 8
"""Independent sums of a thread: with 2048 threads on a multiprocessor, or half as many, any latency is hidden."""
COPIES = 32
"""How often a round adds to each sum: 256 multiply-adds beside the loop's three instructions."""
SHARED_LOADS, GLOBAL_LOADS = 8, 4
"""Loads of a thread that are under way at a time: with THREADS of them, 32 and 16 KiB per block."""
THREADS = 256
WORD, WORD_BYTES = "int64", 8
"""What is read: integers, since no device adds them as slowly as some add float64."""
EACH = WIDE_BYTES // WORD_BYTES
"""Words of one load."""


def threads(limits: Limits) -> int:
    """Threads of a block."""
    return THREADS if limits.block is None else limits.block.threads


def multiply_adds(compiler: Compiler, dtype: str) -> Any:
    """Kernel (a, c, rounds): a has the two numbers of every multiply-add, then those with which the sums begin.

    Registers only, but for a sum per thread that c takes at the end.
    """
    sums = [f"s{chain}" for chain in range(CHAINS)]
    lines = [
        f"place = cuda.blockIdx.x * {threads(compiler.limits)} + cuda.threadIdx.x",
        "by, more = a[0], a[1]",
        *(f"{name} = a[{2 + chain}]" for chain, name in enumerate(sums)),
        "while rounds > 0:",
        *indented([f"{name} = cuda.fma({name}, by, more)" for name in sums] * COPIES),
        "    rounds -= 1",
        f"c[at(place)] = {' + '.join(sums)}",
    ]
    return _kernel(compiler, "multiply_adds", dtype, "a, c, rounds", lines)


def read_shared(compiler: Compiler) -> Any:
    """Kernel (w, c, count, zero, rounds): each block reads its `count` words of w, each thread stores a sum in c.

    count is a whole number of the block's steps of SHARED_LOADS loads, or less than one and then read round and round.
    zero is 0, which no compiler knows: for all that it can tell, every round reads from other addresses.
    """
    block, loads = threads(compiler.limits), range(SHARED_LOADS)
    alignment = "" if compiler.simulated else f", {WIDE_BYTES}"
    lines = [
        f"held = cuda.shared.array(0, DTYPE{alignment})",
        "first = cuda.blockIdx.x * count",
        "i = t",
        "while i < count:",
        "    held[at(i)] = w[at(first + i)]",
        f"    i += {block}",
        "cuda.syncthreads()",
        *(f"i{load} = (t + {load * block}) * {EACH} % count" for load in loads),
        "while rounds > 0:",
        "    s = rounds & zero",
        "    while s < count:",
        *indented((line for load in loads for line in _add("held", f"i{load} + s", load)), 2),
        f"        s += {SHARED_LOADS * block * EACH}",
        "    rounds -= 1",
    ]
    return _reads(compiler, "read_shared", "w, c, count, zero, rounds", lines, SHARED_LOADS)


def read_global(compiler: Compiler) -> Any:
    """Kernel (w, c, count, rounds): the grid reads `count` words of w, each thread stores a sum in c.

    count is even, and at least what the grid reads at once. There is no end of a working set where fewer loads would
    be under way, only a turn.
    """
    lines = [f"stride = cuda.gridDim.x * {threads(compiler.limits) * EACH}", f"i = place * {EACH}", "while rounds > 0:"]
    for load in range(GLOBAL_LOADS):
        lines += indented([*_add("w", "i", load), "i += stride", "if i >= count:", "    i -= count"])
    lines.append("    rounds -= 1")
    return _reads(compiler, "read_global", "w, c, count, rounds", lines, GLOBAL_LOADS)


def _add(array: str, index: str, load: int) -> list[str]:
    """16 bytes more of a sum."""
    return [f"p, q = wide({array}, at({index}))", f"sum{load} += p + q"]


def _reads(compiler: Compiler, name: str, arguments: str, body: list[str], loads: int) -> Any:
    """The body with a sum for each load that is under way."""
    sums = [f"sum{load}" for load in range(loads)]
    lines = [
        "t = cuda.threadIdx.x",
        f"place = cuda.blockIdx.x * {threads(compiler.limits)} + t",
        *(f"{each} = 0" for each in sums),
        *body,
        f"c[at(place)] = {' + '.join(sums)}",
    ]
    return _kernel(compiler, name, WORD, arguments, lines)


def _kernel(compiler: Compiler, name: str, dtype: str, arguments: str, lines: list[str]) -> Any:
    scope = compiler.scope(dtype) | {"wide": wide_load(compiler)}
    made = define(function(name, arguments, lines), name, scope)
    return compiler.kernel(made, compiler.signature(dtype, arguments))

"""This machine's limits, measured with the cells' own code: multiply-adds, bytes read and barriers per second.

The best of several tries is reported, since a limit is what the machine can do when nothing disturbs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from unrollbench.case import DTYPES
from unrollbench.kernels import amx, host, matrix, pack, pairs, parts
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.simd import multiply_add, vector
from unrollbench.kernels.source import function
from unrollbench.kernels.threads import ARRIVAL_BYTES, Team, waiting, waits
from unrollbench.kernels.words import Emit, peek
from unrollbench.records import Ceiling
from unrollbench.roofline import BARRIER, MATRIX_UNIT, MULTIPLY_ADD, PAIRED, READ, UNDISTURBED_SHARE

CHAINS = 12
"""Independent sums: enough to hide a multiply-add's latency on two units, few enough for 16 registers."""
TRY_S = 0.02
"""Every ceiling is tried for TRIES times so long."""
TRIES = 10
PATIENCE = 5
"""How many times longer is tried where something else has the processors all the while."""
KIBI = 1024
SIZES_BYTES = tuple(KIBI * size for size in (16, 256, 1024, 4 * KIBI, 16 * KIBI, 64 * KIBI, 256 * KIBI))
"""Bytes per thread that are read again and again: the smaller fit into caches, the largest into none that is common."""
BARRIERS = 20_000
"""Of one run: some milliseconds, within which no host moves a processor of its virtual machines often."""
ROUND_BYTES = 32 * KIBI * KIBI
"""What one run reads at least: a millisecond's work, beside which starting the threads is nothing."""


def measure(
    threads: int, dtype: str = "float32", sizes_bytes: Sequence[int] | None = None, try_s: float | None = None
) -> Iterator[Ceiling]:
    """The peak of multiply-adds in GFLOP/s, then the read bandwidth in GB/s for each working set (SIZES_BYTES).

    Between them, where the processor adds with units of their own, the peak of multiply-adds in pairs (`pairs`); in
    float32 and where there is one, that of the matrix unit: of multiply-adds of float32, for each
    of which it makes six (`matrix`); and with several threads, how many million barriers of theirs fit into a second.
    """
    try_s = TRY_S if try_s is None else try_s
    with closing(Team(threads)) as team:
        count = 1_000_000
        flops = 2 * CHAINS * host.lanes(dtype) * count * threads
        best = _best(team, _multiply_adds(dtype), [(0, 0, count)] * threads, try_s)
        yield Ceiling(MULTIPLY_ADD, dtype, threads, flops / best.seconds / 1e9, "GFLOP/s", None, best.processor_share)
        if host.adds_apart():
            rounds = count // pairs.STEPS
            best = _best(team, _paired(dtype), [(0, 0, rounds)] * threads, try_s)
            paired = flops // count * rounds * pairs.STEPS / best.seconds / 1e9
            yield Ceiling(PAIRED, dtype, threads, paired, "GFLOP/s", None, best.processor_share)
        if dtype == "float32" and host.matrix_unit():
            yield _matrix_unit(team, try_s)
        if threads > 1:
            yield _barriers(team, dtype, try_s)
        reads = _reads(dtype)
        for size in SIZES_BYTES if sizes_bytes is None else sizes_bytes:
            buffers = [pack.aligned((size // DTYPES[dtype],), dtype) for _ in range(threads)]
            for buffer in buffers:
                buffer[...] = 1.0  # untouched pages would all be the one zero page
            rounds = max(1, ROUND_BYTES // size)
            step = CHAINS * host.lanes(dtype) * DTYPES[dtype]
            moved = size // step * step * rounds * threads  # what is left of a whole step is not read
            best = _best(team, reads, [(buffer.ctypes.data, size, rounds) for buffer in buffers], try_s)
            yield Ceiling(READ, dtype, threads, moved / best.seconds / 1e9, "GB/s", size, best.processor_share)


def _matrix_unit(team: Team, try_s: float) -> Ceiling:
    """The peak of the matrix unit, on numbers between -1 and 1: zeros would cost it less power."""
    numbers, rounds = pack.aligned((amx.REGISTERS, amx.TILE_BYTES // 4), "float32"), 20_000
    drawn = np.random.default_rng(0).uniform(-1, 1, (2, parts.CHUNK, amx.ROWS)).astype(np.float32)
    numbers[amx.SUMS :] = pack.split(drawn)[:, 0, :2].reshape(amx.SUMS, -1)  # the first two parts of two columns
    best = _best(team, matrix.peak(), [(numbers.ctypes.data, rounds, 0)] * team.size, try_s)
    flops = 2 * matrix.MULTIPLY_ADDS_PER_ROUND * rounds * team.size
    value = flops / best.seconds / 1e9
    return Ceiling(MATRIX_UNIT, "float32", team.size, value, "GFLOP/s", None, best.processor_share)


def _barriers(team: Team, dtype: str, try_s: float) -> Ceiling:
    """How often all threads can wait for each other, with nothing to do between."""
    lines = ["for _ in range(peek(f, 16)):", f"    barrier(peek(f, 0), peek(f, 8), {team.size})"]
    called, uses = {"peek": peek, **waiting(team.size)}, waits(team.size)
    arrivals = pack.aligned((team.size, ARRIVAL_BYTES // 8), "int64")
    frames = [(arrivals.ctypes.data, thread, BARRIERS) for thread in range(team.size)]
    best = _best(team, kernel(function("barriers", "f", lines), "barriers", called, uses), frames, try_s)
    return Ceiling(BARRIER, dtype, team.size, BARRIERS / best.seconds / 1e6, "million/s", None, best.processor_share)


@dataclass(frozen=True)
class _Try:
    """One run: its seconds, and the part of them for which its threads had their processors."""

    seconds: float
    processor_share: float


def _best(team: Team, kernel: Kernel, frames: list[tuple[int, int, int]], try_s: float) -> _Try:
    """The fastest of at least TRIES runs that had their processors; of all, if even with patience none had."""
    table, start, tries = np.array(frames, np.int64), time.perf_counter(), list[_Try]()
    while True:
        cpu_s, started = team.cpu_s(), time.perf_counter()
        team.run(kernel.address, table)
        seconds = time.perf_counter() - started
        tries.append(_Try(seconds, min(1.0, (team.cpu_s() - cpu_s) / (seconds * team.size))))
        undisturbed = [one for one in tries if one.processor_share >= UNDISTURBED_SHARE]
        spent_s = time.perf_counter() - start
        if len(tries) >= TRIES and spent_s >= TRIES * try_s * (1 if undisturbed else PATIENCE):
            return min(undisturbed or tries, key=lambda one: one.seconds)


def _multiply_adds(dtype: str) -> Kernel:
    """(frame): frame[2] rounds of CHAINS independent multiply-adds, in registers only."""
    ty = vector(dtype)
    near_one = ir.Constant(ty.llvm, [0.999] * ty.lanes)
    rounds = _rounds(dtype, lambda builder, total, _: multiply_add(builder, ty, total, near_one, near_one))
    text = function("multiply_adds", "f", ["rounds(f, peek(f, 16), 0)"])
    return kernel(text, "multiply_adds", {"peek": peek, "rounds": rounds})


def _paired(dtype: str) -> Kernel:
    """(frame): frame[2] rounds of CHAINS sums of pairs.STEPS products each, in pairs and in registers only."""
    ty = vector(dtype)
    small = ir.Constant(ty.llvm, [0.001] * ty.lanes)
    rounds = _rounds(dtype, lambda builder, total, _: pairs.in_registers(builder, ty, total, small))
    text = function("paired", "f", ["rounds(f, peek(f, 16), 0)"])
    return kernel(text, "paired", {"peek": peek, "rounds": rounds})


def _reads(dtype: str) -> Kernel:
    """(frame): frame[1] bytes from address frame[0] are read and added up, frame[2] times."""
    ty, step = vector(dtype), CHAINS * host.lanes(dtype) * DTYPES[dtype]

    def added(builder: Any, total: Any, place: Any) -> Any:
        return builder.fadd(total, builder.load(place, align=ty.size, typ=ty.llvm))

    lines = ["for _ in range(peek(f, 16)):", f"    rounds(peek(f, 0), peek(f, 8) // {step}, {step})"]
    return kernel(function("reads", "f", lines), "reads", {"peek": peek, "rounds": _rounds(dtype, added)})


def _rounds(dtype: str, updated: Callable[[Any, Any, Any], Any]) -> Emit:
    """rounds(address, count, step): count times, each of CHAINS sums becomes updated(builder, it, place of a vector).

    The places follow each other from `address` on, and go on by `step` bytes each time.

    An empty assembly statement uses the sums at the end, so that no compiler can leave the work out.
    """
    ty = vector(dtype)
    llvm_type, word = ty.llvm, ir.IntType(64)

    def rounds(builder: Any, address: Any, count: Any, step: Any) -> None:
        entry, body, done = builder.basic_block, builder.append_basic_block(), builder.append_basic_block()
        start = builder.inttoptr(address, ir.PointerType())
        builder.cbranch(builder.icmp_signed(">", count, ir.Constant(word, 0)), body, done)
        builder.position_at_end(body)
        index, at = builder.phi(word), builder.phi(ir.PointerType())
        sums = [builder.phi(llvm_type) for _ in range(CHAINS)]
        after_round = []
        for chain, total in enumerate(sums):
            offset = ir.Constant(word, chain * ty.lanes * ty.size)
            after_round.append(updated(builder, total, builder.gep(at, [offset], source_etype=ir.IntType(8))))
        following = builder.add(index, ir.Constant(word, 1))
        moved = builder.gep(at, [step], source_etype=ir.IntType(8))
        first = [ir.Constant(llvm_type, [float(chain)] * ty.lanes) for chain in range(CHAINS)]
        loop = [
            (index, ir.Constant(word, 0), following),
            (at, start, moved),
            *zip(sums, first, after_round, strict=True),
        ]
        for phi, before, after in loop:
            phi.add_incoming(before, entry)
            phi.add_incoming(after, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, done)
        builder.position_at_end(done)
        used = ir.FunctionType(ir.VoidType(), [llvm_type])
        results = [builder.phi(llvm_type) for _ in sums]
        for result, before, after in zip(results, first, after_round, strict=True):
            result.add_incoming(before, entry)
            result.add_incoming(after, body)
        for result in results:
            builder.asm(used, "", "x" if host.is_x86() else "w", [result], side_effect=True)

    return rounds

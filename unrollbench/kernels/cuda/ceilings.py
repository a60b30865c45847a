"""A GPU's limits: multiply-adds per second in registers, and bytes read per second for working sets of any size.

A launch takes milliseconds, with its loop on the device; events time it, and the best of several tries is reported.

A working set that fits into the shared memory of all multiprocessors together lies there, a share in each, as the
weights of a dynamic program do. A larger one lies in global memory, and the L2 cache or the memory behind it serves it.
Neither multiply-adds of tensor cores nor numbers that stay in registers are measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unrollbench.kernels.cuda import ceiling_text as text
from unrollbench.kernels.cuda.device import Device, Launch
from unrollbench.kernels.cuda.tiling import Limits
from unrollbench.kernels.cuda.wide import WIDE_BYTES
from unrollbench.records import Ceiling
from unrollbench.roofline import MULTIPLY_ADD, READ

ARITHMETIC_BLOCKS, READING_BLOCKS = 8, 4
"""Blocks per multiprocessor; of those that read shared memory there is one each."""
BANKS_BYTES = 128
"""What shared memory reads at once. A share that is read round and round is a whole number of them."""
TRY_S = 0.01
"""Each of TRIES takes so long, beside which a launch is nothing."""
TRIES = 10
MEBI = 1024 * 1024
SIZES_BYTES = tuple(MEBI * size for size in (1, 4, 16, 32, 64, 256, 1024))
"""Working sets of all multiprocessors together: from what fits into shared memory to what fits into no cache."""


@dataclass(frozen=True)
class Work:
    """A kernel with all but its last argument, the number of rounds.

    per_round: flops or bytes of one round, all threads together. found: what every thread stores. place: where the
    working set lies; None for arithmetic. least_rounds: so many read all of it.
    """

    kernel: Any
    launch: Launch
    arguments: tuple[Any, ...]
    per_round: int
    found: Any
    place: str | None = None
    least_rounds: int = 1

    def starter(self, device: Device) -> Callable[[int], None]:
        """What starts so many rounds. The kernel is loaded, and its launch is granted."""
        device.prepare(self.kernel, self.launch, False)
        start = device.bind(self.kernel, self.launch)
        return lambda rounds: start(*self.arguments, rounds)


def measure(
    device: Device, dtype: str = "float32", sizes_bytes: Sequence[int] | None = None, try_s: float | None = None
) -> Iterator[Ceiling]:
    """The peak of multiply-adds in GFLOP/s, then the read bandwidth in GB/s for each working set (SIZES_BYTES).

    A working set is that of the whole grid. Those for which the device has no memory left are left out.
    """
    try_s = TRY_S if try_s is None else try_s
    rate = _best(device, multiply_adds(device, dtype), try_s)
    yield Ceiling(MULTIPLY_ADD, dtype, None, rate / 1e9, "GFLOP/s", device="cuda")
    for size in SIZES_BYTES if sizes_bytes is None else sizes_bytes:
        device.release()
        if size + MEBI <= device.free_bytes():
            rate, place = _bandwidth(device, size, try_s)
            yield Ceiling(READ, dtype, None, rate / 1e9, "GB/s", size, device="cuda", place=place)


def _bandwidth(device: Device, size_bytes: int, try_s: float) -> tuple[float, str | None]:
    """Bytes per second, and where they were read; nothing refers to the working set afterwards."""
    work = reads(device, size_bytes)
    return _best(device, work, try_s), work.place


def _best(device: Device, work: Work, try_s: float) -> float:
    """What the fastest of TRIES did per second, each as many rounds as take try_s."""
    start, rounds = work.starter(device), work.least_rounds
    start(rounds)
    while (spent_s := device.event_s(partial(start, rounds), 1, False)[0]) < try_s / 4:
        rounds *= 4
    rounds = max(work.least_rounds, round(rounds * try_s / spent_s))
    return rounds * work.per_round / min(device.event_s(partial(start, rounds), TRIES, False))


def multiply_adds(device: Device, dtype: str) -> Work:
    """Multiply-adds on every multiprocessor; two flops each."""
    launch = _launch(device.limits, ARITHMETIC_BLOCKS, 0)
    a = device.allocate(2 + text.CHAINS, dtype)
    device.upload(a, 0, np.array([0.999, 0.999, *range(text.CHAINS)], dtype))
    c = device.allocate(_threads(launch), dtype)
    flops = 2 * text.CHAINS * text.COPIES * _threads(launch)
    return Work(text.multiply_adds(device, dtype), launch, (a, c), flops, c)


def reads(device: Device, size_bytes: int) -> Work:
    """Reading a working set of that size, in shared memory if it fits into that of all multiprocessors together."""
    limits = device.limits
    fits = size_bytes <= limits.processors * limits.shared_bytes
    return _shared_reads(device, size_bytes) if fits else _global_reads(device, size_bytes)


def _shared_reads(device: Device, size_bytes: int) -> Work:
    """Each block has a share, and all the shared memory that it may have: no two are on one multiprocessor.

    What is left of a whole step is not read, which changes nothing: shared memory is as fast everywhere.
    """
    limits = device.limits
    launch = _launch(limits, 1, limits.shared_bytes)
    blocks = launch.grid[0]
    step = text.SHARED_LOADS * text.threads(limits) * WIDE_BYTES
    share = max(WIDE_BYTES, size_bytes // blocks)
    unit = next(unit for unit in (step, BANKS_BYTES, WIDE_BYTES) if unit <= share)
    share = share // unit * unit
    words, found = _arrays(device, launch, blocks * share)
    arguments = words, found, share // text.WORD_BYTES, 0
    per_round = blocks * max(step, share)
    return Work(text.read_shared(device), launch, arguments, per_round, found, "shared memory")


def _global_reads(device: Device, size_bytes: int) -> Work:
    """Larger than shared memory, so more than the 16 KiB per multiprocessor and block that the grid reads at once."""
    launch = _launch(device.limits, READING_BLOCKS, 0)
    count = size_bytes // WIDE_BYTES * text.EACH
    words, found = _arrays(device, launch, count * text.WORD_BYTES)
    per_round = text.GLOBAL_LOADS * WIDE_BYTES * _threads(launch)
    least = -(-size_bytes // per_round)
    return Work(text.read_global(device), launch, (words, found, count), per_round, found, "global memory", least)


def _arrays(device: Device, launch: Launch, size_bytes: int) -> tuple[Any, Any]:
    """The words to be read, every one another number, and one for each thread to store."""
    count = size_bytes // text.WORD_BYTES
    words = device.allocate(count, text.WORD)
    device.upload(words, 0, np.arange(count, dtype=text.WORD))
    return words, device.allocate(_threads(launch), text.WORD)


def _threads(launch: Launch) -> int:
    """Threads of the whole grid."""
    return launch.grid[0] * launch.block[0]


def _launch(limits: Limits, per_processor: int, shared_bytes: int) -> Launch:
    blocks = min(per_processor * limits.processors, limits.blocks)
    return Launch((blocks, 1), (text.threads(limits), 1, 1), shared_bytes)

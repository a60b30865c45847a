"""What a fork owes its parent: pages that are there, but have yet to be mapped or copied.

A forked process does not map the pages of libraries before it touches them, and copies each page of the heap when it
first writes there. Left to happen by themselves, these faults would go into the time and the memory of the build of
whatever is measured: some 10,000 of them, 50 MB of LLVM's or TensorFlow's own code that the build did not load.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
"""madvise(2), since Linux 5.14; on older kernels the faults stay where they are."""
PRESENT = 1 << 63
"""pagemap: the page is in memory."""
_MAPPING = re.compile(r"(?P<start>\w+)-(?P<end>\w+) (?P<rights>[rwxps-]+) \w+ \S+ \d+ *(?P<name>.*)")


@dataclass(frozen=True)
class Range:
    """Addresses of pages that a process has in memory; private: it may write there, so that a fork must copy them."""

    start: int
    size_bytes: int
    private: bool


def present() -> tuple[Range, ...]:
    """The pages that this process has in memory now; none where the system does not tell."""
    if sys.platform != "linux":
        return ()
    ranges: list[Range] = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
        for start, end, private in _mappings(Path("/proc/self/maps").read_text()):
            pagemap.seek(start // mmap.PAGESIZE * 8)
            entries = np.frombuffer(pagemap.read((end - start) // mmap.PAGESIZE * 8), np.uint64)
            for first, last in _runs((entries & PRESENT) != 0):
                ranges.append(Range(start + first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE, private))
    return tuple(ranges)


def take(ranges: Sequence[Range]) -> None:
    """This process, a fork of the one that had these pages, has them too, and its own copies of the private ones."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for range_ in ranges:
        madvise(range_.start, range_.size_bytes, MADV_POPULATE_WRITE if range_.private else MADV_POPULATE_READ)


def _mappings(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, private) of each readable mapping but for the shared ones and the kernel's own, such as [vvar]."""
    for line in text.splitlines():
        found = _MAPPING.fullmatch(line)
        if found is None or found["rights"][0] != "r" or found["rights"][3] != "p" or found["name"].startswith("[v"):
            continue
        yield int(found["start"], 16), int(found["end"], 16), found["rights"][1] == "w"


def _runs(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)

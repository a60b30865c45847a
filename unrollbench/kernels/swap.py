"""swap_memory on the CPU: saved activations live in an unlinked memory-mapped file and leave resident memory.

The file has no name, so nothing is left behind however the process ends. It must lie on a disk: a file in a memory file
system would swap nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

from numba import types

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.simd import peek

DISK_DIRECTORY = "/var/tmp"
"""Kept across reboots by the file hierarchy standard, so on a disk; TMPDIR overrides it."""
MADV_DONTNEED = 4
"""Linux: drops the mapping's pages from the process; a shared file mapping keeps their content in the file."""

_madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.uintp, types.int32))


def backing(size_bytes: int) -> mmap.mmap:
    """A zeroed mapping of an unlinked file of that size. Raises OSError where no file can be made."""
    directory = os.environ.get("TMPDIR") or (DISK_DIRECTORY if Path(DISK_DIRECTORY).is_dir() else None)
    with tempfile.TemporaryFile(prefix="unrollbench-swap-", dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is an error now, not a crash later
        return mmap.mmap(file.fileno(), size_bytes)


def release(layout: LayerLayout) -> Kernel:
    """`release(f, start, stop)`: thread 0 drops the saved activations of steps start..stop from resident memory.

    The state after the last of them goes too: the backward pass reads it with this window, not only with the next.
    Whole pages, so also what a page holds of the neighbouring steps: the file keeps it, and the next use reads it back.
    """
    page = mmap.PAGESIZE
    arrays = layout.arrays.items()
    saved = [(layout.fields[name], a.row_bytes, int(a.is_state)) for name, a in arrays if a.slots == "time"]
    saved += [(layout.fields[f"gates_{s.index}"], s.row_bytes, 0) for s in layout.stages]
    buffers, batch, f_thread = tuple(saved), layout.batch, layout.fields["thread"]

    def run(f, start, stop):
        if peek(f, f_thread) == 0:
            for i in range(len(buffers)):
                field, row_bytes, after = buffers[i]
                slot = batch * row_bytes
                first = (peek(f, field) + start * slot) // page * page
                last = (peek(f, field) + (stop + after) * slot + page - 1) // page * page
                _madvise(first, last - first, MADV_DONTNEED)

    return Kernel("release", run, 3)

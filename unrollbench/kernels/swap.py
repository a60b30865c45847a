"""swap_memory on the CPU: saved activations live in an unlinked memory-mapped file and leave resident memory.

The file has no name, so nothing is left behind however the process ends. It must lie on a disk: a file in a memory file
system would swap nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

from llvmlite import ir

from unrollbench.errors import SwapError
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.source import function
from unrollbench.kernels.words import c_function, peek

DISK_DIRECTORY = "/var/tmp"
"""Kept across reboots by the file hierarchy standard, so on a disk; TMPDIR overrides it."""
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems whose files are resident memory by another name."""
MADV_DONTNEED = 4
"""Linux: drops the mapping's pages from the process; a shared file mapping keeps their content in the file."""


def backing(size_bytes: int) -> mmap.mmap:
    """A zeroed mapping of an unlinked file of that size.

    Raises SwapError where the folder is in memory, or no such file can be made.
    """
    folder = Path(os.environ.get("TMPDIR") or DISK_DIRECTORY)
    kind = _file_system(folder)
    if kind in IN_MEMORY:
        raise SwapError(
            f"swap_memory: {folder} lies in memory ({kind}), so nothing would be swapped; set TMPDIR to a disk"
        )
    try:
        with tempfile.TemporaryFile(prefix="unrollbench-swap-", dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is an error now, not a crash later
            return mmap.mmap(file.fileno(), size_bytes)
    except OSError as error:
        raise SwapError(
            f"swap_memory: no file of {size_bytes} bytes in {folder}: {error.strerror}; set TMPDIR"
        ) from error


def _file_system(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """The type of the file system that holds the folder; None where the system does not tell."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    points = {Path(words[1].replace("\\040", " ")): words[2] for line in lines if len(words := line.split()) > 2}
    here = folder.resolve()
    return next((points[at] for at in (here, *here.parents) if at in points), None)


def release(layout: LayerLayout) -> Kernel:
    """`release(f, start, stop)`: thread 0 drops the saved activations of steps start..stop from resident memory.

    The state after the last of them goes too: the backward pass reads it with this window, not only with the next.
    Whole pages, so also what a page holds of the neighbouring steps: the file keeps it, and the next use reads it back.
    """
    page = mmap.PAGESIZE
    arrays = layout.arrays.items()
    saved = [(layout.fields[name], a.row_bytes, int(a.is_state)) for name, a in arrays if a.slots == "time"]
    saved += [(layout.fields[f"gates_{s.index}"], s.row_bytes, 0) for s in layout.stages]
    lines = [f"if peek(f, {layout.fields['thread']}) != 0:", "    return"]
    for field, row_bytes, after in saved:
        slot = layout.batch * row_bytes
        lines += [
            f"first = (peek(f, {field}) + start * {slot}) // {page} * {page}",
            f"last = (peek(f, {field}) + (stop + {after}) * {slot} + {page - 1}) // {page} * {page}",
            f"madvise(first, last - first, {MADV_DONTNEED})",
        ]
    word = ir.IntType(64)
    madvise = c_function("madvise", [word, word, ir.IntType(32)])
    return kernel(function("release", "f, start, stop", lines), "release", {"peek": peek, "madvise": madvise})

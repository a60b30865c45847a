"""Arrays that end where readable memory ends, so that one byte too far is a fault and not a lucky zero."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from unrollbench.tensors import Array

PROT_NONE = 0
_mappings: list[mmap.mmap] = []  # for the rest of the process: nothing may move into the guarded pages


def guarded(shape: tuple[int, ...], dtype: str) -> Array:
    """A zeroed array between two pages that cannot be touched; it ends at the second, and so begins near the first."""
    page, size = mmap.PAGESIZE, int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = max(1, -(-size // page))
    mapping = mmap.mmap(-1, (pages + 2) * page)
    _mappings.append(mapping)
    flat = np.frombuffer(mapping, np.uint8)
    for guard in (0, pages + 1):
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(flat.ctypes.data + guard * page), page, PROT_NONE):
            raise OSError("mprotect: refused")
    end = (pages + 1) * page
    return flat[end - size : end].view(dtype).reshape(shape)


def guarded_copy(array: Array) -> Array:
    """A copy of the array that ends where readable memory ends."""
    copy = guarded(array.shape, array.dtype.name)
    copy[...] = array
    return copy

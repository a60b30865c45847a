"""Weights in the order in which register tiles read them: vectors of output columns, the contracted index innermost.

All results are aligned to a cache line and zero in the lanes beyond the real units.
"""

from __future__ import annotations

import numpy as np

from unrollbench.tensors import Array

ALIGNMENT = 64
"""Bytes of a cache line and of the widest register: an unaligned vector would cost two reads."""


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """A zeroed array whose address is a multiple of ALIGNMENT."""
    itemsize = np.dtype(dtype).itemsize
    count = int(np.prod(shape))
    raw = np.zeros(count + ALIGNMENT // itemsize, dtype)
    start = -raw.ctypes.data % ALIGNMENT // itemsize
    return raw[start : start + count].reshape(shape)


def by_gate(matrix: Array, gates: int, lanes: int) -> Array:
    """(K, G*N) -> (K, G, blocks, lanes), padded with zeros."""
    rows, units = matrix.shape[0], matrix.shape[1] // gates
    blocks = -(-units // lanes)
    padded = np.zeros((rows, gates, blocks * lanes), matrix.dtype)
    padded[:, :, :units] = matrix.reshape(rows, gates, units)
    return padded.reshape(rows, gates, blocks, lanes)


def interleaved(matrix: Array, gates: int, lanes: int) -> Array:
    """(K, G*N) -> (blocks, G, K, lanes): all gates of one block of units lie together, for the recurrent product."""
    return _packed(by_gate(matrix, gates, lanes).transpose(2, 1, 0, 3))


def natural(matrix: Array, gates: int, lanes: int) -> Array:
    """(K, G*N) -> (G, blocks, K, lanes): columns in the order of the gate buffer, for the input projection."""
    return _packed(by_gate(matrix, gates, lanes).transpose(1, 2, 0, 3))


def transposed(matrix: Array, gates: int, lanes: int) -> Array:
    """(K, G*N) -> (K/lanes, G*padded N, lanes): the transpose, contracted over rows of the gate buffer."""
    rows = by_gate(matrix, gates, lanes).reshape(matrix.shape[0], -1).T
    return natural(np.ascontiguousarray(rows), 1, lanes)[0]


def _packed(view: Array) -> Array:
    packed = aligned(view.shape, view.dtype.name)
    packed[...] = view
    return packed

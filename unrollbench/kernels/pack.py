"""Weights in the order in which register tiles read them: vectors of output columns, the contracted index innermost.

All results are aligned to a cache line and zero in the lanes beyond the real units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from unrollbench.tensors import Array

Order = npt.NDArray[np.int64]
"""(columns, lanes): which column of a matrix each lane of each vector holds."""
EMPTY = -1
"""In an order: a lane that holds none, but zero."""
ALIGNMENT = 64
"""Bytes of a cache line and of the widest register: an unaligned vector would cost two reads."""
PAGE_BYTES = 4096
"""Within so many bytes, hardware fetches lines ahead."""


def aligned(shape: tuple[int, ...], dtype: str) -> Array:
    """A zeroed array whose address is a multiple of ALIGNMENT."""
    itemsize = np.dtype(dtype).itemsize
    count = int(np.prod(shape))
    raw = np.zeros(count + ALIGNMENT // itemsize, dtype)
    start = -raw.ctypes.data % ALIGNMENT // itemsize
    return raw[start : start + count].reshape(shape)


def on_own_pages(threads: int, shape: tuple[int, ...], dtype: str) -> Array:
    """Zeroed arrays (threads, *shape), of which each begins on a page of its own.

    Processors fetch lines beyond those that are used, up to the end of a page: they would take them from the core of
    another thread that writes there.
    """
    itemsize = np.dtype(dtype).itemsize
    count, page = int(np.prod(shape)), PAGE_BYTES // itemsize
    each = -(-count // page) * page
    raw = np.zeros(threads * each + page, dtype)
    start = -raw.ctypes.data % PAGE_BYTES // itemsize
    return raw[start : start + threads * each].reshape(threads, each)[:, :count].reshape(threads, *shape)


def padded(units: int, lanes: int) -> Order:
    """One gate's units in whole vectors."""
    return by_gate(units, 1, lanes, 0)


def by_gate(units: int, gates: int, lanes: int, packed: int) -> Order:
    """Gate after gate in whole vectors of units, without the last `packed` units, whose gates follow as one sequence.

    That is the order of the gate buffer. Of each lane, the column of an (..., G*N) array that it holds, or EMPTY.
    """
    columns = np.arange(gates * units).reshape(gates, units)
    whole = units - packed
    blocks = -(-whole // lanes)
    found = np.full((gates, blocks * lanes), EMPTY)
    found[:, :whole] = columns[:, :whole]
    sequence = np.full(-(-gates * packed // lanes) * lanes, EMPTY)
    sequence[: gates * packed] = columns[:, whole:].reshape(-1)
    return np.concatenate([found.reshape(-1), sequence]).reshape(-1, lanes)


def by_block(order: Order, gates: int, whole: int) -> Order:
    """`by_gate`, but all gates of each whole block of units together: as tiles of the recurrent product take them."""
    lanes = order.shape[1]
    blocks = order[: gates * whole].reshape(gates, whole, lanes).transpose(1, 0, 2).reshape(-1, lanes)
    return np.concatenate([blocks, order[gates * whole :]])


def by_thread(order: Order, gates: int, whole: int, threads: Sequence[tuple[int, int]]) -> Order:
    """`by_gate`, but what each thread has together: of (first, how many) whole blocks, gate after gate.

    All have as many blocks of a gate: of a thread with fewer than another they end in one that holds none. The gates
    that are packed follow, and so those of the last one.
    """
    most, lanes = max(count for _, count in threads), order.shape[1]
    blocks, packed = order[: gates * whole].reshape(gates, whole, lanes), order[gates * whole :]
    found = np.full((len(threads), gates, most, lanes), EMPTY)
    for own, (first, count) in zip(found, threads, strict=True):
        own[:, :count] = blocks[:, first : first + count]
    return np.concatenate([found.reshape(-1, lanes), packed])


def columns(matrix: Array, order: Order) -> Array:
    """(K, G*N) -> (columns, K, lanes): vectors of output columns in that order, the contracted index inside."""
    return _packed(_taken(matrix, order).transpose(1, 0, 2))


def streamed(vectors: Array, groups: Iterable[int]) -> Array:
    """(columns, K, lanes) -> as step tiles read them: so many columns at a time are (K, columns, lanes)."""
    found, first = aligned(vectors.shape, vectors.dtype.name), 0
    for count in groups:
        group = vectors[first : first + count]
        found[first : first + count] = group.transpose(1, 0, 2).reshape(group.shape)
        first += count
    return found


def split(vectors: Array) -> Array:
    """(columns, K, 16) float32 -> (columns, chunks, 3, 16, 16): words of two bfloat16, as `matrix.block` reads them.

    They are the parts that a number is the sum of, and of 32 steps of k, step j shares a word with step 16 + j.
    """
    count, depth, lanes = vectors.shape
    chunks = -(-depth // (2 * lanes))
    rest: Array = np.zeros((count, chunks, 2, lanes, lanes), np.float32)
    rest.reshape(count, -1, lanes)[:, :depth] = vectors
    found = aligned((count, chunks, 3, lanes, lanes), "float32")
    words, upper = found.view(np.uint32), np.uint32(0xFFFF0000)
    with np.errstate(invalid="ignore", over="ignore"):
        for part in range(3):
            finite, bits = np.isfinite(rest), rest.view(np.uint32)
            rounded = (bits + np.uint32(0x8000)) & upper
            rounded = np.where(np.isfinite(rounded.view(np.float32)), rounded, bits & upper)
            chosen = np.where(finite, rounded, (rest + rest).view(np.uint32) & upper)
            words[:, :, part] = (chosen[:, :, 0] >> np.uint32(16)) | chosen[:, :, 1]
            rest = np.where(finite, rest - rounded.view(np.float32), np.float32(0))
    return found


def transposed(matrix: Array, order: Order) -> Array:
    """(K, G*N) -> (K/lanes, columns*lanes, lanes): the transpose, contracted over a row of the gate buffer."""
    rows = _taken(matrix, order).reshape(len(matrix), -1).T
    return columns(rows, padded(len(matrix), order.shape[1]))


def row(values: Array, order: Order) -> Array:
    """(G*N,) -> (columns*lanes,)."""
    return _packed(_taken(values[None], order).reshape(-1))


def row_of(vectors: Array) -> Array:
    """(columns, lanes) -> (columns*lanes,)."""
    return _packed(vectors.reshape(-1))


def unpacked(rows: Array, order: Order) -> Array:
    """(K, columns*lanes) -> (K, G*N): what `row` does, undone."""
    flat = order.reshape(-1)
    found = np.empty((len(rows), flat.max() + 1), rows.dtype)
    found[:, flat[flat != EMPTY]] = rows[:, flat != EMPTY]
    return found


def _taken(matrix: Array, order: Order) -> Array:
    """(K, G*N) -> (K, columns, lanes), zero in empty lanes."""
    return np.where(order == EMPTY, matrix.dtype.type(0), matrix[:, order])


def _packed(view: Array) -> Array:
    packed = aligned(view.shape, view.dtype.name)
    packed[...] = view
    return packed

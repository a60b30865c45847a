"""What happens before the first and after the last step: initial states, zeros past the longest length, transposes.

Every function works on the calling thread's own batch rows, so that no barrier is needed while rows are split.
Batch-major tensors (time_major false) are transposed here, inside the run: that is what TensorFlow's default costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import njit

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.products import OPTIONS
from unrollbench.kernels.simd import copy_bytes, peek, zero_bytes


@njit(**OPTIONS)
def _rows(destination, destination_row, origin, origin_row, count, first, last):
    """Copies `count` bytes of each row from `first` to `last`."""
    for row in range(first, last):
        copy_bytes(destination + row * destination_row, origin + row * origin_row, count)


def _copy_states(layout: LayerLayout, pairs: Sequence[tuple[str, str, int]]) -> Any:
    """A function that copies own rows from field to field, for (to, from, bytes of a row)."""
    fields = layout.fields
    copies = tuple((fields[to], fields[origin], size) for to, origin, size in pairs)

    @njit(**OPTIONS)
    def run(f):
        first, last = peek(f + fields_own[0]), peek(f + fields_own[1])
        for i in range(len(copies)):
            to, origin, size = copies[i]
            _rows(peek(f + to), size, peek(f + origin), size, size, first, last)

    fields_own = (fields["own_first"], fields["own_last"])
    return run


def begin(layout: LayerLayout) -> Kernel:
    """`begin(f)`: slot 0 of every state array holds the initial state."""
    states = [(name, f"initial_{name}", layout.arrays[name].row_bytes) for name in layout.cell.state]
    return Kernel("begin", _copy_states(layout, states).py_func, 1)


def begin_backward(layout: LayerLayout) -> Kernel:
    """`begin_backward(f)`: d_ buffers hold the final state's gradient; those of temporaries and gates are zero."""
    states = [(f"d_{name}", f"d_final_{name}", layout.arrays[name].row_bytes) for name in layout.cell.state]
    copy, fields = _copy_states(layout, states), layout.fields
    zeroed = [(fields[f"d_{name}"], layout.arrays[name].row_bytes) for name in layout.cell.temporaries]
    zeroed += [(fields[f"d_{name}"], s.gate_bytes) for s in layout.stages for name in s.stage.exposed]
    buffers, own_first, own_last = tuple(zeroed) or ((0, 0),), fields["own_first"], fields["own_last"]

    def run(f):
        copy(f)
        first, count = peek(f + own_first), peek(f + own_last) - peek(f + own_first)
        for i in range(len(buffers)):
            field, size = buffers[i]
            if size > 0:
                zero_bytes(peek(f + field) + first * size, count * size)

    return Kernel("begin_backward", run, 1)


def carry(layout: LayerLayout) -> Kernel:
    """`carry(f, n)`: the state after a window's n steps becomes the state before the next window's first (slot 0)."""
    row_bytes, batch = layout.arrays["h"].row_bytes, layout.batch
    field, own_first, own_last = (layout.fields[n] for n in ("h", "own_first", "own_last"))

    def run(f, n):
        if n > 0:
            h, first, last = peek(f + field), peek(f + own_first), peek(f + own_last)
            _rows(h, row_bytes, h + n * batch * row_bytes, row_bytes, row_bytes, first, last)

    return Kernel("carry", run, 2)


def _zero_tail(layout: LayerLayout, field: str, row_bytes: int, after: int) -> Kernel:
    """A function that zeroes own rows of the slots from limit + after to steps + after."""
    batch, fields = layout.batch, layout.fields
    f_buffer, f_limit, f_steps, f_first, f_last = (
        fields[n] for n in (field, "limit", "steps", "own_first", "own_last")
    )

    def run(f):
        first, last = peek(f + f_first), peek(f + f_last)
        for t in range(peek(f + f_limit) + after, peek(f + f_steps) + after):
            zero_bytes(peek(f + f_buffer) + (t * batch + first) * row_bytes, (last - first) * row_bytes)

    return Kernel("zero_tail", run, 1)


def _transpose(layout: LayerLayout, to: tuple[str, int], origin: tuple[str, int], size: int, to_time: bool, after: int) -> Kernel:
    """A function that copies own rows between (B,T,.) and (T,B,.); `after` skips slots of the time-major side."""
    batch, fields = layout.batch, layout.fields
    f_to, f_origin, f_steps, f_first, f_last = (
        fields[n] for n in (to[0], origin[0], "steps", "own_first", "own_last")
    )
    to_row, origin_row = to[1], origin[1]

    def run(f):
        first, last, steps = peek(f + f_first), peek(f + f_last), peek(f + f_steps)
        to_base, origin_base = peek(f + f_to), peek(f + f_origin)
        for t in range(steps):
            for row in range(first, last):
                by_time, by_row = (t + after) * batch + row, row * steps + t
                if to_time:
                    copy_bytes(to_base + by_time * to_row, origin_base + by_row * origin_row, size)
                else:
                    copy_bytes(to_base + by_row * to_row, origin_base + by_time * origin_row, size)

    return Kernel("transpose", run, 1)


def inputs_to_time_major(layout: LayerLayout) -> Kernel:
    """`(f)`: x (T,B,I) from the user's (B,T,I)."""
    size = layout.spec.input_size * layout.itemsize
    return _transpose(layout, ("x", size), ("x_user", size), size, True, 0)


def outputs_to_batch_major(layout: LayerLayout) -> Kernel:
    """`(f)`: the user's (B,T,P) from the states after each step."""
    size = layout.spec.output_size * layout.itemsize
    return _transpose(layout, ("out_user", size), ("h", layout.arrays["h"].row_bytes), size, False, 1)


def gradients_to_time_major(layout: LayerLayout) -> Kernel:
    """`(f)`: d_out, in padded rows, from the user's (B,T,P)."""
    size = layout.spec.output_size * layout.itemsize
    return _transpose(layout, ("d_out", layout.arrays["h"].row_bytes), ("d_out_user", size), size, True, 0)


def gradients_to_batch_major(layout: LayerLayout) -> Kernel:
    """`(f)`: the user's (B,T,I) from d_x in padded rows."""
    size = layout.spec.input_size * layout.itemsize
    padded = layout.padded(layout.spec.input_size) * layout.itemsize
    return _transpose(layout, ("d_x_user", size), ("d_x", padded), size, False, 0)


def pad_gradients(layout: LayerLayout) -> Kernel:
    """`(f)`: d_out, in padded rows, from the user's time-major (T,B,P)."""
    size, padded = layout.spec.output_size * layout.itemsize, layout.arrays["h"].row_bytes
    batch, fields = layout.batch, layout.fields
    f_to, f_origin, f_steps, f_first, f_last = (
        fields[n] for n in ("d_out", "d_out_user", "steps", "own_first", "own_last")
    )

    def run(f):
        first, last = peek(f + f_first), peek(f + f_last)
        for t in range(peek(f + f_steps)):
            to, origin = peek(f + f_to) + t * batch * padded, peek(f + f_origin) + t * batch * size
            _rows(to, padded, origin, size, size, first, last)

    return Kernel("pad_gradients", run, 1)


def zero_outputs(layout: LayerLayout) -> Kernel:
    """`(f)`: outputs of steps past the longest length are zero."""
    return _zero_tail(layout, "h", layout.arrays["h"].row_bytes, 1)


def zero_input_gradients(layout: LayerLayout) -> Kernel:
    """`(f)`: input gradients of steps past the longest length are zero."""
    return _zero_tail(layout, "d_x", layout.padded(layout.spec.input_size) * layout.itemsize, 0)


def clear_gradients(layout: LayerLayout) -> Kernel:
    """`clear_gradients(f)`: all weight gradients are zero; each thread clears its share of the block that holds them."""
    f_block, f_bytes, f_thread = (layout.fields[n] for n in ("gradients", "gradients_bytes", "thread"))
    threads = layout.threads

    def run(f):
        size, thread = peek(f + f_bytes), peek(f + f_thread)
        first, last = size * thread // threads, size * (thread + 1) // threads
        zero_bytes(peek(f + f_block) + first, last - first)

    return Kernel("clear_gradients", run, 1)

"""How threads divide a network's work, and which of the ways to do it pay: each layer's layout.

The figures that decide were measured, most of them on two cores of a Zen 4 server, those of the matrix unit on a Xeon.
"""

from __future__ import annotations

from typing import Literal

from unrollbench import cells
from unrollbench.case import DTYPES
from unrollbench.cells import LayerSpec, Stage
from unrollbench.kernels import amx, host, parts
from unrollbench.kernels.layout import AHEAD_COLUMNS, LayerLayout
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.kernels.words import LINE_BYTES
from unrollbench.schedule import Schedule

SHARE_KEPT = 0.75
"""Of the second-level cache: weights that take no more are still there at the next step, beside all else."""
ROWS_PER_THREAD, UNEVEN_ROWS_PER_THREAD = 4, 8
"""From this many batch rows per thread on, threads split rows and need no barrier between steps: if all have as many,
and if some have one more."""
SMALL_WEIGHTS_BYTES = 128 * 1024
"""With fewer rows, as many per thread, recurrent weights of a layer with which threads split them nevertheless, since a
barrier costs more than it saves."""
BARRIER_MULTIPLIES, LINE_MULTIPLIES = 500, 60
"""Vector multiply-adds that take as long as two threads that split units need to wait for each other, and for each line
of a cache that they exchange: halfway between what was measured while two cores were near and while they were far."""
WAITING_ROWS = 2
"""Rows of a tile whose multiply-adds take as long as a second-level cache needs to bring the weights."""
AHEAD_LEAST_BYTES, AHEAD_MOST_BYTES, AHEAD_SHARE = 96 * 1024, 20 * 1024 * 1024, 0.6
"""Weights of a layer with which its steps project inputs ahead: per thread that reads them, of all, and of the
third-level cache."""
MOST_INPUTS = 1.5
"""Inputs for each number that a step multiplies, up to which it projects ahead: of more, the rest is left to multiply
when all weights have come, and blocks of rows do that faster."""
LONG_WINDOW, LONG_MOST_BYTES = 64, 8 * 1024 * 1024
"""Steps of a window from which on, and most weights of a layer with which, steps project twice as many ahead."""
WAY_BYTES, SET_ROWS = 4096, 4
"""Bytes after which lines share a set of a first-level cache (of most; of others fewer do), and of how many rows of
inputs they may do that beside the weights that pass through it: with 16 rows of 4 KiB, a single row's steps took 1.7
times as long."""
MOST_SUMS_BYTES = 4 * 1024 * 1024
"""Most weights with which threads may add up gradients of their own rows: with more it saves nothing and takes room."""
MATRIX_ROWS, MATRIX_STREAMING_ROWS, MATRIX_FULL = 12, 32, 0.8
"""Rows from which on a matrix unit pays, those that a thread should have where no cache keeps weights, and
what part of its tiles must be full."""


def layouts(spec: NetworkSpec, schedule: Schedule) -> tuple[LayerLayout, ...]:
    """Each layer's layout; layers below the top keep a window of outputs, the top keeps all."""
    fused = schedule.window == 1
    split, on_matrix_unit = _split(spec, fused)
    apart = split == "rows" and spec.threads > 1 and not on_matrix_unit
    sums_apart, own_slots = apart and _sums_apart(spec), apart and _own_slots(spec)
    in_pairs = host.adds_apart() and not on_matrix_unit
    return tuple(
        LayerLayout(
            layer,
            _cell(spec, layer),
            spec.dtype,
            spec.batch_size,
            spec.threads,
            spec.train,
            index == len(spec.layers) - 1,
            split,
            fused,
            _read_per_step(spec, index, fused) > _kept_bytes(),
            _steps_ahead(spec, index, schedule, split),
            on_matrix_unit,
            sums_apart,
            in_pairs,
            own_slots,
        )
        for index, layer in enumerate(spec.layers)
    )


def _splits_few_rows(spec: NetworkSpec, fused: bool) -> bool:
    """Whether threads have rows of their own that are fewer than ROWS_PER_THREAD each, some of them perhaps none.

    Each then reads all weights of a step. Where all have the same two rows or more, and a second-level cache keeps the
    weights, that takes hardly longer than the multiply-adds. Rows that come out uneven are weighed.
    """
    if spec.batch_size % spec.threads:
        return not _saves_by_units(spec, fused)
    if spec.batch_size >= 2 * spec.threads and _most_read_per_step(spec, fused) <= _kept_bytes():
        return True
    return max(_weight_bytes(spec, layer, 0) for layer in spec.layers) <= SMALL_WEIGHTS_BYTES


def _steps_ahead(spec: NetworkSpec, index: int, schedule: Schedule, split: str) -> int:
    """For how many steps that pays: one row's steps wait for their weights, unless all are in the first-level cache.

    It does not with so many weights that those of inputs and steps drive each other out of the third-level cache, or
    rows of inputs that do so in the first-level one, with many more inputs than units, nor where registers are too few
    for the sums of both products: with 16 it cost up to a fifth. Together these steps multiply AHEAD_COLUMNS columns
    per group of unit blocks, so a group must not have more. A window counts as it was built: where a call has hardly
    more steps than that, few or none of them are left to be multiplied ahead.
    """
    layer, lanes = spec.layers[index], host.lanes(spec.dtype)
    read, stages = _weight_bytes(spec, layer, layer.input_size), _cell(spec, layer).stages
    most = min(AHEAD_MOST_BYTES, AHEAD_SHARE * host.third_level_cache_bytes())
    readers = spec.threads if split == "units" else 1
    few = layer.input_size <= MOST_INPUTS * min(_operand_size(layer, s) for s in stages if s.takes_input)
    fits = max(len(s.gates) for s in stages) <= AHEAD_COLUMNS and host.vector_unit().registers >= 32
    if not (AHEAD_LEAST_BYTES * readers <= read <= most and few and fits and spec.batch_size == 1):
        return 0
    found = 2 * AHEAD_COLUMNS if schedule.window >= LONG_WINDOW and read <= LONG_MOST_BYTES else AHEAD_COLUMNS
    row_bytes = DTYPES[spec.dtype] * (-(-layer.input_size // lanes) * lanes if index else layer.input_size)
    if found > AHEAD_COLUMNS and _most_in_a_set(found, row_bytes) > SET_ROWS:
        found = AHEAD_COLUMNS
    return found if _most_in_a_set(found, row_bytes) <= SET_ROWS and found <= schedule.window // 2 else 0


def _most_in_a_set(rows: int, row_bytes: int) -> int:
    """Of the lines in which so many rows begin, how many share one set of the first-level cache."""
    lines = {row * row_bytes // LINE_BYTES for row in range(rows)}
    sets = [line % (WAY_BYTES // LINE_BYTES) for line in lines]
    return max(map(sets.count, sets))


def _sums_apart(spec: NetworkSpec) -> bool:
    """Whether threads with rows of their own may add up the weight gradients of these alone.

    They do where all have about as many, and weights are few.
    """
    even = spec.batch_size % spec.threads == 0 or spec.batch_size >= ROWS_PER_THREAD * spec.threads
    weights = sum(_weight_bytes(spec, each, each.input_size) for each in spec.layers)
    return spec.train and even and weights <= MOST_SUMS_BYTES


def _own_slots(spec: NetworkSpec) -> bool:
    """Whether threads with rows of their own, none without any, have slots of their own, which are all as large.

    Not where activations are swapped: the file would grow beyond what a plan expects by what is left empty where some
    threads have more rows than others.
    """
    return spec.batch_size >= spec.threads and not spec.swap_memory


def _split(spec: NetworkSpec, fused: bool) -> tuple[Literal["rows", "units"], bool]:
    """What threads have of their own, and whether a matrix unit multiplies, which is so where that is faster.

    Where weights come from beyond the second-level cache in each step, enough rows should share them: cut into parts,
    they take more bytes. If a thread's own rows are not enough, all rows may be, and threads read less weights each.
    Where rows would come out uneven threads may share them without one, too.
    """
    if spec.threads > 1 and spec.batch_size < ROWS_PER_THREAD * spec.threads:
        return "rows" if _splits_few_rows(spec, fused) else "units", False
    streams = _most_read_per_step(spec, fused) * parts.PARTS / 2 > _kept_bytes()
    if _fills_matrix_unit(spec, spec.batch_size // spec.threads, MATRIX_STREAMING_ROWS if streams else MATRIX_ROWS):
        return "rows", True
    if streams and spec.threads > 1 and _fills_matrix_unit(spec, spec.batch_size, MATRIX_ROWS):
        return "units", True
    uneven = spec.batch_size % spec.threads and spec.batch_size < UNEVEN_ROWS_PER_THREAD * spec.threads
    return "units" if uneven and _saves_by_units(spec, fused) else "rows", False


def _saves_by_units(spec: NetworkSpec, fused: bool) -> bool:
    """Whether threads that split units are saved so much, by rows that would come out uneven, that it pays.

    Of 9 rows with rows split, one of two threads has 5 and the other waits in the end; of one row one thread has all.
    With units split all have about the same, but in every step they exchange the stages' units and, on the way back,
    the gradients of all gates. Products of a window's inputs count as what is multiplied, weight gradients do not.
    """
    rows, most_rows = spec.batch_size, -(-spec.batch_size // spec.threads)
    saved, passes = 0.0, 1 + spec.train
    for layer in spec.layers:
        for s in _cell(spec, layer).stages:
            gates, units, inputs = len(s.gates), _units(layer, s), layer.input_size * s.takes_input
            in_window, in_step = (0, _operand_size(layer, s) + inputs) if fused else (inputs, _operand_size(layer, s))
            blocks = -(-units // host.lanes(spec.dtype))
            of_units = max(rows, WAITING_ROWS) * -(-blocks // spec.threads)
            fewer = in_step * (max(most_rows, WAITING_ROWS) * blocks - of_units)
            fewer += in_window * blocks * (most_rows - rows / spec.threads)
            lines = rows * units * DTYPES[spec.dtype] / LINE_BYTES
            saved += passes * (gates * fewer - BARRIER_MULTIPLIES) - LINE_MULTIPLIES * lines * (1 + gates * spec.train)
    return saved > 0


def _fills_matrix_unit(spec: NetworkSpec, rows: int, least: int) -> bool:
    """Whether there is a matrix unit, and at least so many rows to fill most of its tiles with units."""
    taken = amx.tiles(rows) * amx.ROWS
    units = min(min(layer.num_units, layer.output_size) for layer in spec.layers)
    full = rows * units >= MATRIX_FULL * taken * parts.chunks(units) * parts.CHUNK
    return spec.dtype == "float32" and rows >= least and full and host.matrix_unit()


def _kept_bytes() -> float:
    """Bytes of weights that a core's second-level cache keeps from step to step."""
    return SHARE_KEPT * host.second_level_cache_bytes()


def _most_read_per_step(spec: NetworkSpec, fused: bool) -> int:
    """`_read_per_step` of the layer that has most of them."""
    return max(_read_per_step(spec, layer, fused) for layer in range(len(spec.layers)))


def _read_per_step(spec: NetworkSpec, layer: int, fused: bool) -> int:
    """Bytes of weights between two steps of a layer: those of all layers, or without W_x its own, again and again."""
    if not fused:
        return _weight_bytes(spec, spec.layers[layer], 0)
    return sum(_weight_bytes(spec, each, each.input_size) for each in spec.layers)


def _cell(spec: NetworkSpec, layer: LayerSpec) -> cells.Cell:
    return cells.load(layer.cell, layer.options, spec.dtype)


def _weight_bytes(spec: NetworkSpec, layer: LayerSpec, input_size: int) -> int:
    """Bytes of a layer's recurrent weights and of so many rows of W_x."""
    stages = _cell(spec, layer).stages
    columns = [len(s.gates) * _units(layer, s) for s in stages]
    rows = [_operand_size(layer, s) + s.takes_input * input_size for s in stages]
    return DTYPES[spec.dtype] * sum(c * r for c, r in zip(columns, rows, strict=True))


def _units(layer: LayerSpec, s: Stage) -> int:
    """Units that a stage computes."""
    return layer.output_size if s.projects else layer.num_units


def _operand_size(layer: LayerSpec, s: Stage) -> int:
    """Numbers in a row of what a stage multiplies by its recurrent weights."""
    return layer.output_size if s.operand == "h" else layer.num_units

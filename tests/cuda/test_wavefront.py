"""Layers of a dynamic program run side by side on the device, each a chunk of steps behind the layer below it."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from typing import Any

import pytest

from tests.adversarial import CELLS
from tests.cuda.grid import GridDevice
from tests.cuda.programs import check, limits, small
from tests.cuda.test_specialize import calls
from unrollbench import reference
from unrollbench.backends.numba_cuda import CaseProgram
from unrollbench.case import Case
from unrollbench.kernels.cuda import loop
from unrollbench.kernels.cuda.layout import window_region
from unrollbench.kernels.cuda.network import Plan, plan_of
from unrollbench.kernels.cuda.simulator import LIMITS
from unrollbench.kernels.cuda.tiling import Block
from unrollbench.kernels.cuda.wavefront import chunk_of
from unrollbench.schedule import Schedule
from unrollbench.tensors import draw

NAMES = tuple(CELLS)
STACKS: dict[int, tuple[int, ...]] = {2: (4, 3), 3: (3, 5, 2), 4: (2, 3, 2, 4)}
WINDOWS = (1, 2, 3, 8, 32)
LENGTHS = ("full", "uniform", "some", "none")


def chunk(layers: int, window: int, unroll: int = 1) -> int | None:
    return chunk_of(Schedule("dynamic", layers, None, window, unroll))


def steps_around(layers: int, window: int) -> list[int]:
    """T of one step, about a chunk, and of many chunks."""
    size = chunk(layers, window) or window
    return sorted({1, max(size - 1, 1), size, size + 1, min(2 * layers * size + 1, 2 * size + 9)})


def stack(number: int, layers: int, window: int, steps: int) -> Case:
    """A case of the table; what the table does not say changes with its number."""
    unroll = (1, 2, 3, 4, 7)[number % 5]
    swaps = number % 3 == 0 and unroll <= window
    lengths: Any = {"some": (steps, 0), "none": (0, 0)}.get(LENGTHS[number // 2 % 4], LENGTHS[number // 2 % 4])
    axes = {
        "num_layers": layers,
        "num_units": STACKS[layers],
        "sequence_length": steps,
        "parallel_iterations": window,
        "unroll": unroll,
        "batch_size": 2,
        "input_size": 2,
        "lengths": lengths,
        "mode": ("train", "forward")[number % 7 % 2],
        "swap_memory": swaps,
        "time_major": number % 4 < 2,
        "dtype": ("float32", "float64")[number % 2],
    }
    return small(NAMES[number % len(NAMES)], **axes)


TABLE = [
    (layers, window, steps) for layers, window in product(STACKS, WINDOWS) for steps in steps_around(layers, window)
]


@pytest.mark.parametrize(("layers", "window", "steps"), TABLE)
def test_a_stack_is_right_for_every_number_of_steps_about_a_chunk(layers: int, window: int, steps: int) -> None:
    check(stack(TABLE.index((layers, window, steps)), layers, window, steps))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_right_in_three_layers(name: str, mode: str, swap: bool) -> None:
    axes = {"num_layers": 3, "num_units": (3, 4, 2), "parallel_iterations": 6, "mode": mode, "swap_memory": swap}
    check(small(name, **axes, sequence_length=9, lengths=(9, 0, 4)))


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("unroll", [1, 2, 3, 4, 5, 6, 9])
def test_every_unroll_factor_is_right(unroll: int, mode: str) -> None:
    check(small("gru", num_layers=2, num_units=3, parallel_iterations=6, unroll=unroll, mode=mode, sequence_length=14))


# ---------------------------------------------------------------- how often the grid waits


def barriers(case: Case) -> list[int]:
    """Barriers of the grid that the loop of each direction passed, in a grid of two blocks."""
    tensors, device = draw(case), GridDevice(limits(Block(1, 1, 1), rows=2, blocks=2))
    with closing(CaseProgram(case, tensors, device)) as program:
        program.run()
        reference.check(case, program.outputs(), reference.expected(case, tensors))
    return [found for found in device.barriers if found]


def expected(layers: int, size: int, steps: int, stages: int) -> int:
    """One barrier per chunk of the walk for its products, and one per super-step and stage."""
    diagonals = -(-steps // size) + layers - 1
    last = (steps - 1) % size + 1
    super_steps = (diagonals - 1) * size + last if steps > size else layers * steps
    return diagonals + super_steps * stages


@pytest.mark.parametrize("unroll", [1, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 3, 13])
@pytest.mark.parametrize(("name", "stages"), [("lstm", 1), ("gru", 2)])
def test_layers_share_their_barriers(name: str, stages: int, steps: int, unroll: int) -> None:
    axes = {"num_units": 1, "batch_size": 1, "input_size": 1, "sequence_length": steps, "parallel_iterations": 9}
    size = chunk(3, 9, unroll)
    assert size is not None
    assert barriers(small(name, num_layers=3, unroll=unroll, **axes)) == [expected(3, size, steps, stages)] * 2


def test_a_long_stack_waits_about_once_per_step_and_not_once_per_layer_and_step() -> None:
    axes = {"num_units": 1, "batch_size": 1, "input_size": 1, "sequence_length": 40, "parallel_iterations": 32}
    together = barriers(small("lstm", num_layers=4, unroll=1, **axes))
    assert together == [40 + 3 * 8 + 5 + 3] * 2
    assert barriers(small("lstm", num_layers=4, unroll=1, **{**axes, "parallel_iterations": 3}))[0] > 4 * 40


def test_no_step_is_no_barrier() -> None:
    assert barriers(small("gru", num_layers=3, parallel_iterations=6, lengths=(0, 0, 0))) == []


# ---------------------------------------------------------------- chunks, texts and memory


def test_chunks_of_all_layers_are_within_parallel_iterations() -> None:
    assert [chunk(layers, 32) for layers in (1, 2, 3, 4, 32, 33)] == [None, 16, 10, 8, 1, None]
    assert [chunk(2, 8, unroll) for unroll in (1, 4, 5, 6, 8, 12)] == [4, 4, 1, 3, 4, 4]


@pytest.mark.parametrize("unroll", [2, 3, 4, 6, 8])
def test_a_body_has_unroll_super_steps_and_the_remainder_one(unroll: int) -> None:
    texts = plan_of(small("lstm", num_layers=2, unroll=unroll, parallel_iterations=8), LIMITS).kernel_texts()
    for direction, layer in product(("forward", "backward"), (0, 1)):
        assert calls(texts[f"loop_{direction}"], f"{direction}_{layer}_0") == unroll + 1


def test_a_wavefront_says_how_far_layers_are_apart() -> None:
    texts = plan_of(small("lstm", num_layers=2, parallel_iterations=8), LIMITS).kernel_texts()
    assert "# a wavefront: each layer is 4 steps behind the layer below it" in texts["loop_forward"]
    assert "# a wavefront back: each layer is 4 steps behind the layer above it" in texts["loop_backward"]


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_take_no_more_memory_than_one_window_of_every_layer(window: int, layers: int) -> None:
    def plan(**axes: Any) -> Plan:
        return plan_of(small("lstm", num_layers=layers, parallel_iterations=window, unroll=1, **axes), LIMITS)

    forward = plan(mode="forward")
    assert forward.window == (chunk(layers, window) or window)
    assert (
        window_region(forward.layouts, forward.window, 0).elements <= window_region(forward.layouts, window, 0).elements
    )
    assert plan(mode="train", swap_memory=True).window == window


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_last_state_lies_where_the_last_chunk_ends(layers: int) -> None:
    planned = Schedule("dynamic", layers, None, 6)
    size = chunk_of(planned) or 6
    for steps in range(20):
        assert loop.last_slot(planned, steps) == (len(range(steps)[-((steps - 1) % size + 1) :]) if steps else 0)

"""The device's memory: what is accounted for, what the limit refuses, and what swapping makes room for."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from tests.cuda.programs import check, small
from unrollbench.backends.numba_cuda import CaseProgram
from unrollbench.case import Case
from unrollbench.kernels.cuda.memory import Allocator, Limit
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.tensors import draw

LONG = {"sequence_length": 40, "batch_size": 2, "input_size": 2, "num_units": 8, "parallel_iterations": 2}


def peak(case: Case) -> int:
    with closing(CaseProgram(case, draw(case), SimulatedDevice())) as program:
        found = program.memory().device_peak_bytes
        assert found is not None
        return found


def test_the_allocator_counts_what_it_gives() -> None:
    allocator = Allocator(SimulatedDevice(), Limit(), "float32")
    allocator.allocate(10, "float32", "a test")
    allocator.allocate(3, "int64", "a test")
    assert (allocator.now, allocator.peak) == (64, 64)
    allocator.close()
    assert (allocator.now, allocator.peak) == (0, 64)


def test_the_limit_is_named_with_what_is_used_and_wanted() -> None:
    allocator = Allocator(SimulatedDevice(), Limit(100), "float32")
    allocator.allocate(20, "float32", "a test")
    with pytest.raises(MemoryError, match=r"device_memory_limit = 100 bytes: 80 are in use and 40 more .* for weights"):
        allocator.allocate(10, "float32", "weights")
    assert allocator.now == 80


def test_a_fraction_is_of_the_devices_memory() -> None:
    device = SimulatedDevice()
    assert Limit(0.25).in_bytes(device) == device.memory_bytes // 4


def test_without_growth_the_limit_is_taken_at_once() -> None:
    allocator = Allocator(SimulatedDevice(), Limit(4096, allow_growth=False), "float64")
    assert allocator.now == 4096
    allocator.allocate(256, "float64", "a test")
    assert allocator.now == 4096
    with pytest.raises(MemoryError, match=r"took 4096 bytes at build: 2048 are in use and 4096 more"):
        allocator.allocate(512, "float64", "a test")


def test_what_is_freed_can_be_given_out_again_within_the_limit() -> None:
    allocator = Allocator(SimulatedDevice(), Limit(100), "float32")
    first = allocator.allocate(20, "float32", "a test")
    allocator.free(first)
    assert (allocator.now, allocator.peak) == (0, 80)
    allocator.allocate(25, "float32", "a test")
    assert (allocator.now, allocator.peak) == (100, 100)


def test_a_pool_gives_out_what_was_freed_in_it_and_overlaps_nothing() -> None:
    allocator = Allocator(SimulatedDevice(), Limit(4096, allow_growth=False), "float32")
    first, second, third = (allocator.allocate(size, "float32", "a test") for size in (100, 300, 64))
    allocator.free(second)
    allocator.free(first)
    wide = allocator.allocate(448, "float32", "a test")  # 100 and 300 elements, each up to a multiple of 64
    third[:] = np.full(64, 3, np.float32)
    wide[:] = np.full(448, 7, np.float32)
    assert (third.copy_to_host() == 3).all()
    with pytest.raises(MemoryError, match=r"2048 are in use and 2052 more are wanted for too much"):
        allocator.allocate(513, "float32", "too much")
    assert allocator.now == 4096


def test_the_device_has_back_what_was_freed_before_it_is_asked_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    device, released = SimulatedDevice(), []  # type: SimulatedDevice, list[int]
    allocator = Allocator(device, Limit(), "float32")
    monkeypatch.setattr(device, "release", lambda: released.append(allocator.now))
    allocator.free(allocator.allocate(20, "float32", "a test"))
    assert released == []
    for _ in range(2):
        allocator.allocate(10, "float32", "a test")
    assert released == [0]


def test_a_limit_below_the_peak_is_refused_and_the_peak_is_granted() -> None:
    case = small("lstm")
    needed = peak(case)
    check(small("lstm", device_memory_limit=needed))
    with pytest.raises(MemoryError, match="device_memory_limit"):
        peak(small("lstm", device_memory_limit=needed - 1))


def test_a_case_beyond_the_limit_trains_with_swapping_and_not_without() -> None:
    plain, swapping = (small("lstm", swap_memory=swap, **LONG) for swap in (False, True))
    limit = (peak(plain) + peak(swapping)) // 2
    with pytest.raises(MemoryError, match="activations"):
        peak(small("lstm", device_memory_limit=limit, **LONG))
    check(small("lstm", swap_memory=True, device_memory_limit=limit, **LONG))


def test_swapping_bounds_saved_activations_by_windows() -> None:
    """Beside inputs and outputs, four times the steps take no more of the device."""

    def grown(swap: bool) -> int:
        short, long = (small("lstm", **{**LONG, "swap_memory": swap, "sequence_length": steps}) for steps in (20, 80))
        users = 60 * 2 * (2 + 2 + 8 + 8) * 4  # inputs and outputs, and their gradients
        return peak(long) - peak(short) - users

    gates_and_c = 60 * 2 * (4 * 8 + 8) * 4
    assert grown(swap=True) < gates_and_c / 10
    assert grown(swap=False) > gates_and_c * 0.9


def test_a_program_accounts_for_its_memory() -> None:
    case = small("lstm", batch_size=2, num_units=8, input_size=4, sequence_length=3)
    with closing(CaseProgram(case, draw(case), SimulatedDevice())) as program:
        memory = program.memory()
    assert memory.weight_bytes == 4 * (4 * 32 + 2 * 8 * 32 + 32)  # W_x, W_h in both orders, bias
    assert memory.saved_bytes == 4 * 2 * (3 * 32 + 4 * 8 + 4 * 8)  # gates, and c and h with the state before
    assert memory.driver_bytes is None

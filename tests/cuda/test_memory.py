"""The device's memory: what is accounted for, what the limit refuses, and what swapping makes room for."""

from __future__ import annotations

from contextlib import closing

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

"""What the ceilings allow follows from the case's shapes; no share is claimed that the ceilings do not support."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unrollbench.case import Case, CellOptions
from unrollbench.records import Ceiling
from unrollbench.roofline import MATRIX_UNIT, MULTIPLY_ADD, PAIRED, READ, SMALLEST_BYTES, Wanted, attained, wanted

H, T = 256, 100
ONE_ROW = Case(sequence_length=T, batch_size=1, input_size=H, num_units=H)
MANY_ROWS = replace(ONE_ROW, batch_size=128)
ON_GPU = replace(ONE_ROW, backend="numba_cuda", device="cuda")
WEIGHTS_BYTES = 4 * H * H * 4  # four gates, float32


def ceilings(case: Case, gflops_per_s: float = 200.0, gb_per_s: float = 100.0) -> list[Ceiling]:
    """The ceilings that the case wants, all bandwidths the same."""
    found = []
    for want in wanted([case]):
        own = (want.dtype, want.threads)
        found.append(Ceiling(MULTIPLY_ADD, *own, gflops_per_s, "GFLOP/s", device=want.device))
        sizes = want.sizes_bytes or ()
        found += [Ceiling(READ, *own, gb_per_s, "GB/s", size, device=want.device) for size in sizes]
    return found


def test_one_row_is_bound_by_reading_its_recurrent_weights_once_per_step() -> None:
    least_s = T * WEIGHTS_BYTES / 100e9
    found = attained(ONE_ROW, 2 * least_s, ceilings(ONE_ROW))
    assert (found.ceiling, found.reason) == (READ, None)
    assert found.ceiling_share == pytest.approx(0.5)
    assert found.recurrent_weights_gb_per_s == pytest.approx(50.0)
    assert found.ceiling_recurrent_weights_gb_per_s == pytest.approx(100.0)


def test_many_rows_are_bound_by_their_products() -> None:
    least_s = MANY_ROWS.flops / 200e9
    found = attained(MANY_ROWS, 1.25 * least_s, ceilings(MANY_ROWS))
    assert found.ceiling == MULTIPLY_ADD
    assert found.ceiling_share == pytest.approx(0.8)
    assert found.gflops_per_s == pytest.approx(160.0)
    assert found.ceiling_gflops_per_s == 200.0


@pytest.mark.parametrize("unit", [PAIRED, MATRIX_UNIT])
def test_products_are_held_against_whatever_makes_them_fastest(unit: str) -> None:
    def with_unit(gflops_per_s: float, dtype: str = "float32") -> list[Ceiling]:
        return [*ceilings(MANY_ROWS), Ceiling(unit, dtype, 1, gflops_per_s, "GFLOP/s")]

    run_s = MANY_ROWS.flops / 150e9
    faster = attained(MANY_ROWS, run_s, with_unit(600.0))
    assert (faster.ceiling, faster.ceiling_gflops_per_s) == (unit, 600.0)
    assert faster.ceiling_share == pytest.approx(0.25)
    for others in (with_unit(100.0), with_unit(600.0, "float64")):
        found = attained(MANY_ROWS, run_s, others)
        assert (found.ceiling, found.ceiling_gflops_per_s) == (MULTIPLY_ADD, 200.0)
    for name in (MULTIPLY_ADD, unit):
        disturbed = [replace(c, processor_share=0.5) if c.name == name else c for c in with_unit(600.0)]
        found = attained(MANY_ROWS, run_s, disturbed)
        assert found.ceiling_share is None
        assert "something else used the processors" in (found.reason or "")


def test_training_counts_three_times_the_flops_and_reads_the_weights_there_and_back() -> None:
    forward, train = (attained(replace(MANY_ROWS, mode=mode), 1.0, []) for mode in ("forward", "train"))
    assert train.gflops_per_s == pytest.approx(3 * (forward.gflops_per_s or 0.0))
    assert train.recurrent_weights_gb_per_s == pytest.approx(2 * (forward.recurrent_weights_gb_per_s or 0.0))


def test_steps_past_a_rows_length_count_for_nothing() -> None:
    short = replace(ONE_ROW, batch_size=4, lengths=(50, 10, 0, 40))
    found = attained(short, 1.0, ceilings(short))
    assert found.gflops_per_s == pytest.approx(100 * 8 * H * 2 * H / 1e9)
    assert found.recurrent_weights_gb_per_s == pytest.approx(50 * WEIGHTS_BYTES / 1e9)


def test_a_run_beyond_a_ceiling_gets_no_share_but_the_reason() -> None:
    found = attained(MANY_ROWS, 0.8 * MANY_ROWS.flops / 200e9, ceilings(MANY_ROWS))
    assert found.ceiling_share is None
    assert "1.25 times as fast as the ceiling" in (found.reason or "")


@pytest.mark.parametrize(
    ("case", "run_s", "words"),
    [
        (ONE_ROW, None, "nothing was timed"),
        (replace(ONE_ROW, lengths="uniform"), 1.0, "lengths were drawn"),
        (replace(ONE_ROW, threads=2), 1.0, "no ceilings for this"),
        (replace(ONE_ROW, dtype="float64"), 1.0, "no ceilings for this"),
        (replace(ONE_ROW, num_units=H + 1), 1.0, "no ceilings for this"),
        (replace(ONE_ROW, device="cuda"), 1.0, "no ceilings for this"),
    ],
)
def test_what_is_not_known_has_its_reason(case: Case, run_s: float | None, words: str) -> None:
    found = attained(case, run_s, ceilings(ONE_ROW))
    assert found.ceiling_share is None
    assert words in (found.reason or "")


def test_a_ceiling_that_was_measured_beside_something_else_is_not_used() -> None:
    beside = [replace(ceiling, processor_share=0.5) for ceiling in ceilings(ONE_ROW)]
    found = attained(ONE_ROW, 1.0, beside)
    assert (found.ceiling_share, found.ceiling_gflops_per_s) == (None, None)
    assert "something else used the processors" in (found.reason or "")


def test_a_run_without_ceilings_says_why() -> None:
    why = {"cpu": "the processors were busy"}
    assert attained(ONE_ROW, 1.0, [], why).reason == "the processors were busy"
    assert "no ceilings for this device and dtype" in (attained(ON_GPU, 1.0, [], why).reason or "")


@pytest.mark.parametrize("throttling", [None, "none", "application clocks"])
def test_a_ceiling_of_a_gpu_whose_clocks_were_not_held_down_is_used(throttling: str | None) -> None:
    found = [replace(ceiling, throttling=throttling) for ceiling in ceilings(ON_GPU)]
    assert attained(ON_GPU, 1.0, found).ceiling_share is not None


def test_a_ceiling_of_a_gpu_whose_clocks_were_held_down_is_not_used() -> None:
    throttling = "application clocks, hardware thermal slowdown"
    found = attained(ON_GPU, 1.0, [replace(ceiling, throttling=throttling) for ceiling in ceilings(ON_GPU)])
    assert found.ceiling_share is None
    assert found.reason == (
        "the GPU's clocks were held down (hardware thermal slowdown) while the ceilings were measured"
    )


def test_a_gpu_has_the_peak_and_the_bandwidth_of_the_whole_device_whatever_the_threads() -> None:
    both = [*ceilings(ONE_ROW, 1.0, 1.0), *ceilings(ON_GPU, 60e3, 3e4)]
    found = attained(ON_GPU, 2 * T * WEIGHTS_BYTES / 3e13, both)
    assert (found.ceiling, found.reason) == (READ, None)
    assert found.ceiling_share == pytest.approx(0.5)
    assert found.ceiling_gflops_per_s == 60e3
    assert attained(replace(ON_GPU, threads=4), 1.0, both).ceiling_share is not None
    many = replace(ON_GPU, batch_size=4096)
    assert attained(many, many.flops / 60e12, both).ceiling == MULTIPLY_ADD


def test_the_ceilings_of_one_device_are_none_of_the_other_s() -> None:
    for case, other in ((ONE_ROW, ON_GPU), (ON_GPU, ONE_ROW)):
        assert attained(case, 1.0, ceilings(other)).ceiling_share is None


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"matmul_precision": "tf32"}, "'tf32': tensor cores"),
        ({"dtype": "float64", "backend": "torch", "execution": "library"}, "products in float64"),
        ({"dtype": "float64", "execution": "static"}, "products in float64"),
        ({"dtype": "float64", "mode": "train"}, "products in float64"),
    ],
)
def test_products_that_tensor_cores_may_make_have_rates_but_no_share(axes: dict[str, Any], words: str) -> None:
    case = replace(ON_GPU, **axes)
    found = attained(case, 1.0, ceilings(replace(ON_GPU, dtype=case.dtype)))
    assert (found.ceiling_share, found.ceiling) == (None, None)
    assert found.gflops_per_s is not None
    assert words in (found.reason or "")
    assert wanted([case]) == ()


def test_our_own_kernel_s_products_in_float64_have_a_share() -> None:
    case = replace(ON_GPU, dtype="float64")
    assert attained(case, 1.0, ceilings(case)).ceiling_share is not None


def test_a_program_on_a_gpu_that_is_faster_than_reading_may_have_kept_its_weights_in_registers() -> None:
    found = attained(ON_GPU, 0.5 * T * WEIGHTS_BYTES / 100e9, ceilings(ON_GPU, gflops_per_s=60e3))
    assert found.ceiling_share is None
    assert "2.00 times as fast as the ceiling" in (found.reason or "")
    assert "stayed in registers" in (found.reason or "")


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ({}, (WEIGHTS_BYTES,)),
        ({"threads": 2}, (WEIGHTS_BYTES // 2,)),
        ({"cell": "gru"}, (3 * H * H * 4,)),
        ({"dtype": "float64"}, (2 * WEIGHTS_BYTES,)),
        ({"num_units": 2}, (SMALLEST_BYTES,)),
        ({"num_layers": 2, "num_units": (H, 128)}, (4 * 128 * 128 * 4, WEIGHTS_BYTES)),
        ({"cell_options": CellOptions(num_proj=64)}, (4 * H * 64 * 4 + H * 64 * 4,)),
    ],
)
def test_the_working_sets_are_the_recurrent_weights_of_each_layer_and_thread(
    axes: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    case = replace(ONE_ROW, **axes)
    assert wanted([case]) == (Wanted(case.threads, case.dtype, sizes),)


def test_cases_share_their_ceilings_and_a_gpu_s_come_after_the_processors_() -> None:
    longer, other = replace(ONE_ROW, sequence_length=7), replace(ONE_ROW, num_units=128)
    found = wanted([replace(ON_GPU, threads=3), ON_GPU, ONE_ROW, longer, other])
    sizes = (4 * 128 * 128 * 4, WEIGHTS_BYTES)
    assert found == (Wanted(1, "float32", sizes), Wanted(None, "float32", (WEIGHTS_BYTES,), "cuda"))

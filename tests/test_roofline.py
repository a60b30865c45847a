"""What the ceilings allow follows from the case's shapes; no share is claimed that the ceilings do not support."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unrollbench.case import Case, CellOptions
from unrollbench.records import Ceiling
from unrollbench.roofline import MULTIPLY_ADD, READ, SMALLEST_BYTES, Wanted, attained, wanted

H, T = 256, 100
ONE_ROW = Case(sequence_length=T, batch_size=1, input_size=H, num_units=H)
MANY_ROWS = replace(ONE_ROW, batch_size=128)
WEIGHTS_BYTES = 4 * H * H * 4  # four gates, float32


def ceilings(case: Case, gflops_per_s: float = 200.0, gb_per_s: float = 100.0) -> list[Ceiling]:
    """The ceilings that the case wants, all bandwidths the same."""
    found = []
    for want in wanted([case]):
        found.append(Ceiling(MULTIPLY_ADD, want.dtype, want.threads, gflops_per_s, "GFLOP/s"))
        found += [Ceiling(READ, want.dtype, want.threads, gb_per_s, "GB/s", size) for size in want.sizes_bytes or ()]
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
    assert attained(ONE_ROW, 1.0, [], "the processors were busy").reason == "the processors were busy"


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


def test_cases_share_their_ceilings_and_other_devices_have_none() -> None:
    longer, other = replace(ONE_ROW, sequence_length=7), replace(ONE_ROW, num_units=128)
    found = wanted([ONE_ROW, longer, other, replace(ONE_ROW, device="cuda", threads=3)])
    assert found == (Wanted(1, "float32", (4 * 128 * 128 * 4, WEIGHTS_BYTES)),)

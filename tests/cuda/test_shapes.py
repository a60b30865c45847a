"""Threads and blocks decide who computes what, and nothing else: other shapes give the same bits.

The order of every sum depends on the number of lanes alone. Were an element written by two threads, or read before the
barrier after it was written, these comparisons would differ.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backends.numba_programs import identical
from tests.cuda.programs import EXECUTIONS, check, limits, results, small
from unrollbench.kernels.cuda import network, tiling
from unrollbench.kernels.cuda.simulator import LIMITS
from unrollbench.kernels.cuda.tiling import Block, Tile

ONE_LANE = {
    "one thread, one block": limits(Block(1, 1, 1), rows=1, blocks=1),
    "one thread, a block per tile": limits(Block(1, 1, 1), rows=1, blocks=99),
    "two units": limits(Block(1, 2, 1), rows=2),
    "two groups": limits(Block(1, 1, 2), rows=1),
    "two by two, four rows": limits(Block(1, 2, 2), rows=4, blocks=3),
    "no room for resident weights": limits(Block(1, 2, 1), rows=2, shared_bytes=64),
}


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["lstm with everything", "gru"])
def test_any_shape_with_one_lane_has_the_same_bits(name: str, execution: str) -> None:
    case = small(name, execution=execution, sequence_length=3, num_units=5, lengths=(3, 1, 2))
    found = {shape: results(case, wanted=wanted) for shape, wanted in ONE_LANE.items()}
    reference = found["one thread, one block"]
    assert {shape: identical(own, reference) for shape, own in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize("block", [Block(2, 1, 1), Block(3, 2, 1), Block(2, 2, 2)], ids=str)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_any_number_of_lanes_is_right(block: Block, execution: str) -> None:
    case = small("lstm with projection", execution=execution, sequence_length=3, dtype="float64")
    check(case, wanted=limits(block, rows=2))


def test_more_lanes_than_terms_are_right() -> None:
    case = small("gru", execution="dynamic", num_units=2, input_size=1, sequence_length=2)
    check(case, wanted=limits(Block(5, 1, 1), rows=1))


def test_executions_have_the_same_bits() -> None:
    cases = [small("gru", execution=e, num_layers=2, num_units=(4, 5), sequence_length=5) for e in EXECUTIONS]
    static, *others = (results(case) for case in cases)
    assert all(identical(static, other) for other in others)


@pytest.mark.parametrize("axes", [{"unroll": 1}, {"unroll": 3}, {"unroll": 5, "parallel_iterations": 2}], ids=str)
def test_unroll_and_windows_do_not_change_a_bit(axes: dict[str, int]) -> None:
    wanted = results(small("lstm", parallel_iterations=7, num_layers=2, num_units=(3, 4)))
    found = results(small("lstm", **{"parallel_iterations": 3, **axes}, num_layers=2, num_units=(3, 4)))
    assert identical(found, wanted)


def test_deposits_of_some_rows_at_a_time_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = limits(Block(2, 1, 1), rows=4)
    case = small("lstm", sequence_length=2, batch_size=4)
    at_once = results(case, wanted=wanted)
    whole = tiling.tile_for

    def one_by_one(*arguments: object) -> Tile:
        return replace(whole(*arguments), deposit=1)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "tile_for", one_by_one)
    assert identical(results(case, wanted=wanted), at_once)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_several_units_of_a_thread_have_the_same_bits(execution: str) -> None:
    case = small("gru", execution=execution, sequence_length=2, num_units=5)
    alone, several = (results(case, wanted=replace(LIMITS, span=span)) for span in (1, 3))
    assert identical(alone, several)

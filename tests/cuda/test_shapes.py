"""Threads and blocks decide who computes what, and nothing else: other shapes give the same bits.

The order of every sum depends on the number of lanes alone. Were an element written by two threads, or read before the
barrier after it was written, these comparisons would differ.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backends.numba_programs import identical
from tests.cuda.programs import EXECUTIONS, check, limits, results, small
from unrollbench.kernels.cuda.simulator import LIMITS
from unrollbench.kernels.cuda.tiling import Block, ProductTile

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


@pytest.mark.parametrize("block", [Block(2, 1, 1), Block(4, 2, 1), Block(2, 2, 2)], ids=str)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_any_number_of_lanes_is_right(block: Block, execution: str) -> None:
    case = small("lstm with projection", execution=execution, sequence_length=3, dtype="float64")
    check(case, wanted=limits(block, rows=2))


def test_more_lanes_than_terms_are_right() -> None:
    case = small("gru", execution="dynamic", num_units=2, input_size=1, sequence_length=2)
    check(case, wanted=limits(Block(8, 1, 1), rows=1))


def test_executions_have_the_same_bits() -> None:
    cases = [small("gru", execution=e, num_layers=2, num_units=(4, 5), sequence_length=5) for e in EXECUTIONS]
    static, *others = (results(case) for case in cases)
    assert all(identical(static, other) for other in others)


@pytest.mark.parametrize("axes", [{"unroll": 1}, {"unroll": 3}, {"unroll": 5, "parallel_iterations": 2}], ids=str)
def test_unroll_and_windows_do_not_change_a_bit(axes: dict[str, int]) -> None:
    wanted = results(small("lstm", parallel_iterations=7, num_layers=2, num_units=(3, 4)))
    found = results(small("lstm", **{"parallel_iterations": 3, **axes}, num_layers=2, num_units=(3, 4)))
    assert identical(found, wanted)


SHAPES_OF_TWO_LANES = {
    "one row, one unit": limits(Block(2, 1, 1), rows=1),
    "two rows": limits(Block(2, 1, 1), rows=2),
    "four rows": limits(Block(2, 2, 1), rows=4),
    "two groups": limits(Block(2, 1, 2), rows=2),
    "two units of a thread": replace(limits(Block(2, 1, 1), rows=2), span=2),
}


@pytest.mark.parametrize("units", [5, 8])
def test_any_shape_with_as_many_lanes_has_the_same_bits(units: int) -> None:
    """Lanes that share a pair, have one each, or have several; terms one by one, or by vectors."""
    case = small("lstm", num_units=units, sequence_length=2, batch_size=4)
    found = {shape: results(case, wanted=wanted) for shape, wanted in SHAPES_OF_TWO_LANES.items()}
    reference = found["one row, one unit"]
    assert {shape: identical(own, reference) for shape, own in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("lanes", "units"), [(1, 8), (4, 12), (4, 44), (2, 80)])
def test_vectors_of_terms_are_right(lanes: int, units: int, dtype: str) -> None:
    """Fewer vectors than lanes, a vector for some lanes only, and loops over them."""
    case = small("gru", num_units=units, sequence_length=2, dtype=dtype, batch_size=2)
    check(case, wanted=limits(Block(lanes, 1, 1), rows=2))


@pytest.mark.parametrize("product", [ProductTile(2, 1, 4, 8, 2), ProductTile(1, 2, 8, 4, 4)], ids=str)
def test_whole_products_by_vectors_are_right(product: ProductTile) -> None:
    case = small("gru", num_units=8, input_size=7, sequence_length=3, num_layers=2)
    check(case, wanted=replace(limits(Block(2, 1, 1), rows=2), product=product))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_several_units_of_a_thread_have_the_same_bits(execution: str) -> None:
    case = small("gru", execution=execution, sequence_length=2, num_units=5)
    alone, several = (results(case, wanted=replace(LIMITS, span=span)) for span in (1, 3))
    assert identical(alone, several)

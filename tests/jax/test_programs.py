"""The programs that JAX compiles are the ones that the execution names, and nothing of them is folded away."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from unrollbench import backends
from unrollbench.backends import Listing
from unrollbench.case import Case
from unrollbench.tensors import draw

STEPS = 6


def listing(**axes: Any) -> Listing:
    case = replace(Case(backend="jax", sequence_length=STEPS, batch_size=4, input_size=8, num_units=16), **axes)
    with closing(backends.load("jax").build(case, draw(case))) as program:
        return program.listing()


def products(found: Listing) -> int:
    """Matrix products in the program that XLA compiled, after constant folding and everything else that it does."""
    return found.source.count(" dot(")


def test_static_has_a_product_for_every_step() -> None:
    assert products(listing(execution="static")) == STEPS


@pytest.mark.parametrize("execution", ["dynamic", "stepwise"])
def test_a_loop_and_a_step_have_one_product(execution: str) -> None:
    assert products(listing(execution=execution)) == 1


def test_unroll_is_the_number_of_products_in_the_body() -> None:
    assert products(listing(execution="dynamic", unroll=3)) == 3


def test_the_phases_of_a_build_are_told() -> None:
    case = Case(backend="jax", sequence_length=2, batch_size=1, input_size=1, num_units=1)
    with closing(backends.load("jax").build(case, draw(case))) as program:
        assert list(program.build_phases_s) == ["client", "inputs", "trace", "lower", "compile"]

"""JAX does what every backend must, in every execution that it has."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def jax() -> Records:
    return records("jax")


def test_no_statement_fails(jax: Records) -> None:
    assert jax.failed == {}


def test_it_trains_in_every_execution_but_library(jax: Records) -> None:
    assert jax.executions("train") == {"static", "dynamic", "stepwise"}


def test_only_what_lax_scan_does_not_have_is_skipped(jax: Records) -> None:
    assert set(jax.skipped) == {
        "library: everything",
        "dynamic: parallel_iterations = 1: results equal the reference",
        "dynamic: parallel_iterations = 2: results equal the reference",
        "dynamic: swap_memory: results equal the reference",
    }

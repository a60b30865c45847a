"""numba_cuda does in the simulator what every backend must, in every execution that it has."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def simulated() -> Records:
    return records("numba_cuda")


def test_no_statement_fails(simulated: Records) -> None:
    assert simulated.failed == {}


def test_it_trains_in_every_execution_but_library(simulated: Records) -> None:
    assert simulated.executions("train") == {"static", "dynamic", "stepwise"}


def test_only_what_the_simulator_cannot_do_is_skipped(simulated: Records) -> None:
    assert set(simulated.skipped) == {
        "library: everything",
        "dynamic: matmul_precision = tf32: results equal the reference",
    }

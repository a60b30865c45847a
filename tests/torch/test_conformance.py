"""PyTorch does what every backend must; what it cannot do exactly it declines."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def torch() -> Records:
    # torch's compiler warns about its own use of torch.jit while it is imported.
    return records("torch", warnings="default")


def test_no_statement_fails(torch: Records) -> None:
    assert torch.failed == {}


def test_it_runs_every_execution_and_trains_in_all_but_the_scan(torch: Records) -> None:
    assert torch.executions("train") == {"static", "stepwise", "library"}
    assert "dynamic" in torch.executions("forward")


def test_the_variants_that_torch_nn_does_not_have_are_skipped(torch: Records) -> None:
    lacking = {name.split(": ")[1] for name in torch.skipped if name.startswith("library")}
    assert lacking == {
        "a GRU",
        "a row of length 0",
        "peepholes",
        "a clipped cell",
        "a clipped projection",
        "the program does not grow with the sequence",
    }


def test_static_and_stepwise_run_every_network(torch: Records) -> None:
    skipped = [name for name in torch.skipped if name.startswith(("static", "stepwise"))]
    assert skipped == ["stepwise: the program does not grow with the sequence"]

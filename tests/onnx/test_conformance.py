"""ONNX Runtime does what every backend must, forwards, in every execution."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def onnx() -> Records:
    return records("onnx")


def test_no_statement_fails(onnx: Records) -> None:
    assert onnx.failed == {}


def test_it_runs_every_execution_forwards_and_none_backwards(onnx: Records) -> None:
    assert onnx.executions("forward") == {"static", "dynamic", "stepwise", "library"}
    assert onnx.executions("train") == set()


def test_what_the_fused_operators_lack_is_skipped_with_the_reason(onnx: Records) -> None:
    lacking = {name.split(": ")[1]: reason for name, reason in onnx.skipped.items() if name.startswith("library")}
    assert set(lacking) == {
        "an LSTM in float64",
        "a row of length 0",
        "a clipped cell",
        "a projection",
        "a clipped projection",
        "a second run is the first, and compiles nothing",
    }
    assert all(lacking.values())

"""OpenVINO does what every backend must, forwards, as a sequence operator and as a loop."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def openvino() -> Records:
    return records("openvino")


def test_no_statement_fails(openvino: Records) -> None:
    assert openvino.failed == {}


def test_it_runs_two_executions_forwards_and_none_backwards(openvino: Records) -> None:
    assert openvino.executions("forward") == {"dynamic", "library"}
    assert openvino.executions("train") == set()


def test_what_the_sequence_operators_lack_is_skipped_with_the_reason(openvino: Records) -> None:
    lacking = {name.split(": ")[1]: reason for name, reason in openvino.skipped.items() if name.startswith("library")}
    assert set(lacking) == {
        "an LSTM in float64",
        "a row of length 0",
        "peepholes",
        "a clipped cell",
        "a projection",
        "a clipped projection",
        "a second run is the first, and compiles nothing",
    }
    assert all(lacking.values())


def test_lengths_and_every_option_of_the_lstm_run_as_a_loop(openvino: Records) -> None:
    passed = {name.split(": ")[1] for name in openvino.passed if name.startswith("dynamic")}
    assert passed >= {
        "a GRU",
        "a basic RNN",
        "a row of length 0",
        "peepholes",
        "a clipped cell",
        "a clipped projection",
    }

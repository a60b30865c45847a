"""TensorFlow 1's functions and Keras's layers do what every backend must; what they cannot do exactly they decline."""

from __future__ import annotations

import pytest

from tests.conformance_process import Records, records


@pytest.fixture(scope="module")
def tensorflow() -> Records:
    return records("tensorflow")


@pytest.fixture(scope="module")
def keras() -> Records:
    return records("keras")


def test_no_statement_fails_for_tensorflow(tensorflow: Records) -> None:
    assert tensorflow.failed == {}


def test_tensorflow_trains_in_every_execution_but_stepwise(tensorflow: Records) -> None:
    assert tensorflow.executions("train") == {"static", "dynamic", "library"}
    assert tensorflow.executions("forward") == {"static", "dynamic", "stepwise", "library"}


def test_tensorflow_takes_every_setting_of_dynamic_rnn_and_no_other(tensorflow: Records) -> None:
    skipped = {name.split(": ")[1] for name in tensorflow.skipped if name.startswith("dynamic")}
    assert skipped == {"unroll = 2", "unroll = 4", "unroll = full", "unroll beyond the sequence"}


def test_no_statement_fails_for_keras(keras: Records) -> None:
    assert keras.failed == {}


def test_keras_trains_unrolled_and_looping(keras: Records) -> None:
    assert keras.executions("train") == {"static", "dynamic"}
    assert {"stepwise: everything", "library: everything"} <= set(keras.skipped)

"""What a framework cannot run exactly is said in a sentence, with no framework installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unrollbench.backends import limits
from unrollbench.case import EXECUTIONS, Case, CellOptions

LSTM = Case(batch_size=2, sequence_length=4)


def case(**axes: Any) -> Case:
    return replace(LSTM, **axes)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_plain_lstm_runs_in_every_execution_that_a_framework_has(execution: str) -> None:
    plain = case(execution=execution, time_major=False)
    has = {
        "tensorflow": limits.tensorflow(plain),
        "keras": limits.keras(plain),
        "jax": limits.jax(plain),
        "torch": limits.torch(plain),
        "onnx": limits.onnx(plain),
        "openvino": limits.openvino(plain),
    }
    lacks = {
        "static": {"openvino"},
        "dynamic": {"openvino"},
        "stepwise": {"keras", "openvino"},
        "library": {"keras", "jax"},
    }[execution]
    assert {name for name, reason in has.items() if reason} == lacks


@pytest.mark.parametrize(
    ("framework", "axes", "words"),
    [
        ("tensorflow", {"execution": "stepwise", "mode": "train"}, "session.run keeps no activations"),
        ("tensorflow", {"execution": "dynamic", "unroll": 2}, "no partial unroll"),
        ("tensorflow", {"execution": "library", "cell": "gru"}, "BlockLSTM"),
        ("tensorflow", {"execution": "library", "lengths": (1, 4)}, "one length for the whole batch"),
        ("tensorflow", {"execution": "library", "dtype": "float64"}, "float32 only"),
        ("keras", {"time_major": True}, "batch-major"),
        ("keras", {"time_major": False, "cell_options": CellOptions(use_peepholes=True)}, "no use_peepholes"),
        ("keras", {"time_major": False, "parallel_iterations": 1}, "parallel_iterations"),
        ("jax", {"parallel_iterations": 1}, "parallel_iterations"),
        ("jax", {"mode": "train", "swap_memory": True}, "swap_memory"),
        ("torch", {"execution": "library", "cell": "gru"}, "reset gate after"),
        ("torch", {"execution": "library", "lengths": (0, 4)}, "at least 1"),
        ("torch", {"execution": "library", "cell_options": CellOptions(num_proj=64)}, "proj_size < hidden_size"),
        ("torch", {"execution": "dynamic", "mode": "train"}, "wrong gradients of scan"),
        ("torch", {"device": "cuda", "allow_growth": False}, "no allow_growth = false"),
        ("jax", {"device": "cuda", "allow_growth": False}, "from the environment only"),
        ("jax", {"device": "cuda", "device_memory_limit": 0.5}, "from the environment only"),
        ("jax", {"device": "cuda", "l2_cache": "cold"}, "no events"),
        ("tensorflow", {"device": "cuda"}, "drives device 'cpu' only"),
        ("keras", {"device": "cuda"}, "drives device 'cpu' only"),
        ("onnx", {"device": "cuda"}, "drives device 'cpu' only"),
        ("openvino", {"device": "cuda"}, "device 'cpu' only"),
        ("onnx", {"mode": "train"}, "inference only"),
        ("onnx", {"execution": "library", "cell_options": CellOptions(cell_clip=1.0)}, "clip bounds the gates"),
        ("onnx", {"execution": "library", "lengths": (0, 4)}, "length 0"),
        ("openvino", {"mode": "train"}, "inference only"),
        ("openvino", {"execution": "library", "dtype": "float64"}, "in float32"),
        ("openvino", {"execution": "library", "lengths": (0, 4)}, "length 0"),
        ("openvino", {"execution": "library", "cell_options": CellOptions(use_peepholes=True)}, "no use_peepholes"),
        ("openvino", {"execution": "dynamic"}, "LSTMSequence"),
        ("openvino", {"execution": "dynamic", "cell": "gru", "unroll": 2}, "no partial unroll"),
        ("openvino", {"execution": "static"}, "together again"),
        ("openvino", {"execution": "stepwise"}, "whole sequences"),
        ("flashrnn", {"execution": "library"}, "device 'cuda' only"),
        ("flashrnn_alternating", {"execution": "library"}, "device 'cuda' only"),
        ("flashrnn_triton", {"execution": "library"}, "device 'cuda' only"),
    ],
)
def test_what_a_framework_cannot_do_exactly_has_its_reason(framework: str, axes: dict[str, Any], words: str) -> None:
    reason = getattr(limits, framework)(case(**axes))
    assert reason is not None
    assert words in reason


FLASH: dict[str, Any] = {"device": "cuda", "execution": "library", "num_units": 64}
"""What each of FlashRNN's kernels takes, if its precision of products is added."""
PRECISION = {"flashrnn": "tf32", "flashrnn_alternating": "float32", "flashrnn_triton": "tf32"}


@pytest.mark.parametrize("name", PRECISION)
@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({}, None),
        ({"mode": "train", "time_major": False, "num_layers": 2, "num_units": (32, 64)}, None),
        ({"cell": "gru"}, "reset gate after"),
        ({"dtype": "float64"}, "not in float64"),
        ({"lengths": (1, 4)}, "no lengths"),
        ({"cell_options": CellOptions(use_peepholes=True)}, "no use_peepholes"),
        ({"cell_options": CellOptions(num_proj=3, cell_clip=1.0)}, "no cell_clip, num_proj"),
        ({"allow_growth": False}, "no allow_growth = false"),
        ({"execution": "dynamic"}, "execution = 'library'"),
    ],
)
def test_flashrnn_s_kernels_take_a_plain_lstm_and_say_what_they_have_not(
    name: str, axes: dict[str, Any], words: str | None
) -> None:
    reason = getattr(limits, name)(case(**{**FLASH, "matmul_precision": PRECISION[name], **axes}))
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(
    ("name", "axes", "words"),
    [
        ("flashrnn", {"matmul_precision": "float32"}, "in TF32"),
        ("flashrnn", {"matmul_precision": "tf32", "num_units": 100}, "multiples of 16 units, not 100"),
        ("flashrnn", {"matmul_precision": "tf32", "num_units": 1024}, None),
        ("flashrnn", {"matmul_precision": "tf32", "cell": "basic_rnn"}, None),
        ("flashrnn_alternating", {"matmul_precision": "tf32"}, "without TF32"),
        ("flashrnn_alternating", {"num_units": 100, "cell": "basic_rnn"}, None),
        ("flashrnn_triton", {"matmul_precision": "float32"}, None),
        ("flashrnn_triton", {"num_units": 128}, "16, 32 or 64 units, not 128"),
        ("flashrnn_triton", {"num_units": (64, 48), "num_layers": 2}, "not 64, 48"),
        ("flashrnn_triton", {"cell": "basic_rnn"}, "lstm only"),
    ],
)
def test_each_of_flashrnn_s_kernels_has_its_own_sizes_and_precision(
    name: str, axes: dict[str, Any], words: str | None
) -> None:
    reason = getattr(limits, name)(case(**{**FLASH, **axes}))
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize("framework", ["tensorflow", "keras", "onnx", "openvino"])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_these_frameworks_are_not_driven_on_a_gpu(framework: str, execution: str) -> None:
    on_gpu = case(device="cuda", execution=execution, time_major=False)
    assert getattr(limits, framework)(on_gpu) is not None


@pytest.mark.parametrize("framework", ["jax", "torch"])
@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
def test_these_frameworks_take_on_a_gpu_what_they_take_on_the_processor(framework: str, execution: str) -> None:
    assert getattr(limits, framework)(case(device="cuda", execution=execution)) is None


def test_settings_that_mean_nothing_for_an_execution_are_no_reason() -> None:
    settings = {"unroll": 3, "parallel_iterations": 5, "swap_memory": True, "mode": "train"}
    for framework in ("tensorflow", "jax", "torch"):
        assert getattr(limits, framework)(case(execution="static", **settings)) is None

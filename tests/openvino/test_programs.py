"""What OpenVINO runs is what the execution names, in float32 and on the case's threads."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import openvino
import pytest

from unrollbench import reference
from unrollbench.backends import limits, onnx_models
from unrollbench.backends.openvino_rnn import OpenvinoRnn
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import draw

STEPS = 8
CASE = Case(backend="openvino", execution="library", sequence_length=STEPS, batch_size=4, input_size=8, num_units=16)


def layers(case: Case) -> list[str]:
    """The layers that the plugin runs for the case, after its rewriting."""
    with closing(OpenvinoRnn().build(case, draw(case))) as program:
        return [line.rpartition(" = ")[2] for line in program.listing().source.splitlines()]


@pytest.mark.parametrize("cell", ["basic_rnn", "gru", "lstm"])
def test_library_runs_one_sequence_operator_for_each_layer(cell: str) -> None:
    assert layers(replace(CASE, cell=cell, num_layers=2)).count("RNNSeq") == 2


@pytest.mark.parametrize("cell", ["basic_rnn", "gru"])
def test_dynamic_runs_one_loop(cell: str) -> None:
    found = layers(replace(CASE, cell=cell, execution="dynamic"))
    assert (found.count("TensorIterator"), found.count("RNNSeq")) == (1, 0)


def test_a_loop_that_becomes_a_sequence_operator_is_refused_before_and_after_it_is_built() -> None:
    plain = replace(CASE, execution="dynamic")
    assert "execution = 'library'" in (limits.openvino(plain) or "")
    with pytest.raises(BackendUnavailable, match="rewrote this loop"):
        OpenvinoRnn().build(plain, draw(plain))


def test_copies_of_a_step_are_put_together_again_which_is_why_there_is_no_static() -> None:
    unrolled = replace(CASE, execution="static", sequence_length=28, batch_size=16, num_units=64, time_major=False)
    model = openvino.Core().read_model(onnx_models.unrolled_model(unrolled, draw(unrolled).weights).SerializeToString())
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    operations = compiled.get_runtime_model().get_ops()
    assert sum(operation.get_rt_info()["layerType"].astype(str) == "RNNSeq" for operation in operations) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_the_model_computes_in_float32_on_the_threads_of_the_case(monkeypatch: Any, threads: int) -> None:
    found: list[Any] = []
    compile_model = openvino.Core.compile_model

    def kept(*arguments: Any) -> Any:
        found.append(compile_model(*arguments))
        return found[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", kept)
    case = replace(CASE, threads=threads)
    OpenvinoRnn().build(case, draw(case)).close()
    (compiled,) = found
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert compiled.get_property("NUM_STREAMS") == 1
    precisions = {str(o.get_rt_info()["runtimePrecision"].astype(str)) for o in compiled.get_runtime_model().get_ops()}
    assert "bf16" not in precisions


def test_a_large_network_is_as_exact_as_float32_can_be() -> None:
    case = replace(CASE, sequence_length=50, batch_size=32, num_units=256, input_size=128)
    tensors = draw(case)
    with closing(OpenvinoRnn().build(case, tensors)) as program:
        program.run()
        program.synchronize()
        error, tolerance = reference.check(case, program.outputs(), reference.expected(case, tensors))
    assert error <= tolerance < np.finfo(np.float16).eps

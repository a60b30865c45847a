"""The graphs are the ones that the execution names, and ONNX Runtime folds nothing of them away."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from unrollbench.backends import onnx_models
from unrollbench.case import Case
from unrollbench.tensors import draw

STEPS = 6
CASE = Case(backend="onnx", sequence_length=STEPS, batch_size=4, input_size=8, num_units=16)


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators of the graph and of the graphs inside its nodes."""
    found, graphs = [], [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.append(node.op_type)
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return found


def optimized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs, after constant folding and its other passes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that such a file is for this machine only
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def test_static_runs_a_product_for_every_step(tmp_path: Path) -> None:
    model = optimized(onnx_models.unrolled_model(CASE, draw(CASE).weights), tmp_path)
    assert sum(operator.endswith("Gemm") for operator in operators(model)) == STEPS


def test_dynamic_runs_one_scan_with_one_product(tmp_path: Path) -> None:
    model = optimized(onnx_models.scan_model(CASE, draw(CASE).weights), tmp_path)
    assert operators(model).count("Scan") == 1
    assert sum(operator.endswith("Gemm") for operator in operators(model)) == 1


def test_library_runs_the_fused_operator(tmp_path: Path) -> None:
    assert operators(optimized(onnx_models.fused_model(CASE, draw(CASE).weights), tmp_path)).count("LSTM") == 1


@pytest.mark.parametrize("make", [onnx_models.unrolled_model, onnx_models.scan_model, onnx_models.step_model])
def test_every_graph_passes_the_checker_of_onnx(make: object) -> None:
    assert callable(make)
    onnx.checker.check_model(make(CASE, draw(CASE).weights), full_check=True)


def test_the_fused_graph_passes_the_checker_of_onnx() -> None:
    onnx.checker.check_model(onnx_models.fused_model(CASE, draw(CASE).weights), full_check=True)

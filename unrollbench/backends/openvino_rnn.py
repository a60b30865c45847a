"""OpenVINO on the CPU: its RNN, GRU and LSTM sequence operators, and a loop over one step (TensorIterator).

Both are read from the ONNX models of `onnx_models`, which is how networks come to OpenVINO, and compiled for the case's
shapes. What runs is not always what was written, since the plugin fuses and rewrites: `listing` shows what it made of
it, and a loop that became another operator is refused, not measured under a false name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import openvino

from unrollbench.backends import Listing, Memory, limits, onnx_graph, onnx_models
from unrollbench.backends.phases import Phases
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import Array, Outputs, Tensors

_MODELS = {"dynamic": onnx_models.scan_model, "library": onnx_models.fused_model}
_LOOP = "TensorIterator"
"""The layer that runs a loop, as the compiled graph names it."""


class OpenvinoRnn:
    """library: RNNSequence, GRUSequence, LSTMSequence; dynamic: a TensorIterator around one step. Forwards only.

    Weights are constants of the graph, as in a converted model; inputs, lengths and the initial state are its inputs.
    Where rows have lengths, the plugin runs a sequence operator as a loop over its cell.
    """

    name = "openvino"
    versions: Mapping[str, str] = {"openvino": openvino.__version__, "onnx": onnx.__version__}

    def why_not(self, case: Case) -> str | None:
        return limits.openvino(case)

    def build(self, case: Case, tensors: Tensors) -> OpenvinoProgram:
        """A request of a compiled model, its inputs set; nothing is compiled after that, as all shapes are fixed."""
        case = case.canonical()
        phases = Phases()
        with phases("graph"):
            serialized = _MODELS[case.execution](case, tensors.weights).SerializeToString()
        core = openvino.Core()
        with phases("read"):
            model = core.read_model(serialized)
        with phases("compile"):
            compiled = core.compile_model(model, "CPU", _settings(case))
        if case.execution == "dynamic" and _LOOP not in _layers(compiled):
            raise BackendUnavailable("OpenVINO rewrote this loop into another operator")
        weight_bytes = sum(array.nbytes for layer in tensors.weights for array in layer.values())
        with phases("inputs"):
            return OpenvinoProgram(case, compiled, _feeds(case, tensors), weight_bytes, phases)


class OpenvinoProgram:
    """A compiled model and the one request that runs it, between buffers that stay the same."""

    def __init__(
        self, case: Case, compiled: Any, feeds: Mapping[str, Array], weight_bytes: int, phases: Mapping[str, float]
    ) -> None:
        self._case, self._compiled, self._weight_bytes = case, compiled, weight_bytes
        self._request = compiled.create_infer_request()
        # The request reads the caller's arrays where they are: both are kept as long as it is.
        self._tensors = {name: openvino.Tensor(array, shared_memory=True) for name, array in feeds.items()}
        for name, tensor in self._tensors.items():
            self._request.set_tensor(name, tensor)
        self.build_phases_s = phases

    def run(self) -> None:
        self._request.start_async()

    def synchronize(self) -> None:
        self._request.wait()

    def outputs(self) -> Outputs:
        state = tuple(tuple(self._result(name) for name in layer) for layer in onnx_graph.final_names(self._case))
        return Outputs(self._result("outputs"), state)

    def memory(self) -> Memory:
        return Memory(weight_bytes=self._weight_bytes)

    def listing(self) -> Listing:
        """The graph as the plugin runs it, after all of its rewriting; a loop's body is inside its one layer."""
        operations = self._compiled.get_runtime_model().get_ordered_ops()
        lines = [f"{operation.get_friendly_name()} = {_layer(operation)}" for operation in operations]
        return Listing("\n".join(lines), graph_nodes=len(lines))

    def close(self) -> None:
        self._request = self._compiled = None
        self._tensors.clear()

    def _result(self, name: str) -> Array:
        return np.array(self._request.get_tensor(name).data)


def _settings(case: Case) -> dict[str, Any]:
    """One run at a time on the case's threads, in float32: left to itself, OpenVINO takes bfloat16 where it can.

    The harness has pinned the process, so that OpenVINO need not pin its threads.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": case.threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _feeds(case: Case, tensors: Tensors) -> dict[str, Array]:
    """Input name -> array, as the model's inputs are named."""
    names = (name for layer in onnx_graph.feed_names(case) for name in layer)
    state = dict(zip(names, (part for layer in tensors.initial_state for part in layer), strict=True))
    lengths = {} if tensors.lengths is None else {"lengths": tensors.lengths}
    return {name: np.array(array) for name, array in {"inputs": tensors.inputs, **state, **lengths}.items()}


def _layers(compiled: Any) -> set[str]:
    return {_layer(operation) for operation in compiled.get_runtime_model().get_ops()}


def _layer(operation: Any) -> str:
    """The name of the plugin's layer that runs the operation."""
    return str(operation.get_rt_info()["layerType"].astype(str))

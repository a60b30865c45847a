"""ONNX Runtime: an unrolled graph, one with a Scan, a Python loop over a graph of one step, the fused operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime

from unrollbench.backends import Listing, Memory, limits, onnx_graph, onnx_models
from unrollbench.backends.phases import Phases
from unrollbench.case import Case
from unrollbench.tensors import Array, Outputs, Tensors

_MODELS = {
    "static": onnx_models.unrolled_model,
    "dynamic": onnx_models.scan_model,
    "stepwise": onnx_models.step_model,
    "library": onnx_models.fused_model,
}


class OnnxRnn:
    """static: a copy of the step's nodes per time step; dynamic: Scan; stepwise: run per step; library: RNN, GRU, LSTM.

    Weights are initialisers, as in an exported model; inputs, lengths and the initial state are inputs of the graph.
    """

    name = "onnx"
    versions: Mapping[str, str] = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}

    def why_not(self, case: Case) -> str | None:
        return limits.onnx(case)

    def build(self, case: Case, tensors: Tensors) -> OnnxProgram:
        """A session is a parsed, optimised and packed graph; nothing is compiled after it is made."""
        case = case.canonical()
        phases = Phases()
        with phases("graph"):
            model = _MODELS[case.execution](case, tensors.weights)
            serialized = model.SerializeToString()
        with phases("session"):
            session = onnxruntime.InferenceSession(serialized, _options(case), providers=["CPUExecutionProvider"])
        weight_bytes = sum(array.nbytes for layer in tensors.weights for array in layer.values())
        runner = _Steps if case.execution == "stepwise" else _Sequence
        with phases("inputs"):
            return OnnxProgram(case, runner(case, tensors, session), model, weight_bytes, phases)


class OnnxProgram:
    """A session and what it runs on."""

    def __init__(
        self, case: Case, runner: _Sequence | _Steps, model: Any, weight_bytes: int, phases: Mapping[str, float]
    ) -> None:
        self._case, self._runner, self._model, self._weight_bytes = case, runner, model, weight_bytes
        self.build_phases_s = phases

    def run(self) -> None:
        self._runner.run()

    def synchronize(self) -> None:
        """Nothing to wait for: a session's run returns when its outputs are written."""

    def outputs(self) -> Outputs:
        outputs, state = self._runner.results()
        parts = len(state) // self._case.num_layers
        return Outputs(outputs, tuple(tuple(state[i : i + parts]) for i in range(0, len(state), parts)))

    def memory(self) -> Memory:
        return Memory(weight_bytes=self._weight_bytes)

    def listing(self) -> Listing:
        """The graph as it was given to ONNX Runtime, before its own optimisations; a Scan's body is counted once."""
        lines = onnx_graph.lines(self._model.graph)
        return Listing("\n".join(lines), graph_nodes=len(lines))

    def close(self) -> None:
        self._runner.close()


class _Sequence:
    """One run of the session for the whole sequence, between buffers that are bound once."""

    def __init__(self, case: Case, tensors: Tensors, session: Any) -> None:
        self._session, self._binding = session, session.io_binding()
        feeds: dict[str, Any] = {"inputs": tensors.inputs, **_state_feeds(case, tensors)}
        if tensors.lengths is not None:
            feeds["lengths"] = tensors.lengths
        self._values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.array(array)) for name, array in feeds.items()
        }
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in _result_values(case, session).items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def results(self) -> tuple[Array, Sequence[Array]]:
        outputs, *state = self._binding.copy_outputs_to_cpu()
        return outputs, state

    def close(self) -> None:
        self._session = self._binding = None


class _Steps:
    """A Python loop with one run of the session per step; the arrays go in and out as NumPy's."""

    def __init__(self, case: Case, tensors: Tensors, session: Any) -> None:
        self._session = session
        self._steps = [np.ascontiguousarray(x) for x in np.moveaxis(tensors.inputs, 0 if case.time_major else 1, 0)]
        self._state = _state_feeds(case, tensors)
        self._lengths = {} if tensors.lengths is None else {"lengths": tensors.lengths}
        shape = (*tensors.inputs.shape[:2], case.layer_shapes[-1][2])
        self._outputs = np.empty(shape, case.dtype)
        self._output_steps = np.moveaxis(self._outputs, 0 if case.time_major else 1, 0)
        self._final: Sequence[Array] = ()

    def run(self) -> None:
        state = dict(self._state)
        for t, x in enumerate(self._steps):
            number = {"t": np.asarray(t, np.int64)} if self._lengths else {}
            output, *self._final = self._session.run(None, {"inputs": x, **state, **self._lengths, **number})
            self._output_steps[t] = output
            state = dict(zip(state, self._final, strict=True))

    def results(self) -> tuple[Array, Sequence[Array]]:
        return self._outputs, self._final

    def close(self) -> None:
        self._session = None


def _options(case: Case) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return options


def _state_feeds(case: Case, tensors: Tensors) -> dict[str, Array]:
    names = (name for layer in onnx_graph.feed_names(case) for name in layer)
    return dict(zip(names, (part for layer in tensors.initial_state for part in layer), strict=True))


def _result_values(case: Case, session: Any) -> dict[str, Any]:
    return {
        output.name: onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(output.shape, case.dtype))
        for output in session.get_outputs()
    }

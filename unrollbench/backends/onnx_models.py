"""The ONNX models of a case: unrolled, with a Scan, of one step, and of fused operators.

Every model takes `inputs`, the initial state as `state_<layer>_<part>` and, unless all rows are full, `lengths` (B,)
int64; it returns `outputs` and the final state as `final_<layer>_<part>`. Weights are initialisers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, TensorProto, helper

from unrollbench.backends.onnx_graph import Graph, Name, feed_names
from unrollbench.backends.step import Value, stack_step
from unrollbench.case import Case
from unrollbench.tensors import Array, Weights


def unrolled_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One copy of the step's nodes per time step."""
    graph, axis = Graph(case), 0 if case.time_major else 1
    constants = graph.weights(weights)
    steps = graph.split(Name("inputs", graph), case.sequence_length, axis)
    state, outputs = graph.initial_state(), []
    column = graph.column_of_lengths()
    for t, x in enumerate(steps):
        running = None if column is None else graph.node("Less", graph.constant(np.int64(t)), column)
        output, state = stack_step(graph.ops, case, constants, graph.squeeze(x, axis), state, running)
        outputs.append(graph.unsqueeze(output, axis))
    graph.node("Concat", *outputs, named="outputs", axis=axis)
    return graph.model(state)


def scan_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One Scan, whose body has one copy of the step's nodes."""
    graph, axis = Graph(case), 0 if case.time_major else 1
    body = Graph(case, prefix="body_")
    constants = [{key: Name(value.name, body) for key, value in layer.items()} for layer in graph.weights(weights)]
    state = tuple(tuple(Name(f"body_{name}", body) for name in layer) for layer in feed_names(case))
    sequences: list[Value] = [Name("inputs", graph)]
    column = graph.column_of_lengths()
    if column is not None:
        steps = graph.constant(np.arange(case.sequence_length, dtype=np.int64)[:, None, None])
        sequences.append(graph.node("Less", steps, column))
    running = None if column is None else Name("body_running", body)
    output, new_state = stack_step(body.ops, case, constants, Name("body_x", body), state, running)
    finals = [body.node("Identity", value) for layer in new_state for value in layer]
    body_graph = helper.make_graph(
        body.nodes,
        "step",
        [helper.make_tensor_value_info(name.name, body.element, None) for layer in state for name in layer]
        + [helper.make_tensor_value_info("body_x", body.element, [case.batch_size, case.input_size])]
        + ([] if running is None else [helper.make_tensor_value_info("body_running", TensorProto.BOOL, None)]),
        [helper.make_tensor_value_info(value.name, body.element, None) for value in finals]
        + [helper.make_tensor_value_info(output.name, body.element, None)],
        body.initializers,
    )
    results = graph.node(
        "Scan",
        *(value for layer in graph.initial_state() for value in layer),
        *sequences,
        count=len(finals) + 1,
        body=body_graph,
        num_scan_inputs=len(sequences),
        scan_input_axes=[axis, 0][: len(sequences)],
        scan_output_axes=[axis],
    )
    graph.node("Identity", results[-1], named="outputs")
    parts = len(state[0])
    return graph.model(tuple(tuple(results[i : i + parts]) for i in range(0, len(finals), parts)))


def step_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """One step: `inputs` is (B,I), `outputs` (B,P), and the step's number is the input `t` where rows have lengths."""
    graph = Graph(case)
    column = graph.column_of_lengths()
    running = None if column is None else graph.node("Less", Name("t", graph), column)
    x = Name("inputs", graph)
    output, state = stack_step(graph.ops, case, graph.weights(weights), x, graph.initial_state(), running)
    graph.node("Identity", output, named="outputs")
    return graph.model(state, step=True)


def fused_model(case: Case, weights: Sequence[Weights]) -> ModelProto:
    """A chain of RNN, GRU or LSTM operators; they are time-major, so batch-major cases get two transposes."""
    graph = Graph(case)
    x: Value = Name("inputs", graph)
    if not case.time_major:
        x = graph.node("Transpose", x, perm=[1, 0, 2])
    lengths: Value = Name("", graph)
    if case.lengths != "full":
        lengths = graph.node("Cast", Name("lengths", graph), to=TensorProto.INT32)
    finals = []
    for units, layer, before in zip(case.units, weights, graph.initial_state(), strict=True):
        operands = [graph.constant(array) for array in _fused_weights(case, layer, units)]
        initial = [graph.unsqueeze(part, 0) for part in reversed(before)]
        peepholes = []
        if case.cell_options.use_peepholes:
            peepholes = [graph.constant(np.concatenate([layer[f"w_{gate}_diag"] for gate in "iof"])[None])]
        results = graph.node(
            {"basic_rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}[case.cell],
            *(x, *operands, lengths, *initial, *peepholes),
            count=1 + len(before),
            hidden_size=units,
        )
        x = graph.squeeze(results[0], 1)
        finals.append(tuple(graph.squeeze(part, 0) for part in reversed(results[1:])))
    if case.time_major:
        graph.node("Identity", x, named="outputs")
    else:
        graph.node("Transpose", x, named="outputs", perm=[1, 0, 2])
    return graph.model(tuple(finals))


def _fused_weights(case: Case, layer: Weights, units: int) -> tuple[Array, Array, Array]:
    """W (1, G*H, I), R (1, G*H, H) and B (1, 2*G*H) in ONNX's gate order: i, o, f, c for LSTM; z, r, h for GRU."""
    order: tuple[int, ...]
    if case.cell == "gru":
        kernel = np.concatenate([layer["gates/kernel"], layer["candidate/kernel"]], axis=1)
        bias, order = np.concatenate([layer["gates/bias"], layer["candidate/bias"]]), (1, 0, 2)
    else:
        kernel, bias, order = layer["kernel"], layer["bias"].copy(), (0, 3, 2, 1) if case.cell == "lstm" else (0,)
    if case.cell == "lstm":
        bias[2 * units : 3 * units] += case.cell_options.forget_bias
    columns = np.concatenate([np.arange(gate * units, (gate + 1) * units) for gate in order])
    rows, bias = kernel[:, columns].T, bias[columns]
    inputs = rows.shape[1] - units
    return rows[None, :, :inputs], rows[None, :, inputs:], np.concatenate([bias, np.zeros_like(bias)])[None]

"""The programs of the articles that this project comes from, with NumPy where they had placeholders and sessions.

Each is the article's program with the import changed: `rnn` stands where `tf.nn` and `tf.nn.rnn_cell` stood.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unrollbench import rnn
from unrollbench.reference import forward

X_BATCH = np.array(
    [[[0, 1, 2], [1, 2, 3]], [[3, 4, 5], [4, 5, 6]], [[5, 6, 7], [6, 7, 8]], [[7, 8, 9], [8, 9, 10]]], np.float32
)
"""Four sequences of two steps of three numbers."""


def reference_outputs(cell: rnn.RNNCell, inputs: Any) -> Any:
    """Batch-major outputs from a state of zeros, in float64."""
    state = cell.flatten_state("state", cell.zero_state(len(inputs), np.float64), len(inputs), "float64")
    weights = [layer.weights for layer in cell.layers]
    return forward(cell.specs, inputs.swapaxes(0, 1), None, state, weights)[0].swapaxes(0, 1)


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)


def test_static_rnn_and_dynamic_rnn_between_an_input_and_an_output_projection_agree() -> None:
    n_steps, n_inputs, n_hidden_units, n_classes, batch_size = 5, 3, 8, 2, 4
    rng = np.random.default_rng(0)
    weights = {
        "in": rng.standard_normal((n_inputs, n_hidden_units)).astype(np.float32),
        "out": rng.standard_normal((n_hidden_units, n_classes)).astype(np.float32),
    }
    biases = {"in": np.full(n_hidden_units, 0.1, np.float32), "out": np.full(n_classes, 0.1, np.float32)}
    batch = rng.standard_normal((batch_size, n_steps, n_inputs)).astype(np.float32)
    lstm_cell = rnn.BasicLSTMCell(n_hidden_units, forget_bias=1.0)

    x = np.transpose(batch, [1, 0, 2])
    x = np.reshape(x, [-1, n_inputs])
    x = np.matmul(x, weights["in"]) + biases["in"]
    init_state = lstm_cell.zero_state(batch_size, dtype=np.float32)
    static_outputs, _ = rnn.static_rnn(lstm_cell, np.split(x, n_steps, 0), initial_state=init_state)
    static_result = np.matmul(static_outputs[-1], weights["out"]) + biases["out"]

    x = np.matmul(batch, weights["in"]) + biases["in"]
    outputs, _ = rnn.dynamic_rnn(lstm_cell, x, dtype=np.float32)
    outputs = np.transpose(outputs, [1, 0, 2])
    dynamic_result = np.matmul(outputs[-1], weights["out"]) + biases["out"]

    assert static_result.shape == (batch_size, n_classes)
    close(static_result, dynamic_result)
    close(outputs[-1], reference_outputs(lstm_cell, x)[:, -1])


def test_rows_of_an_image_are_the_steps_of_a_static_rnn_and_the_lstm_s_h_is_the_last_output() -> None:
    width = height = 6
    rnn_size, batch_size = 8, 4
    images = np.random.default_rng(1).random((batch_size, height, width)).astype(np.float32)
    x = np.transpose(images, [1, 0, 2])
    x = np.reshape(x, [-1, width])
    lstm_cell = rnn.BasicLSTMCell(rnn_size)
    outputs, status = rnn.static_rnn(lstm_cell, np.split(x, height), dtype=np.float32)
    assert len(outputs) == height
    np.testing.assert_array_equal(status[1], outputs[-1])
    np.testing.assert_array_equal(status.h, outputs[-1])
    close(np.stack(outputs, axis=1), reference_outputs(lstm_cell, images))


def test_a_hand_written_loop_that_calls_the_cell_once_per_step_is_static_rnn() -> None:
    num_steps, batch_size = 4, 3
    inputs = np.random.default_rng(2).standard_normal((batch_size, num_steps, 5)).astype(np.float32)
    cell = rnn.MultiRNNCell([rnn.BasicLSTMCell(7), rnn.BasicLSTMCell(7)])
    state = cell.zero_state(batch_size, np.float32)
    outputs = []
    for time_step in range(num_steps):
        cell_output, state = cell(inputs[:, time_step, :], state)
        outputs.append(cell_output)
    unrolled, final = rnn.static_rnn(cell, list(inputs.swapaxes(0, 1)), dtype=np.float32)
    close(outputs, unrolled)
    close(state[1].c, final[1].c)
    close(np.stack(outputs, axis=1), reference_outputs(cell, inputs))


def test_dynamic_rnn_of_two_steps_of_three_inputs_has_outputs_per_step_and_the_last_as_state() -> None:
    basic_cell = rnn.BasicRNNCell(num_units=4)
    outputs, states = rnn.dynamic_rnn(basic_cell, X_BATCH, dtype=np.float32)
    assert outputs.shape == (4, 2, 4)
    assert states.shape == (4, 4)
    np.testing.assert_array_equal(states, outputs[:, -1])
    close(outputs, reference_outputs(basic_cell, X_BATCH))


def test_a_second_layer_adds_a_state_and_leaves_the_shape_of_the_outputs() -> None:
    layers = [rnn.BasicRNNCell(num_units=4) for _ in range(2)]
    multi_layer_cell = rnn.MultiRNNCell(layers)
    outputs, states = rnn.dynamic_rnn(multi_layer_cell, X_BATCH, dtype=np.float32)
    assert outputs.shape == (4, 2, 4)
    assert [state.shape for state in states] == [(4, 4), (4, 4)]
    np.testing.assert_array_equal(states[-1], outputs[:, -1])
    close(outputs, reference_outputs(multi_layer_cell, X_BATCH))


def test_two_steps_given_by_hand_and_unstacked_steps_and_the_loop_are_the_same_network() -> None:
    basic_cell = rnn.BasicRNNCell(num_units=5)
    x0, x1 = X_BATCH[:, 0], X_BATCH[:, 1]
    (y0, y1), states = rnn.static_rnn(basic_cell, [x0, x1], dtype=np.float32)
    unstacked = list(np.transpose(X_BATCH, [1, 0, 2]))
    output_seqs, _ = rnn.static_rnn(basic_cell, unstacked, dtype=np.float32)
    outputs = np.transpose(np.stack(output_seqs), [1, 0, 2])
    looped, final = rnn.dynamic_rnn(basic_cell, X_BATCH, dtype=np.float32, swap_memory=True)
    np.testing.assert_array_equal(outputs, np.stack([y0, y1], axis=1))
    close(looped, outputs)
    close(final, states)

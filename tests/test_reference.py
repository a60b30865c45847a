"""The oracle against finite differences, closed forms and its own claims about lengths, stacks and tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from tests.adversarial import ADVERSARIES, CELLS, POISONED, Adversary
from unrollbench.case import Case, CellOptions
from unrollbench.errors import WrongResult
from unrollbench.reference import Expected, check, expected, forward, forward_backward, tolerance
from unrollbench.reference import network as reference_network
from unrollbench.reference.equations import sigmoid
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors, Weights, draw, state_shapes, weight_shapes

STEP = 1e-5
"""Of the central differences: its error is STEP^2 from the curvature and eps/STEP from rounding, both about 1e-10."""

EVERY_CELL = pytest.mark.parametrize("axes", CELLS.values(), ids=CELLS.keys())


@dataclass(frozen=True)
class Kind:
    """A layer as the reference wants it."""

    cell: str
    options: CellOptions = field(default_factory=CellOptions)


def small_case(**axes: Any) -> Case:
    base = {"sequence_length": 4, "batch_size": 3, "input_size": 2, "num_units": 3, "mode": "train"}
    return Case(**{**base, "dtype": "float64", **axes})


def loss(case: Case, tensors: Tensors) -> float:
    """sum(outputs * d_outputs) + sum(state * d_state), past a row's length nothing."""
    assert tensors.d_outputs is not None
    assert tensors.d_state is not None
    result = expected(replace(case, mode="forward"), tensors)
    parts = [np.sum(result.outputs * tensors.d_outputs)]
    for layer, d_layer in zip(result.state, tensors.d_state, strict=True):
        parts += [np.sum(array * d) for array, d in zip(layer, d_layer, strict=True)]
    return float(sum(parts))


def differentiable(tensors: Tensors, gradients: Gradients) -> Iterator[tuple[str, Array, Array]]:
    """Every array that the loss depends on, with its gradient."""
    yield "inputs", tensors.inputs, gradients.inputs
    for layer, (weights, d_weights) in enumerate(zip(tensors.weights, gradients.weights, strict=True)):
        assert weights.keys() == d_weights.keys()
        yield from ((f"{name} of layer {layer}", weights[name], d_weights[name]) for name in weights)
    for layer, (state, d_state) in enumerate(zip(tensors.initial_state, gradients.initial_state, strict=True)):
        pairs = enumerate(zip(state, d_state, strict=True))
        yield from ((f"state {part} of layer {layer}", array, d) for part, (array, d) in pairs)


def assert_gradients_are_finite_differences(case: Case, tensors: Tensors) -> None:
    gradients = expected(case, tensors).gradients
    assert gradients is not None
    for name, array, gradient in differentiable(tensors, gradients):
        difference = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            value = array[at]
            array[at] = value + STEP
            above = loss(case, tensors)
            array[at] = value - STEP
            difference[at] = (above - loss(case, tensors)) / (2 * STEP)
            array[at] = value
        np.testing.assert_allclose(gradient, difference, rtol=1e-7, atol=2e-8, err_msg=name)


@EVERY_CELL
def test_gradients_are_finite_differences(axes: dict[str, Any]) -> None:
    case = small_case(**axes)
    assert_gradients_are_finite_differences(case, draw(case))


@EVERY_CELL
def test_gradients_are_finite_differences_with_lengths_and_two_layers(axes: dict[str, Any]) -> None:
    case = small_case(**axes, lengths=(0, 4, 2), num_units=(3, 2), num_layers=2, time_major=False)
    assert_gradients_are_finite_differences(case, draw(case))


def test_gradients_of_a_stack_of_different_cells_are_finite_differences() -> None:
    kinds = [
        ("lstm", CellOptions(use_peepholes=True, num_proj=3)),
        ("gru", CellOptions()),
        ("basic_rnn", CellOptions()),
    ]
    rng = np.random.default_rng(0)
    sizes, inputs = (4, 2, 5), 2
    weights: list[Weights] = []
    state: list[State] = []
    for (cell, options), units in zip(kinds, sizes, strict=True):
        shapes = weight_shapes(cell, options, inputs, units)
        weights.append({name: rng.normal(size=shape) * 0.5 for name, shape in shapes.items()})
        state.append(tuple(rng.normal(size=shape) for shape in state_shapes(cell, options, 3, units)))
        inputs = options.num_proj or units
    layers = [Kind(cell, options) for cell, options in kinds]
    x, d_outputs = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3, 5))
    lengths = np.array([4, 1, 3])
    gradients = forward_backward(layers, x, lengths, state, weights, d_outputs, None).gradients
    assert gradients is not None
    kernel = weights[0]["kernel"]
    for at in [(0, 0), (1, 7), (4, 15)]:
        value, sums = kernel[at], []
        for step in (STEP, -STEP):
            kernel[at] = value + step
            sums.append(np.sum(forward(layers, x, lengths, state, weights)[0] * d_outputs))
        kernel[at] = value
        difference = (sums[0] - sums[1]) / (2 * STEP)
        np.testing.assert_allclose(gradients.weights[0]["kernel"][at], difference, rtol=1e-7, atol=1e-9)


def test_one_step_of_a_basic_rnn_is_the_tanh_of_the_products() -> None:
    weights = [{"kernel": np.array([[0.5], [-2.0]]), "bias": np.array([0.25])}]
    outputs, state = forward([Kind("basic_rnn")], np.full((1, 1, 1), 3.0), None, [(np.full((1, 1), 0.1),)], weights)
    assert outputs[0, 0, 0] == state[0][0][0, 0] == np.tanh(3.0 * 0.5 - 2.0 * 0.1 + 0.25)


def test_a_gru_with_its_update_gate_open_keeps_its_state() -> None:
    weights = [
        {
            "gates/kernel": np.zeros((2, 2)),
            "gates/bias": np.array([0.0, 100.0]),
            "candidate/kernel": np.ones((2, 1)),
            "candidate/bias": np.zeros(1),
        }
    ]
    outputs, _ = forward([Kind("gru")], np.ones((5, 1, 1)), None, [(np.full((1, 1), 0.3),)], weights)
    np.testing.assert_allclose(outputs, 0.3, rtol=1e-15)


def test_an_lstm_that_neither_reads_nor_forgets_keeps_its_cell() -> None:
    bias = np.array([-100.0, 0.0, 99.0, 100.0])  # i shut, j unused, f open with forget_bias 1, o open
    weights = [{"kernel": np.zeros((2, 4)), "bias": bias}]
    state = [(np.full((1, 1), 0.4), np.zeros((1, 1)))]
    outputs, final = forward([Kind("lstm")], np.ones((5, 1, 1)), None, state, weights)
    np.testing.assert_allclose(outputs, np.tanh(0.4), rtol=1e-15)
    np.testing.assert_allclose(final[0][0], 0.4, rtol=1e-15)


def test_a_clipped_lstm_stays_at_its_bound_and_passes_no_gradient_there() -> None:
    bias = np.array([100.0, 100.0, 100.0, 100.0])  # c' = c + 1 without the clip
    weights = [{"kernel": np.zeros((2, 4)), "bias": bias}]
    state = [(np.zeros((1, 1)), np.zeros((1, 1)))]
    layers = [Kind("lstm", CellOptions(cell_clip=0.5))]
    d_state = [(np.ones((1, 1)), np.zeros((1, 1)))]
    result = forward_backward(layers, np.ones((3, 1, 1)), None, state, weights, None, d_state)
    assert result.state[0][0][0, 0] == 0.5
    assert result.gradients is not None
    assert result.gradients.initial_state[0][0][0, 0] == 0.0


def test_the_sigmoid_is_exact_at_both_ends() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([0.0, 800.0, -800.0])), [0.5, 1.0, 0.0])
    np.testing.assert_allclose(sigmoid(np.array([-40.0])), np.exp(-40.0), rtol=1e-15)


@EVERY_CELL
def test_past_a_row_s_length_the_state_is_copied_and_the_output_is_zero(axes: dict[str, Any]) -> None:
    case = small_case(**axes, lengths=(0, 4, 2), mode="forward")
    tensors = draw(case)
    result = expected(case, tensors)
    whole = expected(replace(case, lengths="full"), replace(tensors, lengths=None))
    two = expected(
        replace(case, lengths="full", sequence_length=2), replace(tensors, lengths=None, inputs=tensors.inputs[:2])
    )
    assert not result.outputs[:, 0].any()
    assert not result.outputs[2:, 2].any()
    np.testing.assert_array_equal(result.outputs[:, 1], whole.outputs[:, 1])
    for part, start in enumerate(tensors.initial_state[0]):
        np.testing.assert_array_equal(result.state[0][part][0], start[0])
        np.testing.assert_allclose(result.state[0][part][2], two.state[0][part][2], rtol=1e-14)


@EVERY_CELL
@pytest.mark.parametrize("adversary", ADVERSARIES + POISONED, ids=str)
def test_results_of_every_adversarial_case_are_finite_and_pass_their_own_check(
    adversary: Adversary, axes: dict[str, Any]
) -> None:
    case = adversary.case(**axes, dtype="float64")
    result = expected(case, adversary.tensors(case))
    assert check(case, result, result) == (0.0, tolerance(case))


def test_blocks_of_rows_give_the_results_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case(lengths=(0, 4, 2), num_units=(3, 2), num_layers=2)
    tensors = draw(case)
    whole = expected(case, tensors)
    monkeypatch.setattr(reference_network, "BLOCK_BYTES", 1)
    check(case, expected(case, tensors), whole)


def test_inputs_are_not_written() -> None:
    adversary = POISONED[0]
    case = adversary.case(dtype="float64")
    tensors, before = adversary.tensors(case), adversary.tensors(case)
    expected(case, tensors)
    np.testing.assert_array_equal(tensors.inputs, before.inputs)
    for layer, layer_before in zip(tensors.weights, before.weights, strict=True):
        assert all(np.array_equal(layer[name], layer_before[name]) for name in layer)


def in_dtype(result: Expected, dtype: str) -> Outputs:
    """The expected results rounded to the dtype, as a perfect program would return them."""
    gradients = result.gradients
    assert gradients is not None
    return Outputs(
        result.outputs.astype(dtype),
        tuple(tuple(array.astype(dtype) for array in layer) for layer in result.state),
        Gradients(
            gradients.inputs.astype(dtype),
            tuple({name: array.astype(dtype) for name, array in layer.items()} for layer in gradients.weights),
            tuple(tuple(array.astype(dtype) for array in layer) for layer in gradients.initial_state),
        ),
    )


@EVERY_CELL
def test_results_rounded_to_float32_are_right_in_float32(axes: dict[str, Any]) -> None:
    case = small_case(**axes, dtype="float32")
    result = expected(case, draw(case))
    error, limit = check(case, in_dtype(result, "float32"), result)
    assert 0 < error < limit / 10


@EVERY_CELL
def test_a_float32_product_in_a_float64_case_is_a_wrong_result(axes: dict[str, Any]) -> None:
    case = small_case(**axes, sequence_length=1000)
    result = expected(case, draw(case))
    rounded = in_dtype(result, "float32")
    with pytest.raises(WrongResult, match="times the tolerance"):
        check(case, replace(in_dtype(result, "float64"), outputs=rounded.outputs.astype("float64")), result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@EVERY_CELL
def test_a_forgotten_bias_is_a_wrong_result(axes: dict[str, Any], dtype: str) -> None:
    case = small_case(**axes, dtype=dtype, sequence_length=100, num_units=16)
    tensors = draw(case)
    bare = tuple({name: a * (not name.endswith("bias")) for name, a in layer.items()} for layer in tensors.weights)
    wrong = in_dtype(expected(case, replace(tensors, weights=bare)), dtype)
    with pytest.raises(WrongResult, match=r"outputs\[\d+, \d, \d+\]: got .*, wanted .*times the tolerance"):
        check(case, wrong, expected(case, tensors))


def test_a_gradient_on_the_other_side_of_a_clip_is_right_only_within_rounding_of_the_bound() -> None:
    """c' is 0.5 but for its last digits, in float32 above the clip's bound: the gradient is 0 where float64 has 1."""
    case = small_case(
        cell_options=CellOptions(cell_clip=0.5),
        sequence_length=1,
        batch_size=1,
        input_size=1,
        num_units=1,
        dtype="float32",
    )
    tensors = draw(case)
    bias = np.array([-100.0, 0.0, 100.0, 0.0], np.float32)
    start = ((np.full((1, 1), 0.5 - 1e-9), np.zeros((1, 1))),)
    still = ({"kernel": np.zeros((2, 4), np.float32), "bias": bias},)
    tensors = replace(tensors, weights=still, initial_state=start)
    result = expected(case, tensors)
    beyond = expected(case, replace(tensors, initial_state=((start[0][0] + 2e-9, start[0][1]),)))
    assert result.gradients is not None
    assert beyond.gradients is not None
    assert result.gradients.initial_state[0][0] != 0
    assert beyond.gradients.initial_state[0][0] == 0
    check(case, in_dtype(beyond, "float32"), result)
    far = expected(case, replace(tensors, initial_state=((start[0][0] - 0.01, start[0][1]),)))
    with pytest.raises(WrongResult):
        check(case, in_dtype(beyond, "float32"), far)


def outputs_changed(change: Callable[[Array], Array]) -> Callable[[Outputs], Outputs]:
    return lambda result: replace(result, outputs=change(result.outputs))


def poke(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array = array.copy()
        array[1, 2, 0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outputs_changed(poke(np.nan)), r"outputs\[1, 2, 0\]: got nan, wanted .*; 1 are not finite"),
        (outputs_changed(poke(np.inf)), r"outputs\[1, 2, 0\]: got inf"),
        (outputs_changed(poke(2.0)), r"outputs\[1, 2, 0\]: got 2, wanted .* 1 of 36 values are beyond it"),
        (
            outputs_changed(lambda a: a.astype("float32")),
            r"outputs: got float32 \(4, 3, 3\), wanted float64 \(4, 3, 3\)",
        ),
        (outputs_changed(lambda a: a.swapaxes(0, 1)), r"outputs: got float64 \(3, 4, 3\), wanted float64 \(4, 3, 3\)"),
        (lambda r: replace(r, gradients=None), r"train case: missing \['gradients.initial_state"),
        (lambda r: replace(r, state=r.state * 2), r"unexpected \['state\[1\]\[0\]', 'state\[1\]\[1\]'\]"),
    ],
)
def test_a_wrong_result_says_what_is_wrong_where(change: Callable[[Outputs], Outputs], message: str) -> None:
    case = small_case()
    result = expected(case, draw(case))
    with pytest.raises(WrongResult, match=message):
        check(case, change(in_dtype(result, "float64")), result)


def test_an_unknown_cell_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cell = 'mgu'"):
        forward([Kind("mgu")], np.zeros((1, 1, 1)), None, [()], [{}])


def cut_to_tf32(array: Array) -> Array:
    """The values with the thirteen low bits of their float32 mantissa gone, as tensor cores read operands."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


@pytest.mark.parametrize("steps", [1, 10, 100, 500])
def test_products_in_tf32_are_right_for_a_case_in_tf32_and_wrong_for_one_in_float32(steps: int) -> None:
    case = Case(cell="basic_rnn", sequence_length=steps, batch_size=4, input_size=16, num_units=32)
    tensors, h = draw(case), draw(case).initial_state[0][0]
    kernel, bias = tensors.weights[0]["kernel"], tensors.weights[0]["bias"]
    outputs = []
    for x in tensors.inputs:
        h = np.tanh(cut_to_tf32(np.concatenate([x, h], axis=1)) @ cut_to_tf32(kernel) + bias)
        outputs.append(h)
    got = Outputs(np.stack(outputs).astype(np.float32), ((h.astype(np.float32),),))
    wanted = expected(case, tensors)
    in_tf32 = replace(case, device="cuda", matmul_precision="tf32")
    error, limit = check(in_tf32, got, wanted)
    assert limit == pytest.approx(4 * 2**-10 * steps**0.5)
    assert error < limit / 3
    with pytest.raises(WrongResult):
        check(replace(in_tf32, matmul_precision="float32"), got, wanted)


def test_tf32_means_nothing_to_the_tolerance_where_it_means_nothing_to_the_case() -> None:
    for case in (Case(), Case(device="cuda", dtype="float64")):
        assert tolerance(replace(case, matmul_precision="tf32")) == tolerance(case)

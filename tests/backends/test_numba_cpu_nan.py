"""NaN and infinities in the inputs of a CPU program, and NaN in memory that no result may depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.backends.numba_programs import (
    EXECUTIONS,
    check,
    run,
    small,
)
from unrollbench.tensors import Tensors

NAN_ROW, NAN_STEP = 1, 3


def with_nan(tensors: Tensors) -> Tensors:
    inputs = tensors.inputs.copy()
    inputs[NAN_STEP, NAN_ROW, 0] = np.nan
    return replace(tensors, inputs=inputs)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm", "lstm with everything"])
def test_nan_in_one_row_stays_in_that_row_and_starts_at_its_step(name: str, execution: str) -> None:
    case, tensors, program = small(name, execution=execution)
    results = run(program, case, with_nan(tensors))
    others = np.arange(case.batch_size) != NAN_ROW
    nan = np.isnan(results.outputs)
    assert nan[NAN_STEP:, NAN_ROW].all()
    assert not nan[:NAN_STEP].any()
    assert not nan[:, others].any()
    assert all(np.isnan(array[NAN_ROW]).all() and not np.isnan(array[others]).any() for array in results.state[0])
    assert results.gradients is not None
    assert np.isnan(results.gradients.inputs[NAN_STEP, NAN_ROW]).all()
    for array in results.gradients.initial_state[0]:
        assert np.isnan(array[NAN_ROW]).any()  # not in all units: a clip before the NaN step lets nothing through
    assert not np.isnan(results.gradients.inputs[:, others]).any()
    assert not any(np.isnan(array[others]).any() for array in results.gradients.initial_state[0])


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm", "lstm with everything"])
def test_a_run_with_nan_leaves_nothing_behind_for_the_next(name: str, mode: str, execution: str) -> None:
    case, tensors, program = small(name, execution=execution, mode=mode)
    run(program, case, with_nan(tensors))
    check(case, tensors, run(program, case, tensors))


@pytest.mark.parametrize("name", ["basic_rnn", "gru", "lstm"])
def test_an_infinite_input_saturates_the_gates_as_it_does_in_the_reference(name: str) -> None:
    case, tensors, program = small(name, mode="forward")
    inputs = tensors.inputs.copy()
    inputs[NAN_STEP, NAN_ROW, 0] = np.inf
    infinite = replace(tensors, inputs=inputs)
    with np.errstate(invalid="ignore"):  # NumPy's own product warns of infinities in its operands
        check(case, infinite, run(program, case, infinite))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["gru", "lstm with everything"])
@pytest.mark.parametrize("time_major", [True, False])
def test_no_result_depends_on_what_buffers_held_before(name: str, execution: str, time_major: bool) -> None:
    case, tensors, program = small(name, execution=execution, time_major=time_major, lengths=(3, 6, 0))
    run(program, case, tensors)
    for layer in program._buffers.layers:
        constants = ("W_", "bias_", "w_", "d_out")  # d_out is the caller's, its padding is never written
        for group in (layer.fixed, layer.timed):
            for array in (array for field, array in group.items() if not field.startswith(constants)):
                array[...] = np.nan
    check(case, tensors, run(program, case, tensors))

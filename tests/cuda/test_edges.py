"""What surrounds a pass: lengths, layouts and state, and cells that another package brings."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from tests.cuda.programs import EXECUTIONS, check, results, small
from tests.test_example_package import installed as installed
from unrollbench.backends.numba_cuda import CaseProgram
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.tensors import draw


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_no_step_past_the_longest_length_is_computed(execution: str) -> None:
    """NaN where nobody may look: in the inputs past the longest length."""
    case = small("gru", execution=execution, sequence_length=6, lengths=(2, 0, 3))
    tensors = draw(case)
    clean = results(case, tensors)
    tensors.inputs[3:] = np.nan
    found = results(case, tensors)
    assert found.outputs.tobytes() == clean.outputs.tobytes()
    assert found.gradients is not None
    assert not found.gradients.inputs[3:].any()


def test_a_length_beyond_the_steps_is_refused() -> None:
    case = small("lstm", lengths=(1, 2, 3))
    tensors = draw(case)
    assert tensors.lengths is not None
    tensors.lengths[0] = case.sequence_length + 1
    with pytest.raises(ValueError, match="expected 0 to 7"), closing(CaseProgram(case, tensors, SimulatedDevice())):
        pass


def test_batch_major_has_the_bits_of_time_major() -> None:
    case = small("lstm", lengths=(7, 0, 4))
    other = small("lstm", lengths=(7, 0, 4), time_major=False)
    one, two = results(case), results(other)
    assert one.outputs.tobytes() == np.ascontiguousarray(two.outputs.transpose(1, 0, 2)).tobytes()
    assert one.gradients is not None
    assert two.gradients is not None
    assert one.gradients.inputs.tobytes() == np.ascontiguousarray(two.gradients.inputs.transpose(1, 0, 2)).tobytes()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.usefixtures("installed")
def test_a_cell_of_another_package_is_right(execution: str) -> None:
    axes = {"cell": "leaky_rnn", "execution": execution, "num_units": (5, 3), "num_layers": 2, "lengths": (7, 0, 3)}
    check(small("lstm", **axes))

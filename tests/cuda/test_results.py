"""Every cell in every execution, on the cases that break recurrent kernels and on random ones."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adversarial import ADVERSARIES, CELLS, Adversary
from tests.cuda.programs import EXECUTIONS, check, results, small
from unrollbench.backends.numba_cuda import NumbaCuda
from unrollbench.case import Case
from unrollbench.tensors import draw

NAMES = tuple(CELLS)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_right_in_every_execution(name: str, execution: str) -> None:
    dtype = "float32" if NAMES.index(name) % 2 else "float64"
    check(small(name, execution=execution, dtype=dtype, sequence_length=5))


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=str)
def test_every_adversary_is_met_by_a_loop(adversary: Adversary) -> None:
    place = ADVERSARIES.index(adversary)
    axes: dict[str, Any] = {"dtype": ("float32", "float64")[place % 2], "swap_memory": place % 3 == 0}
    if "unroll" in adversary.axes:
        axes["swap_memory"] = False
    case = replace(adversary.case(**CELLS[NAMES[place % len(NAMES)]], **axes), backend="numba_cuda", device="cuda")
    check(case.canonical(), adversary.tensors(case))


@pytest.mark.parametrize("execution", ["static", "stepwise"])
@pytest.mark.parametrize("adversary", [a for a in ADVERSARIES if "unit" not in a.name], ids=str)
def test_every_adversary_is_met_without_one(adversary: Adversary, execution: str) -> None:
    place = ADVERSARIES.index(adversary) + 3
    axes: dict[str, Any] = {"execution": execution, "dtype": ("float32", "float64")[place % 2]}
    case = replace(adversary.case(**CELLS[NAMES[place % len(NAMES)]], **axes), backend="numba_cuda", device="cuda")
    check(case.canonical(), adversary.tensors(case))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small networks of every kind, run in every way."""
    execution, layers = draw(st.sampled_from(EXECUTIONS)), draw(st.integers(1, 3))
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    window = draw(st.integers(1, 6))
    axes = {
        "execution": execution,
        "mode": draw(st.sampled_from(["forward", "train"])),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "sequence_length": steps,
        "batch_size": batch,
        "input_size": draw(st.integers(1, 5)),
        "num_layers": layers,
        "num_units": tuple(draw(st.integers(1, 6)) for _ in range(layers)),
        "lengths": draw(st.one_of(st.just("full"), st.tuples(*[st.integers(0, steps)] * batch))),
        "time_major": draw(st.booleans()),
        "parallel_iterations": window,
        "unroll": draw(st.integers(1, 6)),
        "swap_memory": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }
    if axes["swap_memory"]:
        axes["unroll"] = min(axes["unroll"], window)
    return small(draw(st.sampled_from(NAMES)), **axes)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_random_networks_are_right(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_a_second_run_has_the_bits_of_the_first(mode: str) -> None:
    case = small("gru", mode=mode, lengths=(5, 0, 7), swap_memory=True)
    with closing(NumbaCuda().build(case, draw(case))) as program:
        program.run()
        first = program.outputs()
        program.run()
        again = program.outputs()
    assert first.outputs.tobytes() == again.outputs.tobytes()
    if first.gradients is not None and again.gradients is not None:
        assert first.gradients.inputs.tobytes() == again.gradients.inputs.tobytes()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["lstm with everything", "gru"])
def test_a_nan_in_one_row_stays_in_that_row(name: str, execution: str) -> None:
    case = small(name, execution=execution, mode="forward", sequence_length=4)
    clean, tensors = draw(case), draw(case)
    tensors.inputs[1, 1, 0] = np.nan
    found, wanted = results(case, tensors), results(case, clean)
    assert np.isnan(found.outputs[1:, 1]).all()
    others = [0, 2]
    assert found.outputs[:, others].tobytes() == wanted.outputs[:, others].tobytes()
    assert found.outputs[0].tobytes() == wanted.outputs[0].tobytes()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf times the zeros that fill up a tile
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinity_saturates_as_on_the_processor(value: float) -> None:
    case = small("basic_rnn", execution="dynamic", mode="forward", sequence_length=3)
    tensors = draw(case)
    tensors.inputs[0, 0, 0] = value
    tensors.weights[0]["kernel"][0] = np.abs(tensors.weights[0]["kernel"][0])
    assert (results(case, tensors).outputs[0, 0] == np.sign(value)).all()

"""Programs of `numba_cpu`, compiled once per process for all tests that can share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
from numba.core import event

from tests.adversarial import CELLS, SMALL
from unrollbench import reference
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case
from unrollbench.kernels.spec import NetworkSpec, spec_of
from unrollbench.schedule import Schedule, of_case
from unrollbench.tensors import Outputs, Tensors, draw

EXECUTIONS = ("static", "dynamic", "stepwise")
COMPILER_EVENTS = ("numba:compile", "numba:run_pass", "numba:llvm_lock")
"""Whatever Numba compiles, it goes through one of these."""


@cache
def _shared(spec: NetworkSpec, planned: Schedule) -> NetworkProgram:
    return NetworkProgram(spec, planned)


def program_of(case: Case) -> NetworkProgram:
    """The shared program that the case compiles to; of one thread, since nobody closes it. Its weights are anyone's."""
    assert case.threads == 1
    return _shared(spec_of(case), of_case(case))


def small(name: str = "gru", **axes: Any) -> tuple[Case, Tensors, NetworkProgram]:
    """A small case, its tensors and its program."""
    case = Case(**{**SMALL, **CELLS[name], **axes})
    return case, draw(case), program_of(case)


def run(program: NetworkProgram, case: Case, tensors: Tensors) -> Outputs:
    """The results of one run of the program, with these weights and in the case's mode."""
    program.set_weights(tensors.weights)
    outputs, state = program.forward(tensors.inputs, tensors.lengths, tensors.initial_state)
    if case.mode == "forward":
        return Outputs(outputs, state)
    return Outputs(outputs, state, program.backward(tensors.d_outputs, tensors.d_state))


def check(case: Case, tensors: Tensors, results: Outputs) -> None:
    """Raises WrongResult unless the results are the reference's."""
    reference.check(case, results, reference.expected(case, tensors))


def arrays(results: Outputs) -> Iterator[np.ndarray]:
    """Every array of the results."""
    yield results.outputs
    yield from (array for layer in results.state for array in layer)
    if results.gradients is not None:
        yield results.gradients.inputs
        yield from (array for layer in results.gradients.weights for array in layer.values())
        yield from (array for layer in results.gradients.initial_state for array in layer)


def identical(a: Outputs, b: Outputs) -> bool:
    """Whether two results agree in every bit of every array."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(arrays(a), arrays(b), strict=True))


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Asserts that Numba compiles nothing inside."""
    with ExitStack() as stack:
        recorders = [stack.enter_context(event.install_recorder(kind)) for kind in COMPILER_EVENTS]
        yield
    assert [len(recorder.buffer) for recorder in recorders] == [0] * len(recorders)

"""Backend `numpy_loop`: a Python loop over time, one NumPy call per operation of the step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from unrollbench.backends import Listing, Memory
from unrollbench.backends.step import stack_step
from unrollbench.case import CELLS, Case
from unrollbench.tensors import Outputs, Tensors


class NumpyOps:
    """The functions in which NumPy differs from other array languages; `stack_step` writes the cells with them."""

    tanh = staticmethod(np.tanh)
    matmul = staticmethod(np.matmul)
    where = staticmethod(np.where)
    zeros_like = staticmethod(np.zeros_like)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        return 0.5 * np.tanh(0.5 * x) + 0.5

    @staticmethod
    def affine(x: Any, h: Any, kernel: Any, bias: Any) -> Any:
        return np.concatenate([x, h], axis=1) @ kernel + bias

    @staticmethod
    def split(x: Any, parts: int) -> Any:
        return np.split(x, parts, axis=1)

    @staticmethod
    def clip(x: Any, bound: float) -> Any:
        return np.clip(x, -bound, bound)


class NumpyProgram:
    """The case's tensors and a loop over them; there is nothing to compile."""

    build_phases_s: Mapping[str, float] = {}

    def __init__(self, case: Case, tensors: Tensors) -> None:
        self._case, self._tensors = case, tensors
        self._time_axis = 0 if case.time_major else 1

    def run(self) -> None:
        tensors, state, outputs = self._tensors, self._tensors.initial_state, []
        for t, x in enumerate(np.moveaxis(tensors.inputs, self._time_axis, 0)):
            running = None if tensors.lengths is None else (t < tensors.lengths)[:, None]
            output, state = stack_step(NumpyOps(), self._case, tensors.weights, x, state, running)
            outputs.append(output)
        self._results = Outputs(np.stack(outputs, self._time_axis), state)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def outputs(self) -> Outputs:
        return self._results

    def compilations(self) -> int:
        return 0

    def memory(self) -> Memory:
        return Memory(weight_bytes=sum(array.nbytes for layer in self._tensors.weights for array in layer.values()))

    def listing(self) -> Listing:
        return Listing(inspect.getsource(stack_step))

    def close(self) -> None:
        """Nothing to give back."""


class NumpyLoop:
    """stepwise and forward only; NumPy's own threads are those of its BLAS, which the harness sets."""

    name = "numpy_loop"
    versions: Mapping[str, str] = {"numpy": np.__version__}

    def why_not(self, case: Case) -> str | None:
        if case.device != "cpu":
            return "NumPy runs on the CPU"
        if case.mode == "train":
            return "NumPy has no gradients"
        if case.execution != "stepwise":
            return "a Python loop is stepwise"
        return None if case.cell in CELLS else f"there are no equations for {case.cell} here"

    def build(self, case: Case, tensors: Tensors) -> NumpyProgram:
        return NumpyProgram(case, tensors)

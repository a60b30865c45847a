"""A network program that is the reference: it lets the face's own work be tested for every shape without compiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unrollbench.backends import Listing, Memory
from unrollbench.cells import LayerSpec
from unrollbench.reference import forward, forward_backward
from unrollbench.tensors import Array, Gradients, State, Weights, state_shapes


@dataclass
class ReferenceProgram:
    """Stands in for `numba_cpu.NetworkProgram`; as strict as that about what it is given."""

    layers: tuple[LayerSpec, ...]
    settings: Mapping[str, Any]
    weights: tuple[Weights, ...] = ()
    packed: int = 0
    closed: bool = False
    call: tuple[Any, Any, Any, Any, Any] = field(default=((), (), None, (), ()))

    def set_weights(self, weights: Sequence[Weights]) -> None:
        self.packed += 1
        self.weights = tuple({name: array.copy() for name, array in layer.items()} for layer in weights)

    def forward(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> tuple[Array, tuple[State, ...]]:
        assert not self.closed
        dtype, batch = self.settings["dtype"], self.settings["batch_size"]
        assert inputs.dtype == dtype
        assert np.isfinite(inputs).all()
        assert inputs.flags.c_contiguous
        steps = self._steps_first(inputs)
        assert steps.shape[1] == batch
        if self.settings["execution"] == "static":
            assert len(steps) == self.settings["max_time"]
        state = self._zero_state() if initial_state is None else initial_state
        self.call = (self.layers, steps, lengths, state, self.weights)
        outputs, final = forward(*self.call)
        return self._steps_first(outputs).astype(dtype), self._cast(final)

    def backward(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> Gradients:
        assert self.settings["mode"] == "train"
        d_steps = None if d_outputs is None else self._steps_first(d_outputs)
        if d_steps is None and d_state is None:
            d_state = self._zero_state()
        found = forward_backward(*self.call, d_steps, d_state).gradients
        assert found is not None
        dtype = self.settings["dtype"]
        weights = tuple({name: array.astype(dtype) for name, array in layer.items()} for layer in found.weights)
        return Gradients(self._steps_first(found.inputs).astype(dtype), weights, self._cast(found.initial_state))

    def listing(self) -> Listing:
        return Listing("the reference")

    def memory(self) -> Memory:
        return Memory(weight_bytes=1)

    def close(self) -> None:
        self.closed = True

    def _steps_first(self, array: Array) -> Array:
        """From the program's layout to time-major, or back."""
        return array if self.settings["time_major"] else array.swapaxes(0, 1)

    def _zero_state(self) -> tuple[State, ...]:
        shapes = (state_shapes(a.cell, a.options, self.settings["batch_size"], a.num_units) for a in self.layers)
        return tuple(tuple(np.zeros(shape) for shape in layer) for layer in shapes)

    def _cast(self, state: Sequence[State]) -> tuple[State, ...]:
        return tuple(tuple(array.astype(self.settings["dtype"]) for array in layer) for layer in state)

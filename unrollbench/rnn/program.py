"""A network compiled for one cell, one shape and one execution: call it, then ask for the gradients of that call."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from unrollbench.backends import Listing, Memory
from unrollbench.errors import ArgumentError, OrderError
from unrollbench.rnn import arguments, empty
from unrollbench.rnn.arguments import Lengths
from unrollbench.rnn.devices import Network, build_program
from unrollbench.rnn.settings import Gradients, Settings
from unrollbench.tensors import Array, State

if TYPE_CHECKING:
    from unrollbench.rnn.cell import RNNCell


@dataclass(frozen=True)
class _Call:
    """The last call: its time steps, the zero steps that were added to them, and the caller's lengths."""

    steps: int
    padding: int
    lengths: Lengths | None


class Program:
    """A compiled network. `close` or the end of a `with` block gives back its memory and threads.

    It computes with the weights that its cell has when it is called, and is not compiled again when they change.
    """

    def __init__(self, cell: RNNCell, settings: Settings) -> None:
        self.cell, self.settings = cell, settings
        self._network = _built(cell, settings) if settings.batch_size else None
        self._version: tuple[int, ...] | None = None
        self._call: _Call | None = None
        self._closed = False

    def __call__(self, inputs: Any, sequence_length: Any = None, initial_state: Any = None) -> tuple[Array, Any]:
        """Outputs, (B,T,P) or (T,B,P) as the inputs, and the final state: new arrays, the caller's.

        inputs: (B,T,I), or (T,B,I) if time_major, of the program's dtype; past a row's `sequence_length` anything,
        even NaN. initial_state: nested as the cell's state; None is zeros. A static program takes up to max_time
        steps, a dynamic or stepwise one any number.

        Raises:
            ArgumentError: an argument cannot be used; the message names it.
            OrderError: the program is closed.
            MemoryError: there is no room for that many steps; it can still be called with fewer.
        """
        self._check_open()
        settings = self.settings
        inputs = arguments.sequence("inputs", inputs, settings, self.cell.input_size)
        steps = inputs.shape[settings.time_axis]
        padding = self._steps_to_add(steps)
        lengths = arguments.lengths(sequence_length, settings.batch_size, steps)
        inputs = arguments.finite("inputs", inputs, self._valid(lengths, steps))
        state = self._state("initial_state", initial_state)
        if settings.mode == "train":  # `backward` reads both again, when the caller may have written into them
            inputs = inputs.copy()
            state = None if state is None else tuple(tuple(array.copy() for array in layer) for layer in state)
        call, self._call = _Call(steps, padding, lengths), None  # there are no gradients of a call that fails
        if self._network is None or steps == 0:
            self._call = call
            return empty.results(self.cell, settings, steps, state)
        if self._version != self.cell.version:
            self._network.set_weights(tuple(layer.weights for layer in self.cell.layers))
            self._version = self.cell.version
        if padding and lengths is None:
            lengths = np.full(settings.batch_size, steps, np.int64)
        outputs, final = self._network.forward(self._padded(inputs, padding), lengths, state)
        self._call = call
        return self._cut(outputs, padding), self.cell.nest(iter(final))

    def backward(self, d_outputs: Any = None, d_state: Any = None) -> Gradients:
        """The gradients of the last call, with the weights that it used; None for a cotangent is zeros.

        d_outputs: shape of the outputs; past a row's length anything, even NaN. d_state: nested as the state.

        Raises:
            ArgumentError: an argument cannot be used; the message names it.
            OrderError: the program has mode "forward", was not called yet, or is closed; or its last call failed.
        """
        self._check_open()
        if self.settings.mode != "train":
            raise OrderError('backward: the program was compiled with mode="forward"; compile it with mode="train"')
        if self._call is None:
            raise OrderError(
                "backward: gradients are those of the last call; the program was not called yet, or that call failed"
            )
        steps, padding = self._call.steps, self._call.padding
        if d_outputs is not None:
            d_outputs = arguments.sequence("d_outputs", d_outputs, self.settings, self.cell.output_size, steps)
            d_outputs = arguments.finite("d_outputs", d_outputs, self._valid(self._call.lengths, steps))
            d_outputs = self._padded(d_outputs, padding)
        d_layers = self._state("d_state", d_state)
        if self._network is None or steps == 0:
            return empty.gradients(self.cell, self.settings, steps, d_layers)
        gradients = self._network.backward(d_outputs, d_layers)
        return Gradients(
            self._cut(gradients.inputs, padding),
            self.cell.weights_of(gradients.weights),
            self.cell.nest(iter(gradients.initial_state)),
        )

    def listing(self) -> Listing:
        """The generated program. Raises OrderError where there is none: for an empty batch and after `close`."""
        return self._open_network().listing()

    def memory(self) -> Memory:
        """The program's own account of its memory. Raises OrderError as `listing` does."""
        return self._open_network().memory()

    def close(self) -> None:
        """The program's threads and memory are given back, and it cannot be called any more."""
        if self._network is not None:
            self._network.close()
        self._network, self._closed = None, True

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise OrderError("the program is closed; compile it again")

    def _open_network(self) -> Network:
        self._check_open()
        if self._network is None:
            raise OrderError("the program has an empty batch, so nothing was generated")
        return self._network

    def _steps_to_add(self, steps: int) -> int:
        """Zero steps that bring a call to the length that a static program has."""
        settings = self.settings
        if settings.execution != "static":
            return 0
        if steps > settings.max_time:
            raise ArgumentError(
                f"inputs: {steps} time steps, but this static program was built for {settings.max_time}; "
                f'compile it with max_time={steps}, or with execution="dynamic", which takes any number'
            )
        return settings.max_time - steps

    def _valid(self, lengths: Lengths | None, steps: int) -> arguments.Mask | None:
        """Whether a step is within its row's length, shaped to go with inputs and outputs; None: all are."""
        if lengths is None:
            return None
        valid: arguments.Mask = np.arange(steps) < lengths[:, None]
        return (valid.T if self.settings.time_major else valid)[:, :, None]

    def _state(self, name: str, state: Any) -> tuple[State, ...] | None:
        if state is None:
            return None
        return tuple(self.cell.flatten_state(name, state, self.settings.batch_size, self.settings.dtype))

    def _padded(self, array: Array, padding: int) -> Array:
        if not padding:
            return array
        widths = [(0, padding if axis == self.settings.time_axis else 0) for axis in range(3)]
        return np.pad(array, widths)

    def _cut(self, array: Array, padding: int) -> Array:
        """The array without the steps that were added."""
        if not padding:
            return array
        return array[:-padding].copy() if self.settings.time_major else array[:, :-padding].copy()


def _built(cell: RNNCell, settings: Settings) -> Network:
    return build_program(
        cell.specs,
        execution=settings.execution,
        mode=settings.mode,
        max_time=settings.max_time,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
        unroll=settings.unroll,
        parallel_iterations=settings.parallel_iterations,
        swap_memory=settings.swap_memory,
        time_major=settings.time_major,
        threads=settings.threads,
        device=settings.device,
    )

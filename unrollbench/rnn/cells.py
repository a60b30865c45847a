"""TensorFlow 1's cells and their constructors. No equations: the backend has those."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from unrollbench.case import CellOptions
from unrollbench.errors import ArgumentError, ArgumentTypeError
from unrollbench.rnn import arguments
from unrollbench.rnn.cell import Layer, RNNCell
from unrollbench.rnn.compilation import Programs
from unrollbench.rnn.state import LSTMStateTuple
from unrollbench.tensors import State, Weights


class BasicRNNCell(Layer):
    """h' = tanh([x, h] kernel + bias). Source: `tf.compat.v1.nn.rnn_cell.BasicRNNCell`."""

    kind = "basic_rnn"

    def __init__(
        self, num_units: int, activation: Any = None, reuse: Any = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(num_units, CellOptions(), activation, reuse, name, dtype)


class GRUCell(Layer):
    """The gated recurrent unit, r before the candidate's product. Source: `tf.compat.v1.nn.rnn_cell.GRUCell`."""

    kind = "gru"

    def __init__(
        self,
        num_units: int,
        activation: Any = None,
        reuse: Any = None,
        kernel_initializer: Any = None,
        bias_initializer: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        _refuse("kernel_initializer", kernel_initializer, "set the weights with set_weights")
        _refuse("bias_initializer", bias_initializer, "set the weights with set_weights")
        super().__init__(num_units, CellOptions(), activation, reuse, name, dtype)


class _LSTM(Layer):
    """What both LSTM cells have in common: the state (c, h)."""

    kind = "lstm"

    @property
    def state_size(self) -> LSTMStateTuple:
        return LSTMStateTuple(self.num_units, self.output_size)

    def nest(self, layers: Iterator[Any]) -> LSTMStateTuple:
        return LSTMStateTuple(*next(layers))

    def flatten_state(self, name: str, state: Any, batch_size: int, dtype: str) -> list[State]:
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise ArgumentTypeError(f"{name}: got {_described(state)}, wanted LSTMStateTuple(c, h)")
        arrays = []
        for part, value, size, letter in zip("ch", state, self.state_size, ("num_units", "output"), strict=True):
            called = f"{name}.{part}"
            array = arguments.array(called, value, dtype, (batch_size, size), f"(batch, {letter})")
            arrays.append(arguments.finite(called, array))
        return [tuple(arrays)]


class BasicLSTMCell(_LSTM):
    """The LSTM without options but forget_bias. Source: `tf.compat.v1.nn.rnn_cell.BasicLSTMCell`."""

    def __init__(
        self,
        num_units: int,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Any = None,
        reuse: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        _check_state_is_tuple(state_is_tuple)
        options = CellOptions(forget_bias=arguments.number("forget_bias", forget_bias))
        super().__init__(num_units, options, activation, reuse, name, dtype)


class LSTMCell(_LSTM):
    """The LSTM with peepholes, clipped cell, projection. Source: `tf.compat.v1.nn.rnn_cell.LSTMCell`.

    As there, proj_clip has an effect only with num_proj.
    """

    def __init__(  # noqa: PLR0913 - TensorFlow's signature
        self,
        num_units: int,
        use_peepholes: bool = False,
        cell_clip: float | None = None,
        initializer: Any = None,
        num_proj: int | None = None,
        proj_clip: float | None = None,
        num_unit_shards: Any = None,
        num_proj_shards: Any = None,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Any = None,
        reuse: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        _refuse("initializer", initializer, "set the weights with set_weights")
        _refuse("num_unit_shards", num_unit_shards, "weights are kept whole")
        _refuse("num_proj_shards", num_proj_shards, "weights are kept whole")
        _check_state_is_tuple(state_is_tuple)
        clip = None if proj_clip is None else arguments.number("proj_clip", proj_clip, positive=True)
        options = CellOptions(
            forget_bias=arguments.number("forget_bias", forget_bias),
            use_peepholes=arguments.flag("use_peepholes", use_peepholes),
            cell_clip=None if cell_clip is None else arguments.number("cell_clip", cell_clip, positive=True),
            num_proj=None if num_proj is None else arguments.integer("num_proj", num_proj, 1),
            proj_clip=None if num_proj is None else clip,
        )
        super().__init__(num_units, options, activation, reuse, name, dtype)


class MultiRNNCell(RNNCell):
    """Cells on top of each other: each one's output is the next one's input. They may differ in kind and size.

    State, `state_size` and gradients of the state are tuples with an item per cell. Source:
    `tf.compat.v1.nn.rnn_cell.MultiRNNCell`.
    """

    def __init__(self, cells: Sequence[RNNCell], state_is_tuple: bool = True) -> None:
        _check_state_is_tuple(state_is_tuple)
        if not isinstance(cells, list | tuple):
            raise ArgumentTypeError(f"cells: got {type(cells).__name__}, wanted a list of cells")
        if not cells:
            raise ArgumentError("cells: got an empty list, wanted at least one cell")
        for i, cell in enumerate(cells):
            if not isinstance(cell, RNNCell):
                raise ArgumentTypeError(f"cells[{i}]: got {type(cell).__name__}, wanted a cell of unrollbench.rnn")
        self.cells = tuple(cells)
        self.layers = tuple(layer for cell in cells for layer in cell.layers)
        self.programs = Programs()
        if len(set(map(id, self.layers))) < len(self.layers):
            raise ArgumentError("cells: the same cell object twice; layers own their weights: make one cell per layer")

    def __repr__(self) -> str:
        return f"MultiRNNCell({list(self.cells)!r})"

    @property
    def state_size(self) -> tuple[Any, ...]:
        return tuple(cell.state_size for cell in self.cells)

    @property
    def weights(self) -> list[Weights]:
        return [layer.weights for layer in self.layers]

    def weights_of(self, layers: tuple[Weights, ...]) -> list[Weights]:
        return list(layers)

    def set_weights(self, weights: Any) -> None:
        if not isinstance(weights, list | tuple) or len(weights) != len(self.layers):
            raise ArgumentTypeError(f"weights: got {_described(weights)}, wanted a list of {len(self.layers)} dicts")
        checked = [
            a.checked_weights(f"weights[{i}]", w) for i, (a, w) in enumerate(zip(self.layers, weights, strict=True))
        ]
        for layer, own in zip(self.layers, checked, strict=True):
            layer.replace_weights(own)

    def nest(self, layers: Iterator[Any]) -> tuple[Any, ...]:
        return tuple(cell.nest(layers) for cell in self.cells)

    def flatten_state(self, name: str, state: Any, batch_size: int, dtype: str) -> list[State]:
        if not isinstance(state, tuple | list) or len(state) != len(self.cells):
            raise ArgumentTypeError(
                f"{name}: got {_described(state)}, wanted a tuple of {len(self.cells)}, the state of each cell"
            )
        pairs = enumerate(zip(self.cells, state, strict=True))
        return [a for i, (cell, part) in pairs for a in cell.flatten_state(f"{name}[{i}]", part, batch_size, dtype)]


def _refuse(name: str, value: Any, remedy: str) -> None:
    if value is not None:
        raise ArgumentError(f"{name}: got {value!r}; unrollbench does not support this argument: {remedy}")


def _check_state_is_tuple(value: Any) -> None:
    if value is not True:
        raise ArgumentError(
            f"state_is_tuple: got {value!r}; states are tuples here, a concatenated state is not supported"
        )


def _described(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__

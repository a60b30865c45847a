"""What every cell is: a layer or a stack of layers, its weights, and how its state is nested."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from unrollbench.case import CellOptions
from unrollbench.cells import LayerSpec
from unrollbench.errors import ArgumentError, ArgumentTypeError, OrderError
from unrollbench.rnn import arguments
from unrollbench.rnn.compilation import Programs, one_step
from unrollbench.tensors import Array, State, Weights, state_shapes, weight_shapes


class RNNCell(ABC):
    """A layer or a stack. `layers` are its single layers in order, `programs` those compiled for its calls."""

    layers: tuple[Layer, ...]
    programs: Programs

    @property
    @abstractmethod
    def state_size(self) -> Any:
        """The columns of the state, nested as the state is."""

    @property
    @abstractmethod
    def weights(self) -> Any:
        """Read-only arrays by TensorFlow's names: a dict; of a stack a list with a dict per layer.

        Raises OrderError before the cell is built.
        """

    @abstractmethod
    def set_weights(self, weights: Any) -> None:
        """From now on the cell, and every program compiled for it, computes with copies of these weights.

        Raises ArgumentError, and changes nothing, unless they have the names, shapes and dtype of `weights`.
        """

    @abstractmethod
    def nest(self, layers: Iterator[Any]) -> Any:
        """The next items of `layers`, each the tuple of one layer's parts, nested as the state is."""

    @abstractmethod
    def flatten_state(self, name: str, state: Any, batch_size: int, dtype: str) -> list[State]:
        """The checked arrays of a nested state, a tuple per layer. `name` is what errors call it."""

    @abstractmethod
    def weights_of(self, layers: tuple[Weights, ...]) -> Any:
        """One dict per layer in the form that `weights` has."""

    @property
    def output_size(self) -> int:
        """The columns of the output."""
        return self.layers[-1].output_size

    @property
    def built(self) -> bool:
        return all(layer.built for layer in self.layers)

    @property
    def input_size(self) -> int | None:
        """The columns of the input; None before the cell is built."""
        return self.layers[0].input_size

    @property
    def dtype(self) -> str | None:
        """ "float32" or "float64"; None while neither a constructor nor `build` was told."""
        return next((layer.dtype for layer in self.layers if layer.dtype is not None), None)

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """The layers of a built cell, as the backend wants them."""
        return tuple(LayerSpec(a.kind, a.options, a.input_size or 0, a.num_units) for a in self.layers)

    @property
    def version(self) -> tuple[int, ...]:
        """A value that changes with every `set_weights`."""
        return tuple(layer.changes for layer in self.layers)

    def zero_state(self, batch_size: int, dtype: Any) -> Any:
        """A state of fresh zeros, nested as `state_size`."""
        batch_size, dtype = arguments.integer("batch_size", batch_size, 0), arguments.dtype("dtype", dtype)
        return self.nest(
            tuple(np.zeros(shape, dtype) for shape in state_shapes(a.kind, a.options, batch_size, a.num_units))
            for a in self.layers
        )

    def build(self, input_size: int, dtype: Any = None, seed: int | None = None) -> None:
        """Every layer has weights: Glorot-uniform kernels and peepholes, biases 0 but for a GRU's gates, which have 1.

        dtype None is the constructor's, or float32. seed None draws other weights in every process. A layer that has
        weights already keeps them.

        Raises:
            ArgumentError: a layer was built for another input size or dtype; nothing is changed.
        """
        size = arguments.integer("input_size", input_size, 1)
        dtype = arguments.dtype("dtype", dtype) if dtype is not None else self.dtype or "float32"
        sizes = [size, *(layer.output_size for layer in self.layers)]
        for layer, columns in zip(self.layers, sizes, strict=False):
            layer.check_fits(columns, dtype)
        sources = np.random.SeedSequence(seed).spawn(len(self.layers))
        for layer, columns, source in zip(self.layers, sizes, sources, strict=False):
            if not layer.built:
                layer.draw(columns, dtype, np.random.default_rng(source))

    def __call__(self, inputs: Any, state: Any, scope: str | None = None) -> tuple[Array, Any]:
        """One step: x_t (B,I) and the state give the output (B,P) and the new state. The first call builds the cell.

        `scope` named TensorFlow's variables; it is accepted and has nothing to name here.
        """
        arguments.scope(scope)
        return one_step(self, inputs, state)


class Layer(RNNCell):
    """What the four cells have in common. `kind` is the backend's name of the cell."""

    kind: str

    def __init__(
        self, num_units: Any, options: CellOptions, activation: Any, reuse: Any, name: Any, dtype: Any
    ) -> None:
        self.num_units = arguments.integer("num_units", num_units, 1)
        self.options = options
        self.name = type(self).__name__.lower() if name is None else arguments.text("name", name)
        self._dtype = None if dtype is None else arguments.dtype("dtype", dtype)
        self._input_size: int | None = None
        self._weights: Weights = {}
        self.changes = 0
        self.layers = (self,)
        self.programs = Programs()
        if getattr(activation, "__name__", activation) not in (None, "tanh"):
            raise ArgumentError(f"activation: got {activation!r}; the kernels have tanh only")
        if reuse not in (None, False):
            raise ArgumentError(f"reuse: got {reuse!r}; to share weights, use the same cell object in both calls")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_units={self.num_units})"

    @property
    def state_size(self) -> Any:
        return self.num_units

    @property
    def output_size(self) -> int:
        return self.options.num_proj or self.num_units

    @property
    def built(self) -> bool:
        return self._input_size is not None

    @property
    def input_size(self) -> int | None:
        return self._input_size

    @property
    def dtype(self) -> str | None:
        return self._dtype

    @property
    def weights(self) -> Weights:
        if not self.built:
            raise OrderError(f"{self!r} has no weights yet: call build(input_size, dtype), or run the cell once")
        return dict(self._weights)

    def weights_of(self, layers: tuple[Weights, ...]) -> Weights:
        return layers[0]

    def set_weights(self, weights: Any) -> None:
        self.replace_weights(self.checked_weights("weights", weights))

    def checked_weights(self, name: str, weights: Any) -> Weights:
        """Copies of the weights, which have the names, shapes and dtype of this layer's."""
        wanted = self.weights
        if not isinstance(weights, Mapping):
            raise ArgumentTypeError(f"{name}: got {type(weights).__name__}, wanted a dict of {', '.join(wanted)}")
        if weights.keys() != wanted.keys():
            raise ArgumentError(f"{name}: got {sorted(map(str, weights))}, wanted {sorted(wanted)}")
        copies: Weights = {}
        for key, old in wanted.items():
            called = f"{name}[{key!r}]"
            new = arguments.array(called, weights[key], str(old.dtype), old.shape, "the weight's shape")
            copies[key] = arguments.finite(called, new).copy()
        return copies

    def replace_weights(self, weights: Weights) -> None:
        """Makes checked weights the layer's own."""
        for array in weights.values():
            array.setflags(write=False)
        self._weights = weights
        self.changes += 1

    def check_fits(self, input_size: int, dtype: str) -> None:
        """Raises ArgumentError if the layer was made for another dtype or built for another input size."""
        if self.built and self._input_size != input_size:
            raise ArgumentError(
                f"input_size: got {input_size}, but {self!r} was built for {self._input_size} columns; make a new cell"
            )
        if self._dtype not in (None, dtype):
            raise ArgumentError(f"dtype: got {dtype}, but {self!r} has {self._dtype}; make a new cell")

    def draw(self, input_size: int, dtype: str, rng: np.random.Generator) -> None:
        """Builds the layer with initial weights from rng. Source: TensorFlow's `glorot_uniform_initializer`."""
        self._input_size, self._dtype = input_size, dtype
        weights: Weights = {}
        for name, shape in weight_shapes(self.kind, self.options, input_size, self.num_units).items():
            if name.endswith("bias"):
                weights[name] = np.full(shape, 1.0 if name == "gates/bias" else 0.0, dtype)
            else:
                bound = np.sqrt(6 / (shape[0] + shape[-1]))
                weights[name] = rng.uniform(-bound, bound, shape).astype(dtype)
        self.replace_weights(weights)

    def nest(self, layers: Iterator[Any]) -> Any:
        (h,) = next(layers)
        return h

    def flatten_state(self, name: str, state: Any, batch_size: int, dtype: str) -> list[State]:
        if isinstance(state, tuple):
            raise ArgumentTypeError(f"{name}: got a tuple of {len(state)}, wanted one array (B, {self.num_units})")
        h = arguments.array(name, state, dtype, (batch_size, self.num_units), "(batch, num_units)")
        return [(arguments.finite(name, h),)]

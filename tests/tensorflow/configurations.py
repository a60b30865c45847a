"""Random networks with random tensors, as TensorFlow 1 takes them: the common ground of both sides of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unrollbench.case import CellOptions
from unrollbench.cells import LayerSpec
from unrollbench.tensors import Array, State, Weights, state_shapes, weight_shapes

CELL_OF_CLASS = {"BasicRNNCell": "basic_rnn", "GRUCell": "gru", "BasicLSTMCell": "lstm", "LSTMCell": "lstm"}
"""TensorFlow's class -> our cell."""


@dataclass(frozen=True)
class LayerOf:
    """One layer: the class of `rnn_cell` and its constructor's arguments."""

    name: str
    num_units: int
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, input_size: int) -> LayerSpec:
        return LayerSpec(CELL_OF_CLASS[self.name], CellOptions(**self.arguments), input_size, self.num_units)


@dataclass(frozen=True)
class Configuration:
    """One call of `static_rnn` or `dynamic_rnn`. `stacked` wraps even a single layer into a `MultiRNNCell`."""

    layers: tuple[LayerOf, ...]
    function: str = "dynamic"
    steps: int = 4
    batch: int = 3
    input_size: int = 2
    dtype: str = "float64"
    lengths: tuple[int, ...] | None = None
    initial_state: bool = True
    time_major: bool = False
    stacked: bool = False
    parallel_iterations: int = 32
    swap_memory: bool = False
    scale: float = 0.5
    seed: int = 0

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        specs: list[LayerSpec] = []
        size = self.input_size
        for layer in self.layers:
            specs.append(layer.spec(size))
            size = specs[-1].output_size
        return tuple(specs)

    @property
    def is_stack(self) -> bool:
        return self.stacked or len(self.layers) > 1


@dataclass(frozen=True)
class Drawn:
    """The tensors of a configuration, time-major; what both sides are given."""

    inputs: Array
    weights: tuple[Weights, ...]
    state: tuple[State, ...]
    d_outputs: Array
    d_state: tuple[State, ...]


def draw(configuration: Configuration) -> Drawn:
    """Equal tensors for equal configurations."""
    rng = np.random.default_rng((configuration.seed, 7))

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Array:
        return (rng.standard_normal(shape) * scale).astype(configuration.dtype)

    def states(scale: float) -> tuple[State, ...]:
        shapes = (state_shapes(s.cell, s.options, configuration.batch, s.num_units) for s in configuration.specs)
        return tuple(tuple(normal(shape, scale) for shape in layer) for layer in shapes)

    weights = tuple(
        {
            name: normal(shape, configuration.scale)
            for name, shape in weight_shapes(s.cell, s.options, s.input_size, s.num_units).items()
        }
        for s in configuration.specs
    )
    steps, batch = configuration.steps, configuration.batch
    inputs = normal((steps, batch, configuration.input_size))
    d_outputs = normal((steps, batch, configuration.specs[-1].output_size))
    return Drawn(inputs, weights, states(0.5 if configuration.initial_state else 0.0), d_outputs, states(1.0))


def random_configuration(seed: int) -> Configuration:
    """A configuration with every feature drawn at random, small enough to be quick."""
    rng = np.random.default_rng((seed, 8))
    depth = int(rng.choice([1, 1, 2, 3]))
    mixed = rng.random() < 0.3
    name = str(rng.choice(list(CELL_OF_CLASS)))
    steps, batch = int(rng.choice([1, 2, 3, 5, 8, 13])), int(rng.choice([1, 2, 3, 7, 16]))
    lengths = None
    if rng.random() < 0.6:
        lengths = tuple(int(n) for n in rng.integers(0, steps, size=batch, endpoint=True))
    return Configuration(
        layers=tuple(_random_layer(rng, str(rng.choice(list(CELL_OF_CLASS))) if mixed else name) for _ in range(depth)),
        function=str(rng.choice(["static", "dynamic"])),
        steps=steps,
        batch=batch,
        input_size=int(rng.choice([1, 3, 8, 17])),
        dtype=str(rng.choice(["float32", "float64"])),
        lengths=lengths,
        initial_state=bool(rng.random() < 0.6),
        time_major=bool(rng.random() < 0.5),
        stacked=bool(rng.random() < 0.3),
        parallel_iterations=int(rng.choice([1, 2, 5, 32])),
        swap_memory=bool(rng.random() < 0.3),
        scale=float(rng.choice([0.2, 0.5])),
        seed=seed,
    )


def _random_layer(rng: np.random.Generator, name: str) -> LayerOf:
    arguments: dict[str, Any] = {}
    if "LSTM" in name and rng.random() < 0.5:
        arguments["forget_bias"] = float(rng.choice([0.0, 0.5, 2.0]))
    if name == "LSTMCell":
        arguments["use_peepholes"] = bool(rng.random() < 0.5)
        if rng.random() < 0.4:
            arguments["cell_clip"] = float(rng.choice([0.1, 0.3, 1.0]))
        if rng.random() < 0.5:
            arguments["num_proj"] = int(rng.choice([1, 3, 6]))
            if rng.random() < 0.5:
                arguments["proj_clip"] = float(rng.choice([0.05, 0.2]))
    return LayerOf(name, int(rng.choice([1, 2, 5, 8, 16, 19])), arguments)

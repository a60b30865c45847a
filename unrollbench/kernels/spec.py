"""What a stack of layers is compiled for, on any device."""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.case import Case
from unrollbench.cells import LayerSpec


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is compiled for, beside its schedule. threads: of the host."""

    layers: tuple[LayerSpec, ...]
    dtype: str
    batch_size: int
    train: bool
    time_major: bool
    swap_memory: bool
    threads: int = 1


def spec_of(case: Case) -> NetworkSpec:
    """The network of a case."""
    layers = tuple(LayerSpec(case.cell, case.cell_options, i, units) for i, units, _ in case.layer_shapes)
    swap = bool(case.canonical().swap_memory)
    train = case.mode == "train"
    return NetworkSpec(layers, case.dtype, case.batch_size, train, case.time_major, swap, case.threads)

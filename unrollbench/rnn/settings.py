"""What a program is compiled for, and the shape of what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unrollbench.tensors import Array


@dataclass(frozen=True)
class Gradients:
    """Gradients of sum(outputs * d_outputs) + sum(state * d_state); fresh arrays.

    inputs: shape of the inputs. weights: names and shapes of `cell.weights`. initial_state: nested as the state.
    """

    inputs: Array
    weights: Any
    initial_state: Any


@dataclass(frozen=True)
class Settings:
    """What a program is compiled for: `compile`'s arguments, checked, with every default resolved."""

    execution: str
    mode: str
    max_time: int
    batch_size: int
    dtype: str
    unroll: int = 1
    parallel_iterations: int = 32
    swap_memory: bool = False
    time_major: bool = False
    threads: int = 1
    device: str = "cpu"

    @property
    def time_axis(self) -> int:
        return 0 if self.time_major else 1

    def shape(self, steps: int, size: int) -> tuple[int, int, int]:
        return (steps, self.batch_size, size) if self.time_major else (self.batch_size, steps, size)

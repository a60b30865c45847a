"""Where a program runs: the backend of each device, and what the face asks of what it builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from unrollbench import backends
from unrollbench.backends import Listing, Memory
from unrollbench.cells import LayerSpec
from unrollbench.errors import ArgumentError
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.rnn.arguments import Lengths
from unrollbench.schedule import Schedule, schedule
from unrollbench.tensors import Array, Gradients, State, Weights

BACKENDS = {"cpu": "numba_cpu", "cuda": "numba_cuda"}
"""Device -> the backend that builds its programs; none stands in for another."""


class Network(Protocol):
    """A compiled stack of layers. Inputs are (T,B,I) if time_major, else (B,T,I), C-contiguous, of the network's dtype.

    T may change from call to call unless the network is static. Results are new arrays that the caller owns; what is
    given may be read again until the next `forward`.
    """

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """From now on it computes with copies of these, one dict per layer in TensorFlow's names and layouts."""

    def forward(
        self, inputs: Array, lengths: Lengths | None, initial_state: Sequence[State] | None
    ) -> tuple[Array, tuple[State, ...]]:
        """(outputs, final state per layer). Raises MemoryError where this T has no room; another one may have."""

    def backward(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> Gradients:
        """Gradients of the last `forward`, also again for other cotangents; None is zeros."""

    def listing(self) -> Listing:
        """What was built."""

    def memory(self) -> Memory:
        """Its own account of its memory."""

    def close(self) -> None:
        """Gives back threads and memory; it cannot be used afterwards."""


@runtime_checkable
class Builder(Protocol):
    """What a backend of `BACKENDS` has beside `build`."""

    def network(self, spec: NetworkSpec, planned: Schedule, max_time: int) -> Network:
        """A compiled network, still without weights. max_time: the T that a static one has, and others have room for.

        Raises ArgumentError where it cannot be run as it is described.
        """


def builder(device: str) -> Builder:
    """The device's backend. Raises BackendUnavailable with the reason and the remedy where it cannot run here."""
    found = backends.load(BACKENDS[device])
    assert isinstance(found, Builder)
    return found


def host_threads(device: str, asked: int | None, processors: int) -> int:
    """Threads of the host: on the CPU as many as asked for, or all; beside a GPU one."""
    if device == "cpu":
        return processors if asked is None else asked
    if asked not in (None, 1):
        raise ArgumentError(
            f'threads: got {asked} with device="{device}", wanted None or 1: one thread of the host starts everything '
            "that the GPU runs"
        )
    return 1


def build_program(  # noqa: PLR0913 - the arguments of rnn.compile, one by one
    layers: Sequence[LayerSpec],
    *,
    execution: str,
    mode: str,
    max_time: int,
    batch_size: int,
    dtype: str,
    unroll: int = 1,
    parallel_iterations: int = 32,
    swap_memory: bool = False,
    time_major: bool = False,
    threads: int = 1,
    device: str = "cpu",
) -> Network:
    """A compiled stack of layers on the device, still without weights; cells may differ from layer to layer."""
    train = mode == "train"
    swap = swap_memory and train and execution == "dynamic"
    spec = NetworkSpec(tuple(layers), dtype, batch_size, train, time_major, swap, threads)
    planned = schedule(
        execution,
        num_layers=len(layers),
        max_time=max_time,
        unroll=unroll,
        parallel_iterations=parallel_iterations,
    )
    return builder(device).network(spec, planned, max_time)

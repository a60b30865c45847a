"""What a backend is: it builds a Program from a Case. Backends are loaded by name, only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import Outputs, Tensors

BUILT_IN = {
    "numba_cpu": "unrollbench.backends.numba_cpu:NumbaCpu",
    "numba_cuda": "unrollbench.backends.numba_cuda:NumbaCuda",
    "tensorflow": "unrollbench.backends.tensorflow_rnn:TensorflowRnn",
    "keras": "unrollbench.backends.keras_rnn:KerasRnn",
    "jax": "unrollbench.backends.jax_scan:JaxScan",
    "torch": "unrollbench.backends.torch_rnn:TorchRnn",
    "onnx": "unrollbench.backends.onnx_rnn:OnnxRnn",
    "openvino": "unrollbench.backends.openvino_rnn:OpenvinoRnn",
    "flashrnn": "unrollbench.backends.flashrnn_rnn:FlashRnn",
    "flashrnn_alternating": "unrollbench.backends.flashrnn_rnn:FlashRnnAlternating",
    "flashrnn_triton": "unrollbench.backends.flashrnn_rnn:FlashRnnTriton",
}
"""Backend name -> where its class lives; `unrollbench.backends` entry points add to it."""

EXTRAS = {
    "numba_cuda": "cuda",
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "jax": "jax",
    "torch": "torch",
    "onnx": "onnx",
    "openvino": "openvino",
    "flashrnn": "flashrnn",
    "flashrnn_alternating": "flashrnn",
    "flashrnn_triton": "flashrnn",
}
"""Backend name -> the extra of this package that installs what it needs."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a program itself accounts for; None where it cannot know.

    weight_bytes: weights as the program keeps them, packing and padding included. workspace_bytes: scratch that every
    run needs. saved_bytes: activations kept from the forward for the backward pass. device_bytes and
    device_peak_bytes: allocated on an accelerator, now and at most so far. driver_bytes: what the accelerator's driver
    says that this process takes of it, code and context included.
    """

    weight_bytes: int | None = None
    workspace_bytes: int | None = None
    saved_bytes: int | None = None
    device_bytes: int | None = None
    device_peak_bytes: int | None = None
    driver_bytes: int | None = None


@dataclass(frozen=True)
class Listing:
    """What was built: the generated program's text, its size in graph nodes and in bytes of machine code.

    multiplied_by: what its matrix products are made with, where a backend can choose: "vectors of 256 bits", "matrix
    unit", "vectors of 512 bits in pairs". Of an accelerator's kernels: ptx_bytes and cubin_bytes of all of them
    together; registers and local_bytes (local memory: spills and stack) of a thread and shared_bytes (static and
    dynamic) of a block, each of the kernel that has the most.
    """

    source: str
    graph_nodes: int | None = None
    code_bytes: int | None = None
    graph_dot: str | None = None
    ptx_bytes: int | None = None
    cubin_bytes: int | None = None
    registers: int | None = None
    local_bytes: int | None = None
    shared_bytes: int | None = None
    multiplied_by: str | None = None


class Program(Protocol):
    """A built case with its inputs in place.

    build_phases_s: seconds of `Backend.build` by phase ("schedule", "codegen", "typing", "llvm", "trace", ...). The
    harness adds "first_run". A train program's `run` is one forward and one backward pass.
    """

    build_phases_s: Mapping[str, float]

    def run(self) -> None:
        """Starts one run; may return before it is finished."""

    def synchronize(self) -> None:
        """Returns when every run started so far is finished."""

    def outputs(self) -> Outputs:
        """The last run's results as canonical host arrays; not timed."""

    def memory(self) -> Memory:
        """The program's own account of its memory."""

    def listing(self) -> Listing:
        """The generated program."""

    def close(self) -> None:
        """Gives back threads and memory; the program cannot run afterwards."""


@runtime_checkable
class CountsCompilations(Protocol):
    """What a program also has where its framework lets one count what it compiles."""

    def compilations(self) -> int:
        """A count (of compilations, graphs, a graph's nodes) that grows whenever anything is traced or compiled."""


@runtime_checkable
class TimedByEvents(Protocol):
    """What a program on an accelerator also has, so that its runs are timed by the device's own clock."""

    def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
        """Seconds of each of `runs` runs between two events on the program's stream; all of them are finished.

        `cold`: the device's L2 cache is flushed before every run, outside of what is timed.
        """


def is_simulated(backend: Backend) -> bool:
    """Whether the backend runs in a simulator, whose results count and whose times do not: `simulated` is true."""
    return bool(getattr(backend, "simulated", False))


class Backend(Protocol):
    """Builds programs. `versions` maps the packages that it runs on to their versions.

    A backend that may run in a simulator also has `simulated: bool`; see `is_simulated`.
    """

    name: str
    versions: Mapping[str, str]

    def why_not(self, case: Case) -> str | None:
        """Why this backend cannot run the case exactly as it is, or None if it can."""

    def build(self, case: Case, tensors: Tensors) -> Program:
        """A program for the case, inputs in place, everything compiled: nothing is left for the first run."""


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be loaded here: its packages' versions, or the reason and the command that mends it."""

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


def names() -> tuple[str, ...]:
    """Every backend that can be named in a suite: the built-in ones and those of installed packages."""
    return tuple(dict.fromkeys((*BUILT_IN, *(point.name for point in entry_points(group="unrollbench.backends")))))


def load(name: str) -> Backend:
    """The backend of that name. Raises BackendUnavailable with the reason and the remedy."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            remedy = f"; install it with: pip install 'unrollbench[{EXTRAS[name]}]'" if name in EXTRAS else ""
            raise BackendUnavailable(f"backend {name!r}: {error}{remedy}") from error
    else:
        points = [point for point in entry_points(group="unrollbench.backends") if point.name == name]
        if not points:
            raise BackendUnavailable(f"backend {name!r}: unknown; expected one of {', '.join(names())}")
        try:
            factory = points[0].load()
        except ImportError as error:
            raise BackendUnavailable(f"backend {name!r} ({points[0].value}): {error}") from error
    backend: Backend = factory()
    return backend


def availability(name: str) -> Availability:
    """Whether the backend can be loaded here, without raising."""
    try:
        return Availability(name, versions=dict(load(name).versions))
    except BackendUnavailable as error:
        return Availability(name, reason=str(error))

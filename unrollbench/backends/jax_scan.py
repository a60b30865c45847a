"""JAX: `lax.scan` with `unroll`, a Python loop traced under `jit`, and a Python loop over one compiled step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.backend
import jaxlib
import numpy as np
from jax import lax
from jax import numpy as jnp

from unrollbench.backends import limits
from unrollbench.backends.jax_program import OPS, Arguments, Program
from unrollbench.backends.jax_step import JaxStepProgram
from unrollbench.backends.phases import Phases
from unrollbench.backends.step import States, Value, stack_step
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import Tensors

PRECISIONS = {"float32": "F32_F32_F32", "tf32": "TF32_TF32_F32"}
"""Matrix products of a case on a GPU -> JAX's name of the algorithm."""
GPU_PLATFORMS = ("gpu", "cuda")


class JaxScan:
    """dynamic: `lax.scan(unroll=k)`; static: a Python loop under one `jit`; stepwise: one compiled step."""

    name = "jax"
    versions: Mapping[str, str] = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}

    def why_not(self, case: Case) -> str | None:
        reason = limits.jax(case)
        return _why_no_gpu() if reason is None and case.device == "cuda" else reason

    def build(self, case: Case, tensors: Tensors) -> JaxProgram | JaxStepProgram:
        """Traced, lowered and compiled for the case, with no compilation cache and the case's threads."""
        case = case.canonical()
        phases = Phases()
        with phases("client"):
            _configure(case)
        with phases("inputs"):
            arguments = _arguments(case, tensors)
        if case.execution == "stepwise":
            return JaxStepProgram(case, arguments, phases)
        return JaxProgram(case, arguments, phases)


class JaxProgram(Program):
    """One compiled executable that runs the whole sequence, and in train mode its gradients."""

    def __init__(self, case: Case, arguments: Arguments, phases: Phases) -> None:
        super().__init__(case, arguments, phases)
        self._compiled = self.compile(_train(case) if case.mode == "train" else _forward(case), arguments)

    def run(self) -> None:
        self._results = self._compiled(self._arguments)


def _configure(case: Case) -> None:
    """A client of the case's device, no compilation cache, and float64 exactly where the case asks for it.

    Raises BackendUnavailable where arrays would not be on that device.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    if case.device == "cpu":
        _cpu_client(case)
        return
    # JAX's own default on a GPU is TF32; float64 has no choice.
    precision = None if case.matmul_precision is None else PRECISIONS[case.matmul_precision]
    jax.config.update("jax_default_matmul_precision", precision)
    jax.clear_caches()
    if jax.devices()[0].platform not in GPU_PLATFORMS:
        raise BackendUnavailable(f"jax computes on {jax.devices()[0]}, not on a GPU")


def _why_no_gpu() -> str | None:
    """Why there is no GPU, or None; asking makes JAX's clients in this process."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # as needed, or its share would count as the program's memory
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return f"jax {jax.__version__} has no GPU here: {error}; install it with: pip install 'jax[cuda13]'"
    return None


def _cpu_client(case: Case) -> None:
    """A CPU client with the case's threads."""
    jax.config.update("jax_platforms", "cpu")
    if os.environ.get("NPROC") != str(case.threads):
        # XLA sizes a CPU client's thread pool by NPROC, once, when the client is made.
        os.environ["NPROC"] = str(case.threads)
        jax.extend.backend.clear_backends()
    jax.clear_caches()
    jax.devices()


def _arguments(case: Case, tensors: Tensors) -> Arguments:
    values: Arguments = {
        "inputs": tensors.inputs,
        "lengths": None if tensors.lengths is None else tensors.lengths.astype(np.int32),
        "state": tensors.initial_state,
        "weights": tensors.weights,
    }
    if case.mode == "train":
        values |= {"d_outputs": tensors.d_outputs, "d_state": tensors.d_state}
    return jax.block_until_ready(jax.device_put(values))  # type: ignore[no-any-return]


def _network(case: Case) -> Callable[..., tuple[Value, States]]:
    """(weights, inputs, state, lengths) -> (outputs, state), in the case's layout."""
    steps, time_axis = case.sequence_length, 0 if case.time_major else 1

    def network(weights: Any, inputs: Value, state: States, lengths: Value) -> tuple[Value, States]:
        def step(state: States, at: tuple[Value, Value]) -> tuple[States, Value]:
            t, x = at
            running = None if lengths is None else (t < lengths)[:, None]
            output, state = stack_step(OPS, case, weights, x, state, running)
            return state, output

        if case.execution == "static":
            outputs = []
            for t in range(steps):
                state, output = step(state, (t, lax.index_in_dim(inputs, t, time_axis, keepdims=False)))
                outputs.append(output)
            return jnp.stack(outputs, time_axis), state
        sequence = jnp.moveaxis(inputs, time_axis, 0)
        state, stacked = lax.scan(step, state, (jnp.arange(steps, dtype=jnp.int32), sequence), unroll=case.unroll or 1)
        return jnp.moveaxis(stacked, 0, time_axis), state

    return network


def _forward(case: Case) -> Callable[[Arguments], Any]:
    network = _network(case)

    def forward(a: Arguments) -> Any:
        return network(a["weights"], a["inputs"], a["state"], a["lengths"])

    return forward


def _train(case: Case) -> Callable[[Arguments], Any]:
    network = _network(case)

    def train(a: Arguments) -> Any:
        def outputs_and_state(weights: Any, inputs: Value, state: States) -> tuple[Value, States]:
            return network(weights, inputs, state, a["lengths"])

        (outputs, state), vjp = jax.vjp(outputs_and_state, a["weights"], a["inputs"], a["state"])
        d_weights, d_inputs, d_initial = vjp((a["d_outputs"], a["d_state"]))
        return outputs, state, d_inputs, d_weights, d_initial

    return train

"""What every JAX program has: a step's functions in jax.numpy, compiling, and results as host arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from unrollbench.backends import Listing, Memory
from unrollbench.backends.phases import Phases
from unrollbench.backends.step import Value
from unrollbench.case import Case
from unrollbench.tensors import Gradients, Outputs

Arguments = dict[str, Any]
"""inputs, lengths, state, weights and, in train mode, d_outputs and d_state, on the device."""


class JaxOps:
    """What a step needs, in jax.numpy."""

    sigmoid = staticmethod(jax.nn.sigmoid)
    tanh = staticmethod(jnp.tanh)
    matmul = staticmethod(jnp.matmul)
    where = staticmethod(jnp.where)
    zeros_like = staticmethod(jnp.zeros_like)

    @staticmethod
    def affine(x: Value, h: Value, kernel: Value, bias: Value) -> Value:
        # One product: two, of x and of h, were as slow or slower in all but one of a dozen shapes and modes tried.
        return jnp.concatenate([x, h], axis=1) @ kernel + bias

    @staticmethod
    def split(x: Value, parts: int) -> list[Value]:
        return jnp.split(x, parts, axis=1)  # type: ignore[no-any-return]

    @staticmethod
    def clip(x: Value, bound: float) -> Value:
        return jnp.clip(x, -bound, bound)


OPS = JaxOps()


class CompilationCounter:
    """How many programs XLA has compiled in this process since this module was loaded."""

    count = 0

    def __call__(self, event: str, duration_s: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


compilations = CompilationCounter()
jax.monitoring.register_event_duration_secs_listener(compilations)


class Program:
    """What the programs have in common: results on the device, and an account of one compiled step or sequence."""

    def __init__(self, case: Case, arguments: Arguments, phases: Phases) -> None:
        self._case, self._arguments = case, arguments
        self._phases = phases
        self._results: Any = None
        self._compiled: Any = None
        self.build_phases_s: Mapping[str, float] = phases

    def compile(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """The function, compiled for arguments like these, with the case's threads."""
        with self._phases("trace"):
            traced = jax.jit(function, **options).trace(*arguments)
        with self._phases("lower"):
            lowered = traced.lower()
        with self._phases("compile"):
            on_cpu = self._case.device == "cpu"
            return lowered.compile({"xla_cpu_multi_thread_eigen": self._case.threads > 1} if on_cpu else {})

    def synchronize(self) -> None:
        jax.block_until_ready(self._results)

    def outputs(self) -> Outputs:
        def host(tree: Any) -> Any:
            return jax.tree.map(np.asarray, tree)

        outputs, state, *gradients = host(self._results)
        if not gradients:
            return Outputs(outputs, state)
        d_inputs, d_weights, d_state = gradients
        return Outputs(outputs, state, Gradients(d_inputs, d_weights, d_state))

    def compilations(self) -> int:
        return compilations.count

    def memory(self) -> Memory:
        weights = jax.tree.leaves(self._arguments["weights"])
        analysis = self._compiled.memory_analysis()
        workspace = None if analysis is None else int(analysis.temp_size_in_bytes)
        device = jax.devices()[0].memory_stats() or {}  # there are none on the CPU
        return Memory(
            weight_bytes=sum(array.nbytes for array in weights),
            workspace_bytes=workspace,
            device_bytes=device.get("bytes_in_use"),
            device_peak_bytes=device.get("peak_bytes_in_use"),
        )

    def listing(self) -> Listing:
        """The program as XLA compiled it, after all of its passes; graph_nodes counts the instructions."""
        source = self._compiled.as_text()
        return Listing(source, graph_nodes=sum(" = " in line for line in source.splitlines()))

    def close(self) -> None:
        self._results = self._compiled = None
        self._arguments = {}

"""JAX: `lax.scan` with `unroll`, a Python loop traced under `jit`, and a Python loop over one compiled step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unrollbench.backends import Listing, Memory, limits
from unrollbench.backends.phases import Phases
from unrollbench.backends.step import States, Value, stack_step
from unrollbench.case import Case
from unrollbench.tensors import Array, Gradients, Outputs, Tensors

try:
    import jax
    import jax.extend.backend
    import jaxlib
    from jax import lax
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError(f"{error}; install it with: pip install 'unrollbench[jax]'") from error

Arguments = dict[str, Any]
"""inputs, lengths, state, weights and, in train mode, d_outputs and d_state, on the device."""


class JaxScan:
    """dynamic: `lax.scan(unroll=k)`; static: a Python loop under one `jit`; stepwise: one compiled step."""

    name = "jax"
    versions: Mapping[str, str] = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}

    def why_not(self, case: Case) -> str | None:
        return limits.jax(case)

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


class _JaxOps:
    """What a step needs, in jax.numpy."""

    sigmoid = staticmethod(jax.nn.sigmoid)
    tanh = staticmethod(jnp.tanh)
    matmul = staticmethod(jnp.matmul)
    where = staticmethod(jnp.where)
    zeros_like = staticmethod(jnp.zeros_like)

    @staticmethod
    def affine(x: Value, h: Value, kernel: Value, bias: Value) -> Value:
        return jnp.concatenate([x, h], axis=1) @ kernel + bias

    @staticmethod
    def split(x: Value, parts: int) -> list[Value]:
        return jnp.split(x, parts, axis=1)  # type: ignore[no-any-return]

    @staticmethod
    def clip(x: Value, bound: float) -> Value:
        return jnp.clip(x, -bound, bound)


_OPS = _JaxOps()


class JaxProgram:
    """One compiled executable that runs the whole sequence, and in train mode its gradients."""

    def __init__(self, case: Case, arguments: Arguments, phases: Phases) -> None:
        self._arguments = arguments
        function = jax.jit(_train(case) if case.mode == "train" else _forward(case))
        self._lowered, self._compiled = _compile(function, (arguments,), phases)
        self._results: Any = None
        self.build_phases_s: Mapping[str, float] = phases

    def run(self) -> None:
        self._results = self._compiled(self._arguments)

    def synchronize(self) -> None:
        jax.block_until_ready(self._results)

    def outputs(self) -> Outputs:
        outputs, state = self._results[:2]
        return _canonical(outputs, state, *self._results[2:])

    def compilations(self) -> int:
        return _compilations.count

    def memory(self) -> Memory:
        return _memory(self._arguments["weights"], self._compiled)

    def listing(self) -> Listing:
        return _listing(self._lowered)

    def close(self) -> None:
        self._results = self._compiled = None
        self._arguments = {}


class JaxStepProgram:
    """A Python loop that calls one compiled step of all layers; in train mode another one backwards.

    The step writes its output into a donated (T,B,P) buffer and picks its input by a step number that is data, so that
    nothing but the step (and the clearing of the buffers) is ever compiled.
    """

    def __init__(self, case: Case, arguments: Arguments, phases: Phases) -> None:
        self._train = case.mode == "train"
        self._arguments = arguments
        self._steps = [jnp.asarray(t, jnp.int32) for t in range(case.sequence_length)]
        self._results: Any = None
        inputs, state, weights = arguments["inputs"], arguments["state"], arguments["weights"]

        self._lowered, self._clear = _compile(jax.jit(lambda: _buffers(case, arguments)), (), phases)
        outputs, *accumulators = self._clear()
        step = jax.jit(_step_and_residuals(case) if self._train else _step(case), donate_argnums=4)
        forward = (weights, inputs, self._steps[0], state, outputs, arguments["lengths"])
        self._lowered, self._step = _compile(step, forward, phases)
        if self._train:
            residuals = self._lowered.out_info[2]
            backward = jax.jit(_step_backward(case), donate_argnums=4)
            cotangents = (residuals, arguments["d_outputs"], self._steps[0], arguments["d_state"], tuple(accumulators))
            _, self._backward = _compile(backward, cotangents, phases)
        self.build_phases_s: Mapping[str, float] = phases

    def run(self) -> None:
        a = self._arguments
        outputs, *accumulators = self._clear()
        state, saved = a["state"], []
        for t in self._steps:
            outputs, state, *residuals = self._step(a["weights"], a["inputs"], t, state, outputs, a["lengths"])
            saved.extend(residuals)
        self._results = outputs, state
        if self._train:
            d_state, sums = a["d_state"], tuple(accumulators)
            for t in reversed(self._steps):
                d_state, sums = self._backward(saved.pop(), a["d_outputs"], t, d_state, sums)
            d_weights, d_inputs = sums
            self._results = outputs, state, d_inputs, d_weights, d_state

    def synchronize(self) -> None:
        jax.block_until_ready(self._results)

    def outputs(self) -> Outputs:
        outputs, state = self._results[:2]
        return _canonical(outputs, state, *self._results[2:])

    def compilations(self) -> int:
        return _compilations.count

    def memory(self) -> Memory:
        return _memory(self._arguments["weights"], self._step)

    def listing(self) -> Listing:
        return _listing(self._lowered)

    def close(self) -> None:
        self._results = self._step = self._backward = self._clear = None
        self._arguments = {}


class _CompilationCounter:
    """How many programs XLA has compiled in this process since this module was loaded."""

    count = 0

    def __call__(self, event: str, duration_s: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


_compilations = _CompilationCounter()
jax.monitoring.register_event_duration_secs_listener(_compilations)


def _configure(case: Case) -> None:
    """A CPU client with the case's threads, no compilation cache, and float64 exactly where the case asks for it."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    if os.environ.get("NPROC") != str(case.threads):
        # XLA sizes a CPU client's thread pool by NPROC, once, when the client is made.
        os.environ["NPROC"] = str(case.threads)
        jax.extend.backend.clear_backends()
    jax.clear_caches()
    jax.devices()


def _compile(function: Any, arguments: tuple[Any, ...], phases: Phases) -> tuple[Any, Any]:
    """The lowered and the compiled function."""
    with phases("trace"):
        traced = function.trace(*arguments)
    with phases("lower"):
        lowered = traced.lower()
    with phases("compile"):
        return lowered, lowered.compile()


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
            output, state = stack_step(_OPS, case, weights, x, state, running)
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


def _buffers(case: Case, arguments: Arguments) -> tuple[Any, ...]:
    """Cleared outputs and, in train mode, the accumulators of the weights' and the inputs' gradients."""
    inputs = arguments["inputs"]
    outputs = jnp.zeros((*inputs.shape[:2], case.layer_shapes[-1][2]), inputs.dtype)
    if case.mode == "forward":
        return (outputs,)
    return outputs, jax.tree.map(jnp.zeros_like, arguments["weights"]), jnp.zeros_like(inputs)


def _one_step(case: Case) -> Callable[..., tuple[Value, States]]:
    def one_step(weights: Any, x: Value, state: States, running: Value) -> tuple[Value, States]:
        return stack_step(_OPS, case, weights, x, state, running)

    return one_step


def _pick(case: Case, inputs: Value, t: Value, lengths: Value) -> tuple[Value, Value]:
    x = lax.dynamic_index_in_dim(inputs, t, 0 if case.time_major else 1, keepdims=False)
    return x, None if lengths is None else (t < lengths)[:, None]


def _put(case: Case, buffer: Value, value: Value, t: Value) -> Value:
    return lax.dynamic_update_index_in_dim(buffer, value, t, 0 if case.time_major else 1)


def _step(case: Case) -> Callable[..., Any]:
    one_step = _one_step(case)

    def step(weights: Any, inputs: Value, t: Value, state: States, outputs: Value, lengths: Value) -> Any:
        x, running = _pick(case, inputs, t, lengths)
        output, state = one_step(weights, x, state, running)
        return _put(case, outputs, output, t), state

    return step


def _step_and_residuals(case: Case) -> Callable[..., Any]:
    one_step = _one_step(case)

    def step(weights: Any, inputs: Value, t: Value, state: States, outputs: Value, lengths: Value) -> Any:
        x, running = _pick(case, inputs, t, lengths)
        (output, state), vjp = jax.vjp(lambda w, x, s: one_step(w, x, s, running), weights, x, state)
        return _put(case, outputs, output, t), state, vjp

    return step


def _step_backward(case: Case) -> Callable[..., Any]:
    def backward(vjp: Any, d_outputs: Value, t: Value, d_state: States, sums: tuple[Any, Value]) -> Any:
        d_output, _ = _pick(case, d_outputs, t, None)
        d_weights, d_x, d_state = vjp((d_output, d_state))
        return d_state, (jax.tree.map(jnp.add, sums[0], d_weights), _put(case, sums[1], d_x, t))

    return backward


def _canonical(outputs: Value, state: States, *gradients: Any) -> Outputs:
    def host(tree: Any) -> Any:
        return jax.tree.map(np.asarray, tree)

    if not gradients:
        return Outputs(np.asarray(outputs), host(state))
    d_inputs, d_weights, d_initial = gradients
    return Outputs(np.asarray(outputs), host(state), Gradients(np.asarray(d_inputs), host(d_weights), host(d_initial)))


def _memory(weights: Any, compiled: Any) -> Memory:
    leaves: list[Array] = jax.tree.leaves(weights)
    analysis = compiled.memory_analysis()
    workspace = None if analysis is None else int(analysis.temp_size_in_bytes)
    return Memory(weight_bytes=sum(leaf.nbytes for leaf in leaves), workspace_bytes=workspace)


def _listing(lowered: Any) -> Listing:
    """The StableHLO before XLA's passes; graph_nodes counts its operations."""
    source = lowered.as_text()
    return Listing(source, graph_nodes=sum(" = " in line for line in source.splitlines()))

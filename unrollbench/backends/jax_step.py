"""JAX, stepwise: a Python loop over one compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from unrollbench.backends.jax_program import OPS, Arguments, Program
from unrollbench.backends.phases import Phases
from unrollbench.backends.step import States, Value, stack_step
from unrollbench.case import Case


class JaxStepProgram(Program):
    """A Python loop that calls one compiled step of all layers; in train mode another one backwards.

    The step writes its output into a donated buffer and picks its input by a step number that is data, so that nothing
    but the step (and the clearing of the buffers) is ever compiled.
    """

    def __init__(self, case: Case, arguments: Arguments, phases: Phases) -> None:
        super().__init__(case, arguments, phases)
        a, self._steps = arguments, [jnp.asarray(t, jnp.int32) for t in range(case.sequence_length)]
        self._clear = self.compile(lambda: _buffers(case, arguments))
        outputs, *accumulators = self._clear()
        forward = a["weights"], a["inputs"], self._steps[0], a["state"], outputs, a["lengths"]
        if case.mode == "forward":
            self._compiled = self.compile(_step(case), *forward, donate_argnums=4)
            return
        self._compiled = self.compile(_step_and_residuals(case), *forward, donate_argnums=4)
        _, _, residuals = self._compiled(*forward)
        backward = residuals, a["d_outputs"], self._steps[0], a["d_state"], tuple(accumulators)
        self._backward = self.compile(_step_backward(case), *backward, donate_argnums=4)

    def run(self) -> None:
        a = self._arguments
        outputs, *accumulators = self._clear()
        state, saved = a["state"], []
        for t in self._steps:
            outputs, state, *residuals = self._compiled(a["weights"], a["inputs"], t, state, outputs, a["lengths"])
            saved.extend(residuals)
        self._results = outputs, state
        if self._case.mode == "train":
            d_state, sums = a["d_state"], tuple(accumulators)
            for t in reversed(self._steps):
                d_state, sums = self._backward(saved.pop(), a["d_outputs"], t, d_state, sums)
            d_weights, d_inputs = sums
            self._results = outputs, state, d_inputs, d_weights, d_state

    def close(self) -> None:
        super().close()
        self._clear = self._backward = None


def _buffers(case: Case, arguments: Arguments) -> tuple[Any, ...]:
    """Cleared outputs and, in train mode, the accumulators of the weights' and the inputs' gradients."""
    inputs = arguments["inputs"]
    outputs = jnp.zeros((*inputs.shape[:2], case.layer_shapes[-1][2]), inputs.dtype)
    if case.mode == "forward":
        return (outputs,)
    return outputs, jax.tree.map(jnp.zeros_like, arguments["weights"]), jnp.zeros_like(inputs)


def _one_step(case: Case) -> Callable[..., tuple[Value, States]]:
    def one_step(weights: Any, x: Value, state: States, running: Value) -> tuple[Value, States]:
        return stack_step(OPS, case, weights, x, state, running)

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

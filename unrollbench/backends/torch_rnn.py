"""PyTorch: a cell loop, eager or under `torch.compile`, the `scan` operator, `torch.nn`'s fused layers (cuDNN's)."""

from __future__ import annotations

import functools
import inspect
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from unrollbench.backends import Listing, Memory, limits, torch_cuda
from unrollbench.backends.phases import Phases
from unrollbench.backends.step import States, Value, stack_step
from unrollbench.backends.torch_compile import Compiler, cold_caches, import_compiler
from unrollbench.backends.torch_library import Library, OwnsLoop
from unrollbench.case import Case
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors

Network = Callable[[Any, Value, Any, Value], tuple[Value, Any]]
"""(weights, inputs, state, lengths) -> (outputs, state); weights and state are trees of tensors."""


class TorchRnn:
    """stepwise: the eager loop; static: that loop compiled; dynamic: `scan`, compiled; library: nn.RNN and nn.LSTM."""

    name = "torch"
    versions: Mapping[str, str] = {"torch": torch.__version__}

    def why_not(self, case: Case) -> str | None:
        reason = limits.torch(case)
        if reason is None and case.device == "cuda":
            reason = torch_cuda.why_not(case)
        if reason or case.execution in ("stepwise", "library"):
            return reason
        if case.execution == "dynamic" and _scan_operator() is None:
            return f"torch {torch.__version__} has no scan operator; it came with torch 2.6"
        if shutil.which(os.environ.get("CXX", "g++")) is None:
            return "torch.compile needs a C++ compiler; install g++ or set CXX"
        return None

    def build(self, case: Case, tensors: Tensors) -> TorchProgram:
        """Compiled with empty caches and called once, except the eager loop and the library: they compile nothing."""
        case = case.canonical()
        torch.set_num_threads(case.threads)
        phases = Phases()
        if case.device == "cuda":
            with phases("device"):
                torch_cuda.configure(case)
        with phases("inputs"):
            library = Library(case, tensors.weights) if case.execution == "library" else None
            lengths = None if tensors.lengths is None else torch.from_numpy(tensors.lengths)
            if lengths is not None and library is None:  # packing a batch wants its lengths on the processor
                lengths = lengths.to(case.device)
            network = _network(case) if library is None else library.network
            leaves = leaves_of(case, tensors, library)
            cotangents = cotangents_of(case, tensors, library)
        kind = TorchProgram if case.device == "cpu" else TorchCudaProgram
        program = kind(case, network, leaves, lengths, cotangents, library, phases)
        if case.execution in ("static", "dynamic"):
            program.compile(phases)
        return program


class _TorchOps:
    """What a step needs, in torch."""

    sigmoid = staticmethod(torch.sigmoid)
    tanh = staticmethod(torch.tanh)
    matmul = staticmethod(torch.mm)
    where = staticmethod(torch.where)
    zeros_like = staticmethod(torch.zeros_like)

    @staticmethod
    def affine(x: Value, h: Value, kernel: Value, bias: Value) -> Value:
        return torch.addmm(bias, torch.cat((x, h), 1), kernel)

    @staticmethod
    def split(x: Value, parts: int) -> tuple[Value, ...]:
        return torch.chunk(x, parts, 1)  # type: ignore[no-any-return]

    @staticmethod
    def clip(x: Value, bound: float) -> Value:
        return torch.clamp(x, -bound, bound)


_OPS = _TorchOps()


class TorchProgram:
    """A network with its tensors; a train run is the forward pass and one call of `torch.autograd.grad`."""

    def __init__(
        self,
        case: Case,
        network: Network,
        leaves: dict[str, Any],
        lengths: Value,
        cotangents: list[Value],
        library: OwnsLoop | None,
        phases: Phases,
    ) -> None:
        self._case, self._leaves, self._lengths, self._cotangents = case, leaves, lengths, cotangents
        self._network, self._library = network, library
        self._wanted, self._structure = tree_flatten(leaves)
        self._results: tuple[Any, ...] = ()
        self._compiler = Compiler()
        self.build_phases_s: Mapping[str, float] = phases

    def compile(self, phases: Phases) -> None:
        """Compiles the network, forward and backward, by calling it once, which is the only way."""
        self._network = torch.compile(self._network, backend=self._compiler, fullgraph=True, dynamic=False)
        with phases("import_compiler"):
            import_compiler()
        with cold_caches(self._case.threads), self._compiler.collecting():
            with phases("trace"):
                results = self._forward()
            phases["compile"] = self._compiler.seconds
            phases["trace"] -= self._compiler.seconds
            if self._case.mode == "train":
                with phases("compile_backward"):
                    self._gradients(*results)

    def run(self) -> None:
        results = self._forward()
        self._results = results if self._case.mode == "forward" else (*results, self._gradients(*results))

    def _forward(self) -> tuple[Value, Any]:
        leaves = self._leaves
        with torch.set_grad_enabled(self._case.mode == "train"):
            return self._network(leaves["weights"], leaves["inputs"], leaves["state"], self._lengths)

    def _gradients(self, outputs: Value, state: Any) -> Any:
        results = [outputs, *tree_leaves(state)]
        return torch.autograd.grad(results, self._wanted, self._cotangents, allow_unused=True, materialize_grads=True)

    def synchronize(self) -> None:
        """Nothing to wait for: torch's CPU operators have finished when they return."""

    def outputs(self) -> Outputs:
        outputs, state, *gradients = self._results
        if not gradients:
            return Outputs(_host(outputs), self._canonical_state(state))
        tree = tree_unflatten(list(gradients[0]), self._structure)
        weights = tree_map(_host, tree["weights"])
        d_weights = self._library.canonical_weights(weights) if self._library else tuple(weights)
        d_initial = self._canonical_state(tree["state"])
        return Outputs(
            _host(outputs), self._canonical_state(state), Gradients(_host(tree["inputs"]), d_weights, d_initial)
        )

    def _canonical_state(self, state: Any) -> tuple[State, ...]:
        hosts = tree_map(_host, state)
        return self._library.canonical_state(hosts) if self._library else tuple(tuple(layer) for layer in hosts)

    def compilations(self) -> int:
        return self._compiler.graphs

    def memory(self) -> Memory:
        return Memory(weight_bytes=sum(leaf.nbytes for leaf in tree_leaves(self._leaves["weights"])))

    def listing(self) -> Listing:
        if self._library is not None:
            return Listing(self._library.source())
        if self._compiler.graphs:
            return Listing("\n".join(self._compiler.sources), graph_nodes=self._compiler.graph_nodes)
        return Listing(inspect.getsource(_loop) + "\n\n" + inspect.getsource(stack_step))

    def close(self) -> None:
        self._results, self._leaves, self._wanted = (), {}, []
        if self._compiler.graphs:
            torch._dynamo.reset()


class TorchCudaProgram(TorchProgram):
    """The same with all of its tensors on the GPU: what is called returns early, and is timed by events."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._meter = torch_cuda.Meter()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
        return self._meter.event_s(self.run, runs, cold)

    def memory(self) -> Memory:
        return self._meter.memory(super().memory().weight_bytes)


def _scan_operator() -> Callable[..., Any] | None:
    try:
        from torch._higher_order_ops.scan import scan
    except ImportError:
        return None
    return scan  # type: ignore[no-any-return]


def _network(case: Case) -> Network:
    return functools.partial(_scan if case.execution == "dynamic" else _loop, case)


def _loop(case: Case, weights: Any, inputs: Value, state: States, lengths: Value) -> tuple[Value, States]:
    """The loop in Python: run as it is, it is stepwise; under torch.compile, every step becomes code of its own."""
    time_axis = 0 if case.time_major else 1
    outputs = []
    for t, x in enumerate(inputs.unbind(time_axis)):
        running = None if lengths is None else (t < lengths).unsqueeze(1)
        output, state = stack_step(_OPS, case, weights, x, state, running)
        outputs.append(output)
    return torch.stack(outputs, time_axis), state


def _scan(case: Case, weights: Any, inputs: Value, state: States, lengths: Value) -> tuple[Value, States]:
    """torch's scan operator over the steps; the carry and the output are cloned because scan forbids them to alias."""
    time_axis = 0 if case.time_major else 1
    scan = _scan_operator()
    assert scan is not None, "why_not refuses the case without it"

    def step(state: States, at: tuple[Value, Value]) -> tuple[States, Value]:
        x, t = at
        running = None if lengths is None else (t < lengths).unsqueeze(1)
        output, state = stack_step(_OPS, case, weights, x, state, running)
        return tuple(tuple(part.clone() for part in layer) for layer in state), output.clone()

    steps = torch.arange(case.sequence_length, device=inputs.device)
    state, outputs = scan(step, state, (inputs.movedim(time_axis, 0), steps))
    return outputs.movedim(0, time_axis).contiguous(), state


def leaves_of(case: Case, tensors: Tensors, library: OwnsLoop | None) -> dict[str, Any]:
    """The tensors that gradients are taken for, each with memory of its own."""
    arrays: dict[str, Any] = {"weights": tensors.weights, "inputs": tensors.inputs, "state": tensors.initial_state}
    if library is not None:
        arrays |= {"weights": None, "state": library.stack_state(tensors.initial_state)}

    def leaf(array: Array | None) -> Value:
        if array is None:
            return None
        return torch.from_numpy(np.array(array)).to(case.device).requires_grad_(case.mode == "train")

    leaves: dict[str, Any] = tree_map(leaf, arrays)
    if library is not None:
        leaves["weights"] = library.parameters()
    return leaves


def cotangents_of(case: Case, tensors: Tensors, library: OwnsLoop | None) -> list[Value]:
    """The cotangents of the outputs and of each array of the state, in the order of the program's results."""
    if case.mode == "forward":
        return []
    d_state: Any = tensors.d_state
    if library is not None:
        d_state = library.stack_state(d_state)
    return [torch.from_numpy(np.array(array)).to(case.device) for array in tree_leaves((tensors.d_outputs, d_state))]


def _host(tensor: Value) -> Array:
    return tensor.detach().cpu().numpy()  # type: ignore[no-any-return]

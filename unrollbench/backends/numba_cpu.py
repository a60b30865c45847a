"""Backend `numba_cpu`: unrollbench's own kernels on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import llvmlite
import numba
import numpy as np
import numpy.typing as npt

from unrollbench import graph
from unrollbench.backends import Listing, Memory
from unrollbench.case import Case
from unrollbench.cells import LayerSpec
from unrollbench.kernels.buffers import Buffers
from unrollbench.kernels.build import Phases
from unrollbench.kernels.network import NetworkSpec, compile_network
from unrollbench.kernels.threads import Team
from unrollbench.schedule import Schedule, of_case, schedule
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors, Weights


class NetworkProgram:
    """A compiled stack of layers with its weights, buffers and threads.

    Inputs are (T,B,I) if time_major, else (B,T,I), C-contiguous, of the program's dtype. T may change from call to call
    unless the program is static. Results are new arrays that the caller owns.
    """

    def __init__(self, spec: NetworkSpec, planned: Schedule) -> None:
        phases = Phases()
        self.network = compile_network(spec, planned, phases)
        with phases.measure("allocate"):
            self._buffers = Buffers(self.network)
            self._team = Team(spec.threads)
        self.build_phases_s: Mapping[str, float] = phases.seconds
        self._phases = phases
        self._inputs: Array | None = None
        self._d_outputs: Array | None = None
        self._spent = False

    # ------------------------------------------------------------ what to compute with

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Packs copies of the weights (TensorFlow's names and layouts, one dict per layer)."""
        with self._phases.measure("pack"):
            self._buffers.set_weights(weights)

    def set_inputs(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> None:
        """Points the program at the inputs, which it never writes and which must live as long as it runs."""
        spec, buffers = self.network.spec, self._buffers
        steps = inputs.shape[0 if spec.time_major else 1]
        buffers.resize(steps)
        self._inputs = inputs
        buffers.point(0, "x" if spec.time_major else "x_user", inputs)
        buffers.lengths[:] = steps if lengths is None else lengths
        buffers.set_all("limit", int(buffers.lengths.max()))
        buffers.set_states("initial_", initial_state)

    def set_cotangents(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> None:
        """Sets the gradients that the backward pass starts from; None is zero."""
        spec, buffers, top = self.network.spec, self._buffers, len(self._buffers.layers) - 1
        if d_outputs is None:
            size = buffers.layers[top].layout.spec.output_size
            leading = (buffers.steps, spec.batch_size) if spec.time_major else (spec.batch_size, buffers.steps)
            d_outputs = np.zeros((*leading, size), spec.dtype)
        self._d_outputs = d_outputs
        copied = self.network.pads_gradients or not spec.time_major
        buffers.point(top, "d_out_user" if copied else "d_out", d_outputs)
        buffers.set_states("d_final_", d_state)

    # ------------------------------------------------------------ running

    def run_forward(self) -> None:
        """Computes outputs and final state from the inputs set last."""
        self._spent = False
        self._run("forward", ("begin", "step", "finish"), range(int(self._buffers.lengths.max())))

    def run_backward(self) -> None:
        """Computes all gradients of the last forward run, once: it overwrites the saved activations."""
        self._spent = True
        steps = reversed(range(int(self._buffers.lengths.max())))
        self._run("backward", ("begin_backward", "back_step", "finish_backward"), steps)

    def _run(self, whole: str, parts: tuple[str, str, str], steps: Sequence[int] | reversed[int]) -> None:
        entries, frames = self.network.entries, self._buffers.frames
        if whole in entries:
            self._team.run(entries[whole].address, frames)
            return
        begin, step, finish = (entries[name].address for name in parts)
        field = self.network.layouts[0].fields["t"] // 8
        self._team.run(begin, frames)
        for t in steps:
            frames[:, 0, field] = t
            self._team.run(step, frames)
        self._team.run(finish, frames)

    # ------------------------------------------------------------ results

    def outputs(self) -> Array:
        """(T,B,P) or (B,T,P), a copy."""
        top = self._buffers.layers[-1]
        if not self.network.spec.time_major:
            return top["out_user"].copy()
        return np.ascontiguousarray(top["h"][1:, :, : top.layout.spec.output_size])

    def final_state(self) -> tuple[State, ...]:
        """Per layer the state arrays after each row's last step, copies."""
        rows, lengths = np.arange(self.network.spec.batch_size), self._buffers.lengths
        found = []
        for buffers in self._buffers.layers:
            arrays = buffers.layout.arrays
            slots = {name: lengths if arrays[name].slots == "time" else 0 for name in buffers.layout.cell.state}
            found.append(tuple(buffers[n][slots[n], rows, : arrays[n].size] for n in buffers.layout.cell.state))
        return tuple(found)

    def gradients(self) -> Gradients:
        """Gradients after `run_backward`, copies in TensorFlow's layouts."""
        bottom = self._buffers.layers[0]
        inputs = bottom["d_x"][:, :, : bottom.layout.spec.input_size] if self.network.spec.time_major else bottom["d_x_user"]
        states = tuple(
            tuple(b[f"d_{n}"][:, : b.layout.size(n)].copy() for n in b.layout.cell.state) for b in self._buffers.layers
        )
        weights = tuple(self._weight_gradients(layer) for layer in range(len(self._buffers.layers)))
        return Gradients(np.ascontiguousarray(inputs).copy(), weights, states)

    def _weight_gradients(self, layer: int) -> Weights:
        buffers, found = self._buffers.layers[layer], {}
        for s in buffers.layout.stages:
            def unpad(array: Array, units: int = s.units, gates: int = len(s.stage.gates)) -> Array:
                return array.reshape(len(array), gates, -1)[:, :, :units].reshape(len(array), gates * units)

            parts = [unpad(buffers[f"d_{name}_{s.index}"]) for name in ("W_x", "W_h")]
            found[s.stage.kernel] = np.concatenate(parts)
            if s.stage.bias is not None:
                found[s.stage.bias] = unpad(buffers[f"d_bias_{s.index}"])[0].copy()
            found |= {name: buffers[f"d_{name}"][:, : s.units].sum(axis=0) for name in s.stage.diagonals}
        return found

    # ------------------------------------------------------------ the rnn face's view

    def forward(
        self,
        inputs: Array,
        lengths: npt.NDArray[np.int64] | None = None,
        initial_state: Sequence[State] | None = None,
    ) -> tuple[Array, tuple[State, ...]]:
        """(outputs, final state per layer) of the inputs."""
        self.set_inputs(np.ascontiguousarray(inputs), lengths, initial_state)
        self.run_forward()
        return self.outputs(), self.final_state()

    def backward(self, d_outputs: Array | None = None, d_state: Sequence[State] | None = None) -> Gradients:
        """Gradients of the last `forward`, once more for other cotangents if called again (that runs `forward` again)."""
        if self._spent:
            self.run_forward()
        self.set_cotangents(None if d_outputs is None else np.ascontiguousarray(d_outputs), d_state)
        self.run_backward()
        return self.gradients()

    # ------------------------------------------------------------ what it is

    def listing(self) -> Listing:
        """The drivers' text, the machine code's size, and the program as a dataflow graph."""
        drawn = graph.draw(self.network.schedule)
        source = "\n".join(self.network.texts.values())
        return Listing(source, drawn.nodes_count, self.network.code_bytes, drawn.dot())

    def memory(self) -> Memory:
        """Bytes of the program's own buffers."""
        b = self._buffers
        return Memory(b.weight_bytes, b.workspace_bytes, b.saved_bytes)

    def close(self) -> None:
        """Ends the threads."""
        self._team.close()


def build_program(
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
) -> NetworkProgram:
    """A compiled stack of layers, still without weights; cells may differ from layer to layer."""
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
    return NetworkProgram(spec, planned)


class CaseProgram:
    """A case's program with its tensors in place (see `unrollbench.backends.Program`)."""

    def __init__(self, case: Case, tensors: Tensors) -> None:
        layers = tuple(LayerSpec(case.cell, case.cell_options, i, units) for i, units, _ in case.layer_shapes)
        swap = bool(case.canonical().swap_memory)
        train = case.mode == "train"
        spec = NetworkSpec(layers, case.dtype, case.batch_size, train, case.time_major, swap, case.threads)
        self._program = NetworkProgram(spec, of_case(case))
        self._program.set_weights(tensors.weights)
        self._program.set_inputs(tensors.inputs, tensors.lengths, tensors.initial_state)
        if train:
            self._program.set_cotangents(tensors.d_outputs, tensors.d_state)
        self._train = train
        self.build_phases_s = self._program.build_phases_s
        self.memory, self.listing, self.close = self._program.memory, self._program.listing, self._program.close

    def run(self) -> None:
        self._program.run_forward()
        if self._train:
            self._program.run_backward()

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when the results are in memory."""

    def outputs(self) -> Outputs:
        gradients = self._program.gradients() if self._train else None
        return Outputs(self._program.outputs(), self._program.final_state(), gradients)


class NumbaCpu:
    """Runs every cell, mode and execution but `library`, which is for operators that own their loop."""

    name = "numba_cpu"
    versions: Mapping[str, str] = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}

    def why_not(self, case: Case) -> str | None:
        """Why the case cannot run here, or None."""
        if case.device != "cpu":
            return f"numba_cpu runs on device 'cpu', not {case.device!r}"
        if case.execution == "library":
            return "numba_cpu has no fused operator; execution 'library' is for frameworks that have one"
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if case.threads > processors:
            return f"threads = {case.threads}, but this process may use {processors} processor(s)"
        return None

    def build(self, case: Case, tensors: Tensors) -> CaseProgram:
        """A program for the case; everything is compiled and packed when this returns."""
        return CaseProgram(case, tensors)

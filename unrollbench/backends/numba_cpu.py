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
from unrollbench.case import DTYPES, Case
from unrollbench.kernels import pack, pairs
from unrollbench.kernels.buffers import Buffers, order
from unrollbench.kernels.build import Kernel, Phases
from unrollbench.kernels.network import compile_network
from unrollbench.kernels.spec import NetworkSpec, spec_of
from unrollbench.kernels.threads import Team
from unrollbench.roofline import MATRIX_UNIT
from unrollbench.schedule import Schedule, of_case
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors, Weights

BRIEF_MULTIPLIES, STEP_MULTIPLIES = 60_000_000, 20_000
"""Multiply-adds of float32 that take some hundreds of microseconds, or a few milliseconds where weights come from
memory. A step of a layer counts for as many beside its own: it has equations and a barrier."""


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
        with phases.compiling():  # the first team of several threads compiles what its threads run
            self._team = Team(spec.threads)
        self.build_phases_s: Mapping[str, float] = phases.seconds
        self._phases = phases
        self._spent = False
        stages = [(layout, s) for layout in self.network.layouts for s in layout.stages]
        weights = sum(layout.kernel_rows(s) * s.columns * layout.width // DTYPES["float32"] for layout, s in stages)
        multiplies = spec.batch_size * weights + STEP_MULTIPLIES * len(self.network.layouts)
        self._step_multiplies = (1 + spec.train) * multiplies  # a backward step has twice those of a forward one

    # ------------------------------------------------------------ what to compute with

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Packs copies of the weights (TensorFlow's names and layouts, one dict per layer)."""
        with self._phases.measure("pack"):
            self._buffers.set_weights(weights)

    def set_inputs(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> None:
        """Points the program at inputs and state, which it never writes, and keeps.

        Runs see what is written to them later, but for a state of another dtype or order, which is copied now. Raises
        ValueError where T is not what a static program was built for, lengths are not (B,) or not in 0..T, or a state
        has another shape than (B, size); then nothing changes. After a MemoryError nothing can run until the next call.
        """
        time_major, buffers = self.network.spec.time_major, self._buffers
        steps, built_for = inputs.shape[0 if time_major else 1], self.network.schedule.max_time
        if built_for is not None and steps != built_for:
            raise ValueError(f"inputs: {steps} time steps, but this static program was built for {built_for}")
        if lengths is not None and lengths.shape != buffers.lengths.shape:
            raise ValueError(f"lengths: shape {lengths.shape}, expected {buffers.lengths.shape}")
        if lengths is not None and not 0 <= lengths.min() <= lengths.max() <= steps:
            raise ValueError(
                f"lengths: {lengths.min()} to {lengths.max()}, expected 0 to {steps}, the time steps of inputs"
            )
        buffers.point_state("", initial_state)
        buffers.count_pairs_anew()
        buffers.resize(steps)
        self._inputs = inputs
        if time_major:
            buffers.point_rows(0, "x", inputs)
        buffers.lengths[:] = steps if lengths is None else lengths
        self._limit = int(buffers.lengths.max())
        buffers.set_all("limit", self._limit)
        self._brief = self._limit * self._step_multiplies < BRIEF_MULTIPLIES

    def set_cotangents(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> None:
        """Sets the gradients that the backward pass starts from, by reference as `set_inputs` does; None is zero.

        Raises ValueError where that of a state has another shape than (B, size).
        """
        self._check_inputs()
        self._buffers.point_state("d_", d_state)
        own = self._buffers.layers[-1]["d_out"]
        self._d_outputs = d_outputs
        self._copies_d_outputs = not self.network.spec.time_major or d_outputs is None or own.shape != d_outputs.shape
        target = own if self._copies_d_outputs or d_outputs is None else d_outputs
        self._buffers.point_rows(len(self._buffers.layers) - 1, "d_out", target)

    # ------------------------------------------------------------ running

    def _check_inputs(self) -> None:
        """Raises RuntimeError before the first inputs, and after a MemoryError: there are no arrays to run in."""
        if self._buffers.steps is None:
            raise RuntimeError("this program has no inputs: set_inputs was not called, or found no memory")

    def run_forward(self) -> None:
        """Computes outputs and final state from the inputs set last; batch-major ones are transposed here."""
        self._check_inputs()
        self._spent = False
        buffers, top = self._buffers, self._buffers.layers[-1]
        if not self.network.spec.time_major:
            buffers.layers[0]["x"][...] = self._inputs.transpose(1, 0, 2)
        self._run("forward", ("begin", "step"), range(self._limit))
        top["h"][self._limit + 1 :] = 0
        self._outputs = top["h"][1:, :, : top.layout.spec.output_size]
        if not self.network.spec.time_major:
            self._outputs = np.ascontiguousarray(self._outputs.transpose(1, 0, 2))

    def run_backward(self) -> None:
        """Computes all gradients of the last forward run, once: it overwrites the saved activations."""
        self._check_inputs()
        self._spent = True
        buffers, bottom, top = self._buffers, self._buffers.layers[0], self._buffers.layers[-1]
        if not self._limit:
            buffers.clear_gradients()
        if self._copies_d_outputs:
            self._copy_d_outputs(top["d_out"][:, :, : top.layout.spec.output_size])
        self._run("backward", ("begin_backward", "back_step"), range(self._limit - 1, -1, -1))
        if "d_weights" in self.network.entries:
            self._team.run(self.network.entries["d_weights"].address, buffers.frames)
        bottom["d_x"][self._limit :] = 0
        self._d_inputs = bottom["d_x"][:, :, : bottom.layout.spec.input_size]
        if not self.network.spec.time_major:
            self._d_inputs = np.ascontiguousarray(self._d_inputs.transpose(1, 0, 2))

    def _copy_d_outputs(self, target: Array) -> None:
        if self._d_outputs is None:
            target[...] = 0
        else:
            target[...] = self._d_outputs if self.network.spec.time_major else self._d_outputs.transpose(1, 0, 2)

    def _run(self, whole: str, single: tuple[str, str], steps: range) -> None:
        """Runs a whole pass at once, or its beginning and then step by step from here if the program is stepwise."""
        entries, frames = self.network.entries, self._buffers.frames
        if whole in entries:
            self._team.run(entries[whole].address, frames, brief=self._brief)
            return
        (begin, address), field = (entries[name].address for name in single), self.network.layouts[0].fields["t"] // 8
        with self._team.gathered():
            self._team.run(begin, frames)
            for t in steps:
                frames[:, 0, field] = t
                self._team.run(address, frames)

    # ------------------------------------------------------------ results

    def outputs(self) -> Array:
        """(T,B,P) or (B,T,P), a copy."""
        return np.array(self._outputs, order="C")

    def final_state(self) -> tuple[State, ...]:
        """Per layer the state arrays after each row's last step, copies."""
        lengths = self._buffers.lengths
        in_window = int(self._buffers.frames[0, 0, self.network.layouts[0].fields["window"] // 8])
        last = {"window": in_window, "single": 0, "two": self._limit & 1}
        slots = {"time": lengths} | {name: np.full_like(lengths, slot) for name, slot in last.items()}
        return tuple(
            tuple(b.rows(n, slots[b.layout.arrays[n].slots], b.layout.size(n)) for n in b.layout.cell.state)
            for b in self._buffers.layers
        )

    def gradients(self) -> Gradients:
        """Gradients after `run_backward`, copies in TensorFlow's layouts."""
        first = np.zeros_like(self._buffers.lengths)
        states = tuple(
            tuple(b.rows(f"d_{n}", first, b.layout.size(n)) for n in b.layout.cell.state) for b in self._buffers.layers
        )
        weights = tuple(self._weight_gradients(layer) for layer in range(len(self._buffers.layers)))
        return Gradients(np.array(self._d_inputs, order="C"), weights, states)

    def _weight_gradients(self, layer: int) -> Weights:
        buffers, found = self._buffers.layers[layer], {}
        for s in buffers.layout.stages:
            rows = pack.unpacked(buffers[f"d_kernel_{s.index}"], order(buffers.layout, s))
            found[s.stage.kernel] = rows[: buffers.layout.kernel_rows(s)].copy()
            if s.stage.bias is not None:
                found[s.stage.bias] = rows[-1].copy()
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
        """Gradients of the last `forward`, also again for other cotangents (that runs `forward` again)."""
        if self._spent:
            self.run_forward()
        self.set_cotangents(None if d_outputs is None else np.ascontiguousarray(d_outputs), d_state)
        self.run_backward()
        return self.gradients()

    # ------------------------------------------------------------ what it is

    def listing(self) -> Listing:
        """The drivers' text, the machine code's size, the program as a dataflow graph, and what multiplies."""
        drawn = graph.draw(self.network.schedule)
        source = "\n".join(self.network.texts.values())
        by = self._multiplied_by()
        return Listing(source, drawn.nodes_count, self.network.code_bytes, drawn.dot(), multiplied_by=by)

    def _multiplied_by(self) -> str:
        """What matrix products are made with: before the first run what is planned for, then what was done in runs."""
        layouts, (paired, unpaired) = self.network.layouts, self._buffers.paired
        if layouts[0].on_matrix_unit:
            return MATRIX_UNIT
        by, steps = f"vectors of {8 * layouts[0].width} bits", any(layout.steps_in_pairs for layout in layouts)
        if not (steps or any(layout.projects_in_pairs for layout in layouts)) or unpaired > paired == 0:
            return by
        by += (", forward" if self.network.spec.train else "") + (" in pairs" if steps else ", of inputs in pairs")
        few = steps and not all(layout.in_pairs(rows) for layout in layouts for rows, _ in layout.rows.sizes)
        few |= not all(layout.spec.input_size >= pairs.LEAST_DEPTH for layout in layouts)
        return by + (" where rows and numbers allow" if few or unpaired else "")

    def memory(self) -> Memory:
        """Bytes of the program's own buffers."""
        b = self._buffers
        return Memory(b.weight_bytes, b.workspace_bytes, b.saved_bytes)

    def close(self) -> None:
        """Ends the threads."""
        self._team.close()


class CaseProgram:
    """A case's program with its tensors in place (see `unrollbench.backends.Program`)."""

    def __init__(self, case: Case, tensors: Tensors) -> None:
        train = case.mode == "train"
        self._program = NetworkProgram(spec_of(case), of_case(case))
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

    def compilations(self) -> int:
        """Kernels that this process has compiled so far."""
        return Kernel.compiled

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
            return f"numba_cpu runs on device 'cpu', not {case.device!r}; backend 'numba_cuda' runs on a GPU"
        if case.execution == "library":
            return "numba_cpu has no fused operator; execution 'library' is for frameworks that have one"
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if case.threads > processors:
            return f"threads = {case.threads}, but this process may use {processors} processor(s)"
        return None

    def build(self, case: Case, tensors: Tensors) -> CaseProgram:
        """A program for the case; everything is compiled and packed when this returns."""
        return CaseProgram(case, tensors)

    def network(self, spec: NetworkSpec, planned: Schedule, max_time: int) -> NetworkProgram:
        """A compiled stack of layers, still without weights; its buffers take the size of each call."""
        return NetworkProgram(spec, planned)

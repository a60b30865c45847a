"""Backend `numba_cuda`: unrollbench's own kernels on an NVIDIA GPU, or in numba-cuda's simulator."""

from __future__ import annotations

from collections.abc import Mapping

import numba
import numba_cuda
from numba.cuda.core import config

from unrollbench import graph
from unrollbench.backends import Listing, Memory
from unrollbench.backends.cuda_program import NetworkProgram
from unrollbench.case import Case
from unrollbench.cells import LayerSpec
from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.matmul import TiledProducts
from unrollbench.kernels.cuda.memory import Limit
from unrollbench.kernels.cuda.network import NetworkSpec
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.schedule import of_case
from unrollbench.tensors import Outputs, Tensors


class CaseProgram:
    """A case's program with its tensors in place (see `unrollbench.backends.Program`)."""

    def __init__(self, case: Case, tensors: Tensors, device: Device) -> None:
        canonical, train = case.canonical(), case.mode == "train"
        layers = tuple(LayerSpec(case.cell, case.cell_options, i, units) for i, units, _ in case.layer_shapes)
        swap = bool(canonical.swap_memory)
        spec = NetworkSpec(layers, case.dtype, case.batch_size, train, case.time_major, swap)
        limit = Limit(canonical.device_memory_limit, canonical.allow_growth is not False)
        products = lambda device, network, allocator: TiledProducts(device, network)  # noqa: E731
        program = NetworkProgram(spec, of_case(case), case.sequence_length, device, limit, products)
        program.set_weights(tensors.weights)
        program.set_inputs(tensors.inputs, tensors.lengths, tensors.initial_state)
        if train:
            program.set_cotangents(tensors.d_outputs, tensors.d_state)
        program.ready()
        self._program, self._train = program, train
        self.build_phases_s = program.build_phases_s
        self.run, self.synchronize, self.close = program.run, device.synchronize, program.close

    def outputs(self) -> Outputs:
        gradients = self._program.gradients() if self._train else None
        return Outputs(self._program.outputs(), self._program.final_state(), gradients)


class NumbaCuda:
    """Runs every cell, mode and execution but `library`, which is for operators that own their loop."""

    name = "numba_cuda"

    def __init__(self) -> None:
        self.simulated = bool(config.ENABLE_CUDASIM)
        self.versions: Mapping[str, str] = {"numba": numba.__version__, "numba-cuda": numba_cuda.__version__}
        self._device = SimulatedDevice()

    def why_not(self, case: Case) -> str | None:
        """Why the case cannot run here, or None."""
        if case.device != "cuda":
            return f"numba_cuda runs on device 'cuda', not {case.device!r}"
        return None

    def build(self, case: Case, tensors: Tensors) -> CaseProgram:
        """A program for the case; everything is compiled, loaded and recorded when this returns."""
        return CaseProgram(case, tensors, self._device)

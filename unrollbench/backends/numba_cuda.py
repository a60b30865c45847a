"""Backend `numba_cuda`: unrollbench's own kernels on an NVIDIA GPU, or in numba-cuda's simulator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

import numba
from numba.cuda.core import config

from unrollbench.backends.cuda_program import NetworkProgram
from unrollbench.case import Case
from unrollbench.errors import ArgumentError, BackendUnavailable
from unrollbench.kernels.cuda import ceilings
from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.matmul import Products, TiledProducts
from unrollbench.kernels.cuda.memory import Allocator, Limit
from unrollbench.kernels.cuda.network import Network
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.kernels.spec import NetworkSpec, spec_of
from unrollbench.records import Ceiling
from unrollbench.schedule import Schedule, of_case
from unrollbench.tensors import Outputs, Tensors

INSTALL = "install it with: pip install 'unrollbench[cuda]'"


class CaseProgram:
    """A case's program with its tensors in place (see `unrollbench.backends.Program`)."""

    def __init__(self, case: Case, tensors: Tensors, device: Device) -> None:
        canonical, train = case.canonical(), case.mode == "train"
        limit = Limit(canonical.device_memory_limit, canonical.allow_growth is not False)

        def products(device: Device, network: Network, allocator: Allocator) -> Products:
            return _products(device, network, allocator, canonical.matmul_precision == "tf32")

        program = NetworkProgram(spec_of(case), of_case(case), case.sequence_length, device, limit, products)
        try:
            program.set_weights(tensors.weights)
            program.set_inputs(tensors.inputs, tensors.lengths, tensors.initial_state)
            if train:
                program.set_cotangents(tensors.d_outputs, tensors.d_state)
            program.ready()
        except BaseException:
            program.close()
            raise
        self.build_phases_s: Mapping[str, float] = program.build_phases_s
        self.run, self.synchronize, self.close = program.run, device.synchronize, program.close
        self.listing, self.memory, self.event_s = program.listing, program.memory, program.event_s
        self.compilations = program.compilations
        self._program, self._train = program, train

    def outputs(self) -> Outputs:
        gradients = self._program.gradients() if self._train else None
        return Outputs(self._program.outputs(), self._program.final_state(), gradients)


class NumbaCuda:
    """Runs every cell, mode and execution but `library`, which is for operators that own their loop.

    Raises BackendUnavailable where there is neither a GPU with its driver nor the simulator
    (NUMBA_ENABLE_CUDASIM=1), with the reason.
    """

    name = "numba_cuda"

    def __init__(self) -> None:
        self.simulated = bool(config.ENABLE_CUDASIM)
        self._device: Device = SimulatedDevice() if self.simulated else _hardware()
        packages = {"numba": numba.__version__, "numba-cuda": version("numba-cuda")}
        if not self.simulated:
            packages["nvmath-python"] = version("nvmath-python")
        self.versions: Mapping[str, str] = packages | dict(self._device.versions())

    def why_not(self, case: Case) -> str | None:
        """Why the case cannot run here, or None."""
        case = case.canonical()
        if case.device != "cuda":
            return f"numba_cuda runs on device 'cuda', not {case.device!r}"
        if case.execution == "library":
            return "numba_cuda has no fused operator; execution 'library' is for frameworks that have one"
        if case.threads != 1:
            return f"threads = {case.threads}: one thread of the host starts everything that the GPU runs"
        window, unroll = case.parallel_iterations, case.unroll
        if case.swap_memory and isinstance(unroll, int) and window is not None and unroll > window:
            return _body_is_longer(unroll, window)
        return self._why_not_tf32(case) if case.matmul_precision == "tf32" else None

    def _why_not_tf32(self, case: Case) -> str | None:
        if self.simulated:
            return "matmul_precision = 'tf32': the simulator's products are in float32"
        if not self._device.has_tf32:
            return f"matmul_precision = 'tf32': {self._device.name} has no TF32"
        if case.execution == "dynamic" and case.mode == "forward":
            return "matmul_precision = 'tf32': all products of a dynamic forward pass are inside its kernel, in float32"
        return None

    def build(self, case: Case, tensors: Tensors) -> CaseProgram:
        """A program for the case; everything is compiled, loaded and recorded when this returns."""
        return CaseProgram(case, tensors, self._device)

    def network(self, spec: NetworkSpec, planned: Schedule, max_time: int) -> NetworkProgram:
        """A compiled stack of layers with room for T = max_time, still without weights; its products are never TF32's.

        Raises ArgumentError where swap_memory and unroll exclude each other.
        """

        def products(device: Device, network: Network, allocator: Allocator) -> Products:
            return _products(device, network, allocator, False)

        if spec.swap_memory and planned.unroll > planned.window:
            raise ArgumentError(_body_is_longer(planned.unroll, planned.window))
        return NetworkProgram(spec, planned, max_time, self._device, Limit(), products)

    def ceilings(self, dtype: str, sizes_bytes: Sequence[int] | None, try_s: float | None) -> Iterator[Ceiling]:
        """The GPU's limits, see `kernels.cuda.ceilings`. Raises BackendUnavailable in the simulator."""
        if self.simulated:
            raise BackendUnavailable("a simulator's time is not a measurement: unset NUMBA_ENABLE_CUDASIM")
        return ceilings.measure(self._device, dtype, sizes_bytes, try_s)


def _body_is_longer(unroll: int, window: int) -> str:
    return (
        f"unroll = {unroll} with swap_memory: a window of parallel_iterations = {window} steps leaves the GPU "
        "after each launch, so that a loop's body cannot be longer"
    )


def _hardware() -> Device:
    """The GPU, or BackendUnavailable with the driver's own reason."""
    try:
        from numba.cuda.cudadrv.error import CudaDriverError, CudaSupportError

        from unrollbench.kernels.cuda.hardware import CudaDevice
    except ImportError as error:
        raise BackendUnavailable(f"backend 'numba_cuda': {error}; {INSTALL}") from error
    try:
        return CudaDevice()
    except (CudaSupportError, CudaDriverError) as error:
        reason = " ".join(str(error).split())
        simulator = "without a GPU, NUMBA_ENABLE_CUDASIM=1 runs it in the simulator"
        raise BackendUnavailable(f"backend 'numba_cuda': {reason}; {simulator}") from error


def _products(device: Device, network: Network, allocator: Allocator, tf32: bool) -> Products:
    """cuBLAS on hardware; in the simulator, which has none, our own kernel. The listing says which."""
    if device.simulated:
        return TiledProducts(device, network)
    from unrollbench.kernels.cuda.cublas import CublasProducts

    return CublasProducts(device, network, allocator, tf32)

"""FlashRNN on a GPU: three sets of kernels, each a backend, compiled for the sizes of a case.

Nothing of this has run on a GPU yet. The tests run FlashRNN's own PyTorch code in the place of its CUDA kernels, and
its Triton kernel in Triton's interpreter.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import flashrnn
import ninja
import torch
import triton
from triton.runtime.errors import OutOfResources

from unrollbench.backends import limits, torch_cuda
from unrollbench.backends.flashrnn_library import ALTERNATING, FUSED, TRITON, FlashLibrary, Kernel
from unrollbench.backends.phases import Phases
from unrollbench.backends.torch_rnn import TorchCudaProgram, cotangents_of, leaves_of
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import Tensors

LEAST_CAPABILITY = (8, 0)
"""FlashRNN's own limit."""
NO_KERNEL = "solution of constraints"
"""What FlashRNN says where it finds no tiling of a network that fits the GPU."""
DOTS = {"float32": "ieee", "tf32": "tf32"}
"""Matrix products of a case -> Triton's name; its default is TF32."""


class FlashRnn:
    """library: one CUDA kernel per pass and layer, its weights in registers and shared memory; products in TF32."""

    name = "flashrnn"
    kernel = FUSED
    versions: Mapping[str, str] = {
        "flashrnn": version(flashrnn.__name__),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }

    def why_not(self, case: Case) -> str | None:
        return self._limit(case) or torch_cuda.why_not(case) or _why_no_kernel(self.kernel)

    def build(self, case: Case, tensors: Tensors) -> FlashRnnProgram:
        """Run once, as that is how FlashRNN compiles. A process has one precision of products, which Triton keeps."""
        case = case.canonical()
        torch.set_num_threads(case.threads)
        phases = Phases()
        with phases("device"):
            torch_cuda.configure(case)
        with phases("inputs"):
            library = FlashLibrary(case, tensors.weights, self.kernel)
            leaves, cotangents = leaves_of(case, tensors, library), cotangents_of(case, tensors, library)
        program = FlashRnnProgram(case, library.network, leaves, None, cotangents, library, phases)
        try:
            program.compile(phases)
        except BaseException:
            program.close()
            raise
        return program

    def _limit(self, case: Case) -> str | None:
        return limits.flashrnn(case)


class FlashRnnAlternating(FlashRnn):
    """library: a product by cuBLAS and a kernel for the equations at every step, launched from C++; no TF32."""

    name = "flashrnn_alternating"
    kernel = ALTERNATING

    def _limit(self, case: Case) -> str | None:
        return limits.flashrnn_alternating(case)


class FlashRnnTriton(FlashRnn):
    """library: one Triton kernel per pass and layer, a block per 16 rows with all weights in its registers."""

    name = "flashrnn_triton"
    kernel = TRITON

    def _limit(self, case: Case) -> str | None:
        return limits.flashrnn_triton(case)


class FlashRnnProgram(TorchCudaProgram):
    """Compiles into a folder of its own, which is empty at first and gone when the program is closed."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._held = ExitStack()
        self._folder = self._held.enter_context(_cold(self._case))

    def compile(self, phases: Phases) -> None:
        """The first run. Raises BackendUnavailable where FlashRNN has no kernel of these sizes for this GPU."""
        try:
            with phases("compile"):
                self.run()
                self.synchronize()
        except ValueError as error:
            if NO_KERNEL not in str(error):
                raise
            raise _no_kernel(error) from error
        except OutOfResources as error:
            raise _no_kernel(error) from error

    def compilations(self) -> int:
        """The files that nvcc and Triton have written."""
        return sum(path.is_file() for path in self._folder.rglob("*"))

    def close(self) -> None:
        super().close()
        self._held.close()


def _no_kernel(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"FlashRNN has no kernel of these sizes for this GPU: {error}")


def _why_no_kernel(kernel: Kernel) -> str | None:
    """Why this GPU or this machine's compilers cannot give that kernel, or None."""
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        return "FlashRNN needs a GPU of compute capability 8.0, this one has {}.{}".format(*capability)
    if not kernel.nvcc:
        return None
    if import_module("torch.utils.cpp_extension").CUDA_HOME is None:
        return "FlashRNN compiles with nvcc: install the CUDA toolkit of torch's version, or set CUDA_HOME"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "FlashRNN needs a C++ compiler; install g++ or set CXX"
    return None


@contextmanager
def _cold(case: Case) -> Iterator[Path]:
    """The folder in which everything is compiled, with the case's threads and precision of products."""
    # FlashRNN waits up to ten seconds at random before each compilation, for several processes not to meet.
    at_once = mock.patch.object(import_module("flashrnn.flashrnn.cuda_init"), "random", SimpleNamespace(random=float))
    with tempfile.TemporaryDirectory() as folder, at_once:
        settings = {
            "TORCH_EXTENSIONS_DIR": folder,
            "TRITON_CACHE_DIR": folder,
            "TRITON_F32_DEFAULT": DOTS[case.matmul_precision or "float32"],
            "MAX_JOBS": str(case.threads),
            "PATH": os.pathsep.join((ninja.BIN_DIR, os.environ.get("PATH", os.defpath))),
        }
        with mock.patch.dict(os.environ, settings):
            yield Path(folder)

"""Kernels compiled for an architecture, without a GPU or its driver: PTX text, and the machine code that it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cuda.bindings import nvjitlink
from cuda.pathfinder import find_static_lib
from numba import cuda
from numba.cuda import dispatcher

from unrollbench.case import Case
from unrollbench.kernels.cuda.jit import Jit
from unrollbench.kernels.cuda.network import compile_plan, plan_of
from unrollbench.kernels.cuda.tiling import Limits

Capability = tuple[int, int]

PROCESSORS = {(8, 0): 108, (9, 0): 132}
"""Multiprocessors of the A100 and of the H100 and H200."""
SHARED_BYTES = {(8, 0): 163 * 1024, (9, 0): 227 * 1024}
"""Shared memory that a block may ask leave for. Source: CUDA C++ Programming Guide, technical specifications."""
USED = re.compile(r"Used (\d+) registers")
SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


@dataclass(frozen=True)
class Assembled:
    """Machine code of one kernel: bytes, registers of a thread, and bytes of local memory of a thread."""

    cubin: bytes
    registers: int
    local_bytes: int


class Architecture(Jit):
    """A compiler for a compute capability; a kernel is its PTX text."""

    def __init__(self, capability: Capability) -> None:
        self.capability = capability
        self.limits = Limits(PROCESSORS[capability], SHARED_BYTES[capability])

    def kernel(self, function: Callable[..., Any], signature: Any) -> str:
        with _as_if_on(self.capability):
            ptx, _ = cuda.compile_ptx(function, signature.args, device=False, abi="numba", cc=self.capability, opt=True)
        return str(ptx)


@contextmanager
def _as_if_on(capability: Capability) -> Iterator[None]:
    """numba-cuda asks the current device for its capability when it compiles a device function that a kernel calls.

    Here there is none, so the module is told the wanted one, while this compiles and no longer.
    """
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


def compile_ptx(case: Case, capability: Capability) -> dict[str, str]:
    """Kernel name -> PTX of every kernel that the case's program has, the product's included."""
    compiler = Architecture(capability)
    network = compile_plan(plan_of(case, compiler.limits), compiler)
    return {**network.kernels, "product": network.product}


def assemble(ptx: str, capability: Capability) -> Assembled:
    """The machine code that nvJitLink makes of a kernel's PTX, linked with the device's runtime library."""
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose", "-Xptxas=-v"]
    linker = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), "kernel")
        runtime = find_static_lib("cudadevrt")
        nvjitlink.add_file(linker, nvjitlink.InputType.LIBRARY, runtime)
        nvjitlink.complete(linker)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, cubin)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
    finally:
        nvjitlink.destroy(linker)
    text = log.decode()
    registers = max(int(n) for n in USED.findall(text))
    local = max((int(stack) for stack, _, _ in SPILLED.findall(text)), default=0)
    return Assembled(bytes(cubin), registers, local)

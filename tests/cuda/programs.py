"""Programs of `numba_cuda` in the simulator, with threads and blocks as a test wants them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

from tests.adversarial import CELLS, SMALL
from unrollbench import reference
from unrollbench.backends.numba_cuda import CaseProgram
from unrollbench.case import Case
from unrollbench.kernels.cuda.simulator import LIMITS, SimulatedDevice
from unrollbench.kernels.cuda.tiling import Block, Limits, ProductTile
from unrollbench.tensors import Outputs, Tensors, draw

EXECUTIONS = ("static", "dynamic", "stepwise")


def small(name: str = "lstm", **axes: Any) -> Case:
    """A small case on the simulated device."""
    return Case(**{**SMALL, "backend": "numba_cuda", "device": "cuda", **CELLS[name], **axes}).canonical()


def limits(block: Block, rows: int, blocks: int = 2, shared_bytes: int = LIMITS.shared_bytes) -> Limits:
    """Limits of the simulated device with that block; products are made by all of its threads, a row each."""
    tile = ProductTile(block.threads, 1, 2, 3, 2)
    return replace(LIMITS, block=block, rows=rows, span=1, blocks=blocks, shared_bytes=shared_bytes, product=tile)


def results(case: Case, tensors: Tensors | None = None, wanted: Limits = LIMITS) -> Outputs:
    """What the case computes."""
    with closing(CaseProgram(case, tensors or draw(case), SimulatedDevice(wanted))) as program:
        program.run()
        program.synchronize()
        return program.outputs()


def check(case: Case, tensors: Tensors | None = None, wanted: Limits = LIMITS) -> None:
    """Raises WrongResult unless the case computes what the reference does."""
    tensors = tensors or draw(case)
    check_tensors(case, tensors, results(case, tensors, wanted))


def check_tensors(case: Case, tensors: Tensors, found: Outputs) -> None:
    """Raises WrongResult unless that is what the reference computes."""
    reference.check(case, found, reference.expected(case, tensors))

"""Every kernel of every cell compiles to PTX without a GPU, and the PTX becomes machine code of its architecture."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from tests.adversarial import CELLS
from unrollbench.case import Case
from unrollbench.kernels.cuda.network import plan_of
from unrollbench.kernels.cuda.ptx import Architecture, assemble, compile_ptx
from unrollbench.kernels.cuda.tiling import STATIC_LIMIT_BYTES

ARCHITECTURES = ((8, 0), (9, 0))
REGISTERS = 65536
"""Of one multiprocessor, for the threads of all its blocks."""
SPILLED_BYTES = 128
"""Numbers that a loop on the device sets once and a thread may keep in memory; of a kernel of one step, none."""


@cache
def compiled(name: str, execution: str, dtype: str, capability: tuple[int, int]) -> dict[str, str]:
    return compile_ptx(case(name, execution, dtype), capability)


def case(name: str, execution: str, dtype: str, **axes: Any) -> Case:
    sizes = {"sequence_length": 3, "batch_size": 64, "input_size": 32, "num_units": 256, "mode": "train", "unroll": 2}
    own = {**sizes, "backend": "numba_cuda", "device": "cuda", "execution": execution, "dtype": dtype, **CELLS[name]}
    return Case(**{**own, **axes}).canonical()


KINDS = [
    (name, execution, ("float32", "float64")[(place + turn) % 2], ARCHITECTURES[(place + turn) // 2 % 2])
    for turn, execution in enumerate(("static", "dynamic"))
    for place, name in enumerate(CELLS)
]
"""Every cell unrolled and looped, dtypes and architectures in turn."""


@pytest.mark.parametrize(("name", "execution", "dtype", "capability"), KINDS, ids=str)
def test_every_kernel_assembles(name: str, execution: str, dtype: str, capability: tuple[int, int]) -> None:
    texts = compiled(name, execution, dtype, capability)
    plan = plan_of(case(name, execution, dtype), Architecture(capability).limits)
    threads = max(plan.block(direction).threads for direction in ("forward", "backward"))
    for kernel, ptx in texts.items():
        code = assemble(ptx, capability)
        assert code.cubin.startswith(b"\x7fELF"), kernel
        assert code.registers * threads <= REGISTERS, kernel
        assert code.local_bytes <= (SPILLED_BYTES if kernel.startswith("loop_") else 0), kernel


@pytest.mark.parametrize(
    ("name", "execution", "dtype", "capability"), [kind for kind in KINDS if kind[2] == "float32"], ids=str
)
def test_a_float32_kernel_computes_nothing_in_float64(
    name: str, execution: str, dtype: str, capability: tuple[int, int]
) -> None:
    texts = compiled(name, execution, dtype, capability)
    assert [kernel for kernel, ptx in texts.items() if ".f64" in ptx] == []


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_every_architecture_compiles_both_dtypes(capability: tuple[int, int]) -> None:
    for dtype in ("float32", "float64"):
        for ptx in compiled("lstm", "dynamic", dtype, capability).values():
            assert f".target sm_{capability[0]}{capability[1]}" in ptx


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_loop_on_the_device_holds_a_barrier_of_the_grid(direction: str) -> None:
    """A branch goes back over a call of the barrier: the loop is on the device, and its steps wait for the grid."""
    lines = compiled("lstm", "dynamic", "float32", (9, 0))[f"loop_{direction}"].split("\n")
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    barriers = [place for place, line in enumerate(lines) if line.strip().startswith("cudaCGSynchronize,")]
    jumps = [(place, line.split()[-1].rstrip(";")) for place, line in enumerate(lines) if "bra" in line.split()[:3]]
    assert barriers
    assert any(labels[to] < barrier < place for place, to in jumps if to in labels for barrier in barriers)


def test_a_wavefront_assembles_and_waits_in_a_loop_of_several_layers() -> None:
    wanted = case("gru", "dynamic", "float32", num_layers=2, num_units=64, unroll=1)
    kernels = compile_ptx(wanted, (9, 0))
    for direction in ("forward", "backward"):
        ptx = kernels[f"loop_{direction}"]
        code = assemble(ptx, (9, 0))
        assert code.local_bytes <= SPILLED_BYTES, direction
        assert sum(line.strip().startswith("cudaCGSynchronize,") for line in ptx.split("\n")) >= 3, direction


@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_no_kernel_reads_past_the_caches_that_a_barrier_empties(execution: str) -> None:
    """A load by the read-only path may return what lay there before another block wrote it."""
    assert [name for name, ptx in compiled("lstm", execution, "float32", (9, 0)).items() if "global.nc" in ptx] == []


def test_no_launch_of_a_kernel_has_a_barrier_of_the_grid() -> None:
    assert not [name for name, ptx in compiled("gru", "static", "float32", (8, 0)).items() if "cudaCG" in ptx]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_shared_memory_stays_within_what_a_device_grants(execution: str, capability: tuple[int, int]) -> None:
    limits = Architecture(capability).limits
    for dtype in ("float32", "float64"):
        for units, batch in ((1, 1), (64, 1), (256, 64), (1024, 64), (1500, 13), (4096, 256)):
            plan = plan_of(case("gru", execution, dtype, num_units=units, batch_size=batch), limits)
            for name in plan.kernel_texts():
                granted = limits.shared_bytes if name.startswith("loop_") else STATIC_LIMIT_BYTES
                assert plan.launch(name).shared_bytes <= granted, name
            assert plan.product_launch(1000, 1000).shared_bytes <= STATIC_LIMIT_BYTES


@pytest.mark.parametrize("units", [256, 512, 1024])
def test_the_recurrent_weights_of_an_lstm_stay_in_shared_memory(units: int) -> None:
    plan = plan_of(case("lstm", "dynamic", "float32", num_units=units), Architecture((9, 0)).limits)
    assert set(plan.residents.places) == {("forward", 0, 0), ("backward", 0, 0)}


@pytest.mark.parametrize("batch", [1, 16, 64, 300])
@pytest.mark.parametrize("units", [1, 100, 1024, 5000])
def test_a_loops_blocks_all_run_at_once(units: int, batch: int) -> None:
    for capability in ARCHITECTURES:
        limits = Architecture(capability).limits
        plan = plan_of(case("lstm", "dynamic", "float32", num_units=units, batch_size=batch), limits)
        for direction in ("forward", "backward"):
            across, down = plan.loop_grid(direction)
            assert 1 <= across * down <= limits.processors
            assert plan.block(direction).threads <= 256

"""The ceilings' kernels do in their loops what they are named after, and nothing beside it that could bind."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from tests.ptx.test_ptx import ARCHITECTURES, REGISTERS
from unrollbench.kernels.cuda import ceiling_text as text
from unrollbench.kernels.cuda.ceilings import ARITHMETIC_BLOCKS, READING_BLOCKS
from unrollbench.kernels.cuda.ptx import Architecture, Assembled, assemble

Capability = tuple[int, int]
LOADS = re.compile(r"\bld\.(?:volatile\.)?(shared|global|local)\.(\S+)")
BESIDE = 0.05
"""How many of a loop's instructions may be others than its multiply-adds."""


@cache
def compiled(name: str, dtype: str, capability: Capability) -> str:
    compiler = Architecture(capability)
    if name == "multiply_adds":
        return str(text.multiply_adds(compiler, dtype))
    return str({"read_shared": text.read_shared, "read_global": text.read_global}[name](compiler))


@cache
def assembled(name: str, dtype: str, capability: Capability) -> Assembled:
    return assemble(compiled(name, dtype, capability), capability)


def loops(ptx: str) -> list[list[str]]:
    """The instructions of each loop: from a label to a branch back to it; inner loops are parts of outer ones."""
    lines = [line.strip() for line in ptx.split("\n") if line.strip()]
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    found = []
    for place, line in enumerate(lines):
        target = re.search(r"\bbra\S*\s+(\$L\w+);", line)
        if target and labels[target[1]] < place:
            body = lines[labels[target[1]] : place + 1]
            found.append([each for each in body if not each.startswith(("$", "//"))])
    return found


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f32"), ("float64", "f64")])
def test_the_loop_of_multiply_adds_has_all_of_them_and_little_else(
    dtype: str, kind: str, capability: Capability
) -> None:
    (body,) = loops(compiled("multiply_adds", dtype, capability))
    fused = [line for line in body if line.startswith(f"fma.rn.{kind}")]
    assert len(fused) == text.CHAINS * text.COPIES
    assert len(body) - len(fused) < BESIDE * len(fused)
    assert not [line for line in body if line.startswith(("ld.", "st.", "call"))]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_the_chains_of_multiply_adds_do_not_wait_for_each_other(capability: Capability) -> None:
    """The longest row of those that wait for one another is of one chain, and there are CHAINS at every place in it."""
    (body,) = loops(compiled("multiply_adds", "float32", capability))
    depths: dict[str, int] = {}
    for made, read, *_ in (re.findall(r"%f\d+", line) for line in body if line.startswith("fma")):
        depths[made] = depths.get(read, 0) + 1
    assert Counter(depths.values()) == dict.fromkeys(range(1, text.COPIES + 1), text.CHAINS)


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_warps_of_the_arithmetic_have_their_registers(dtype: str, capability: Capability) -> None:
    code = assembled("multiply_adds", dtype, capability)
    assert code.registers * text.THREADS * ARITHMETIC_BLOCKS <= REGISTERS
    assert code.local_bytes == 0
    assert dtype == "float64" or ".f64" not in compiled("multiply_adds", dtype, capability)


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_shared_memory_is_read_by_loads_of_16_bytes_in_a_loop_in_a_loop(capability: Capability) -> None:
    ptx = compiled("read_shared", "int64", capability)
    reading = [body for body in loops(ptx) if any("ld.shared" in line for line in body)]
    for body in reading:
        loads = [load.groups() for line in body if (load := LOADS.search(line))]
        assert set(loads) == {("shared", "v2.u64")}
        assert len(loads) % text.SHARED_LOADS == 0
        assert not [line for line in body if line.startswith(("st.", "call"))]
    assert len(reading) > 1
    assert re.search(r"\.extern \.shared \.align (\d+)", ptx)[1] == "16"  # type: ignore[index]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
def test_global_memory_is_read_by_loads_of_16_bytes_only(capability: Capability) -> None:
    ptx = compiled("read_global", "int64", capability)
    assert set(LOADS.findall(ptx)) == {("global", "v2.u64")}
    reading = loops(ptx)
    assert reading
    for body in reading:
        assert len([line for line in body if "ld.global.v2" in line]) % text.GLOBAL_LOADS == 0
        assert not [line for line in body if line.startswith(("st.", "call"))]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize(("name", "blocks"), [("read_shared", 1), ("read_global", READING_BLOCKS)])
def test_all_warps_of_the_reading_run_at_once_and_keep_nothing_in_local_memory(
    name: str, blocks: int, capability: Capability
) -> None:
    code = assembled(name, "int64", capability)
    assert code.registers * text.THREADS * blocks <= REGISTERS
    assert code.local_bytes == 0
    assert not re.search(r"\.f(32|64)\b", compiled(name, "int64", capability))

"""What the compiler makes of the products in a loop on the device: read in its text, where speed cannot be seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from unrollbench.case import Case
from unrollbench.kernels.cuda.network import Plan, plan_of
from unrollbench.kernels.cuda.ptx import Architecture, assemble, compile_ptx

WARP = 32
SHAPES = [(1, 1024, (9, 0)), (64, 512, (9, 0)), (64, 512, (8, 0)), (64, 1024, (9, 0))]
"""Batch, units and architecture: a row, rows and units shared out both ways, and weights that fill shared memory."""
DIRECTIONS = ("forward", "backward")


def lstm(batch: int, units: int) -> Case:
    sizes: dict[str, Any] = {"batch_size": batch, "num_units": units, "input_size": units, "sequence_length": 100}
    return Case(
        backend="numba_cuda", device="cuda", execution="dynamic", cell="lstm", mode="train", unroll=1, **sizes
    ).canonical()


@cache
def compiled(batch: int, units: int, capability: tuple[int, int]) -> dict[str, str]:
    return compile_ptx(lstm(batch, units), capability)


def inner_loops(ptx: str) -> Iterator[Counter[str]]:
    """How often each instruction stands in a loop that has no other loop in it."""
    lines = [line.strip() for line in ptx.split("\n")]
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    jumps = [
        (place, re.fullmatch(r"(?:@!?%p\d+ )?bra(?:\.uni)?\s+(\$L\w+);", line)) for place, line in enumerate(lines)
    ]
    loops = [(labels[to[1]], place) for place, to in jumps if to and labels.get(to[1], place) < place]
    for first, last in loops:
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops):
            body = (re.sub(r"^@!?%p\d+ ", "", line) for line in lines[first:last] if line.endswith(";"))
            yield Counter(line.split()[0] for line in body)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("batch", "units", "capability"), [shape for shape in SHAPES if shape[2] == (9, 0)])
def test_a_loop_keeps_nothing_in_memory_that_belongs_in_registers(
    batch: int, units: int, capability: tuple[int, int], direction: str
) -> None:
    code = assemble(compiled(batch, units, capability)[f"loop_{direction}"], capability)
    assert code.local_bytes == 0
    assert code.registers <= 255


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("batch", "units", "capability"), [shape for shape in SHAPES if shape[0] > 1])
def test_multiply_adds_are_most_of_a_products_loop_and_all_its_loads_are_vectors(
    batch: int, units: int, capability: tuple[int, int], direction: str
) -> None:
    ptx = compiled(batch, units, capability)[f"loop_{direction}"]
    products = [loop for loop in inner_loops(ptx) if loop["fma.rn.f32"] >= 100]
    assert any(loop["ld.global.v4.f32"] for loop in products)
    for loop in products:
        loads = {name: count for name, count in loop.items() if name.startswith("ld.")}
        assert set(loads) <= {"ld.global.v4.f32", "ld.shared.v4.f32"}
        assert loop["fma.rn.f32"] >= 10 * sum(loads.values())
        assert loop["fma.rn.f32"] >= 0.8 * loop.total()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_single_rows_weights_are_read_as_vectors(direction: str) -> None:
    """Of 4 gates x 1024 terms a warp reads 4096, forward as backward, and each load of a lane is 4 of them."""
    found = Counter(
        line.split()[0] for line in compiled(1, 1024, (9, 0))[f"loop_{direction}"].split("\n") if line.split()
    )
    assert found["ld.shared.v4.f32"] >= 8
    assert found["ld.shared.f32"] == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lanes_pass_each_other_their_sums(direction: str) -> None:
    for batch, units, capability in SHAPES:
        assert "shfl.sync.bfly.b32" in compiled(batch, units, capability)[f"loop_{direction}"]


def plan(batch: int, units: int, **axes: Any) -> Plan:
    case = Case(**{**lstm(batch, units).__dict__, **axes}).canonical()
    return plan_of(case, Architecture((9, 0)).limits)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("batch", [1, 3, 16, 64, 300])
def test_a_block_is_whole_warps_of_whole_groups_of_lanes(batch: int, direction: str) -> None:
    for units in (1, 5, 100, 256, 512, 1024, 5000):
        block = plan(batch, units).block(direction)
        assert block.threads % WARP == 0, units
        assert WARP % block.lanes == 0, units


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("batch", [1, 16, 64])
@pytest.mark.parametrize("units", [256, 512, 1024])
def test_nearly_all_multiprocessors_have_a_share_of_one_tile(units: int, batch: int, direction: str) -> None:
    own = plan(batch, units)
    across, down = own.loop_grid(direction)
    assert across * down >= 0.9 * own.limits.processors
    ((_, _, tile, of_units),) = own.products(direction)
    assert across * tile.units >= of_units
    assert down * tile.batch >= batch

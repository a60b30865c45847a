"""The machine's limits are measured by doing the work that they are named after."""

from __future__ import annotations

import ctypes
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from unrollbench.kernels import ceilings, host, matrix
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.threads import ARRIVAL_BYTES, Team


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "TRIES", 1)
    monkeypatch.setattr(ceilings, "TRY_S", 0.0)
    monkeypatch.setattr(ceilings, "SIZES_BYTES", (16 * ceilings.KIBI, 64 * ceilings.KIBI))


def test_arithmetic_comes_first_and_then_a_bandwidth_for_each_working_set() -> None:
    found = list(ceilings.measure(1))
    assert [(c.name, c.unit, c.working_set_bytes) for c in found] == [
        ("multiply-add", "GFLOP/s", None),
        *([("paired multiply-add", "GFLOP/s", None)] if host.adds_apart() else []),
        *([("matrix unit", "GFLOP/s", None)] if host.matrix_unit() else []),
        ("read", "GB/s", 16 * ceilings.KIBI),
        ("read", "GB/s", 64 * ceilings.KIBI),
    ]
    assert all(c.value > 0 and c.threads == 1 and c.dtype == "float32" for c in found)


def test_several_threads_also_have_a_rate_of_barriers_which_all_of_them_take_part_in() -> None:
    found = [c for c in ceilings.measure(2, "float64", (), 0.0) if c.name != "paired multiply-add"]
    assert [(c.name, c.unit, c.threads) for c in found] == [("multiply-add", "GFLOP/s", 2), ("barrier", "million/s", 2)]
    assert 0.001 < found[1].value < 1000  # less than a microsecond's thousandth would be no barrier


def test_barriers_are_counted_by_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def best(team: Team, kernel: Kernel, frames: list[tuple[int, int, int]], try_s: float) -> ceilings._Try:
        table = np.array(frames, np.int64)
        team.run(kernel.address, table)
        counts = (ctypes.c_int64 * (ARRIVAL_BYTES // 8 * team.size)).from_address(frames[0][0])
        seen.append(list(counts[:: ARRIVAL_BYTES // 8]))
        return ceilings._Try(2e-3, 1.0)

    monkeypatch.setattr(ceilings, "_best", best)
    with closing(Team(2)) as team:
        found = ceilings._barriers(team, "float32", 0.0)
    assert seen == [[ceilings.BARRIERS] * 2]
    assert found.value == pytest.approx(ceilings.BARRIERS / 2e-3 / 1e6)


def test_the_working_sets_can_be_chosen() -> None:
    found = [c for c in ceilings.measure(1, "float64", (20_000,), 0.0) if c.name != "paired multiply-add"]
    assert [(c.dtype, c.working_set_bytes) for c in found] == [("float64", None), ("float64", 20_000)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairs_are_measured_where_a_processor_adds_apart_and_counted_as_the_multiply_adds_they_stand_for(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Where their instructions are none of this host's, nothing is compiled: then what is counted is all there is."""
    rounds: list[int] = []

    def best(team: Team, kernel: Kernel, frames: list[tuple[int, int, int]], try_s: float) -> ceilings._Try:
        rounds.extend(count for _, _, count in frames)
        if host.vector_unit().avx512:
            team.run(kernel.address, np.array(frames, np.int64))
        return ceilings._Try(0.5, 1.0)

    monkeypatch.setattr(ceilings, "_best", best)
    if not host.vector_unit().avx512:
        monkeypatch.setattr(ceilings, "_paired", lambda dtype: None)
    for apart in (False, True):
        monkeypatch.setattr(host, "adds_apart", lambda apart=apart: apart)
        found = [c for c in ceilings.measure(1, dtype, (), 0.0) if c.name == "paired multiply-add"]
        assert len(found) == apart
    sums = ceilings.CHAINS * host.lanes(dtype) * 6 * rounds[-1]
    assert found[0].value == pytest.approx(2 * sums / 0.5 / 1e9)


@pytest.mark.parametrize(
    ("cpu_s", "best"),
    [((0.5, 1.0, 3.0), (3.0, 1.0)), ((0.5, 2.0, 3.0), (2.0, 1.0)), ((0.5, 1.0, 1.5), (1.0, 0.5))],
)
def test_the_best_try_is_one_that_had_its_processor_if_any_had(
    monkeypatch: pytest.MonkeyPatch, cpu_s: tuple[float, ...], best: tuple[float, float]
) -> None:
    """Three tries of 1, 2 and 3 seconds, each with so many seconds of its processor."""
    kernel = ceilings._multiply_adds("float32")
    walls = iter([0.0, *(moment for s in (1.0, 2.0, 3.0) for moment in (0.0, s, 0.0))])
    processors = iter([moment for s in cpu_s for moment in (0.0, s)])
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(perf_counter=lambda: next(walls)))
    monkeypatch.setattr(Team, "cpu_s", lambda team: next(processors))
    monkeypatch.setattr(ceilings, "TRIES", 3)
    with closing(Team(1)) as team:
        assert ceilings._best(team, kernel, [(0, 0, 1)], 0.0) == ceilings._Try(*best)


def test_a_matrix_units_peak_is_that_of_all_products_of_parts() -> None:
    """Six products of parts for each of four tiles of sums, where there is a unit to compile it for."""
    if host.matrix_unit():
        products = [line for line in matrix.peak().listing.splitlines() if "tdpbf16ps" in line]
        assert len(products) == 6 * 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loops_survive_optimisation(dtype: str) -> None:
    """Twelve sums stay twelve instructions in the loop; a loop that was left out would take no time and no code."""
    for kernel in (ceilings._multiply_adds(dtype), ceilings._reads(dtype)):
        names = ("vfmadd", "mulps", "mulpd", "fmla") if kernel.name == "multiply_adds" else ("add",)
        vector = [line for line in kernel.listing.splitlines() if any(n in line for n in names) and _is_vector(line)]
        assert len(vector) >= ceilings.CHAINS


def _is_vector(line: str) -> bool:
    return any(register in line for register in ("%zmm", "%ymm", "%xmm", "v0.", "v1.", "v2.")) or "fmla" in line

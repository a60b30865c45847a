"""A backend is asked in a process of its own, and whatever happens to it is an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pytest

from tests import fake_backend
from tests.measure.fake_nvml import BUS_ID, FakeNvml
from unrollbench import backends, probe
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable, UnrollbenchError
from unrollbench.kernels import ceilings, host
from unrollbench.measure.affinity import chosen_cpus, usable_cpus
from unrollbench.measure.gpu import Nvml
from unrollbench.measure.gpu_clocks import ClockWatch
from unrollbench.records import Ceiling
from unrollbench.roofline import Wanted


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import tests.fake_backend as f; f.register(); "
    monkeypatch.setattr(probe, "BOOT", boot + "from unrollbench.probe import main; main(sys.argv[2])")


@pytest.mark.usefixtures("_fakes")
def test_a_listing_is_that_of_the_built_program() -> None:
    listing = probe.listing(fake_backend.SMALL)
    assert (listing.source, listing.graph_nodes) == ("source", 7)


@pytest.mark.usefixtures("_fakes")
@pytest.mark.parametrize(
    ("backend", "reason"),
    [("fake_missing", "tests"), ("fake_segfault", "was ended by SIGSEGV"), ("fake_picky", "cannot run this case: ")],
)
def test_what_cannot_be_built_is_an_error_with_the_reason(backend: str, reason: str) -> None:
    case = Case(**{**vars(fake_backend.SMALL), "backend": backend})
    with pytest.raises(UnrollbenchError, match=reason):
        probe.listing(case)


def test_ceilings_are_those_that_were_asked_for() -> None:
    found = probe.ceilings([Wanted(1, "float32", (16384, 65536)), Wanted(1, "float64", ())], try_s=0.0)
    assert [(c.name, c.dtype, c.working_set_bytes) for c in found] == [
        ("multiply-add", "float32", None),
        *([("paired multiply-add", "float32", None)] if host.adds_apart() else []),
        *([("matrix unit", "float32", None)] if host.matrix_unit() else []),
        ("read", "float32", 16384),
        ("read", "float32", 65536),
        ("multiply-add", "float64", None),
        *([("paired multiply-add", "float64", None)] if host.adds_apart() else []),
    ]


def test_ceilings_are_measured_on_the_processors_that_cases_get(monkeypatch: pytest.MonkeyPatch) -> None:
    used, before = [], usable_cpus()

    def measure(threads: int, dtype: str, sizes_bytes: tuple[int, ...], try_s: float) -> Iterator[Ceiling]:
        used.append((threads, usable_cpus()))
        yield Ceiling("multiply-add", dtype, threads, 1.0, "GFLOP/s")

    monkeypatch.setattr(ceilings, "measure", measure)
    counts = range(1, len(before) + 1)
    probe._answer({"ceilings": [asdict(Wanted(threads)) for threads in counts], "try_s": 0.0})
    assert used == [(threads, chosen_cpus(threads, before)) for threads in counts]
    assert usable_cpus() == before


def test_without_a_driver_the_ceilings_of_a_gpu_are_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise BackendUnavailable("no NVIDIA driver: none here")

    monkeypatch.setattr(probe, "load_driver", no_driver)
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver: none here"):
        probe._answer({"ceilings": [asdict(Wanted(None, device="cuda"))], "try_s": 0.0})


@pytest.mark.parametrize(("bits", "told"), [(0x4, "software power cap"), (0x1, "none")])
def test_each_ceiling_of_a_gpu_is_told_with_what_held_its_clocks_down(
    bits: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is idle before the first, and has these reasons from then on."""
    library = FakeNvml()

    class Gpu:
        def ceilings(self, dtype: str, sizes: Sequence[int], try_s: float) -> Iterator[Ceiling]:
            for size in sizes:
                library.bits = bits
                yield Ceiling("read", dtype, None, 1.0, "GB/s", size, device="cuda")

    watch = ClockWatch(find=lambda: Nvml(library), bus_id=lambda: BUS_ID)
    monkeypatch.setattr(probe, "load_driver", lambda: None)
    monkeypatch.setattr(probe, "ClockWatch", lambda: watch)
    monkeypatch.setattr(backends, "load", lambda name: Gpu())
    found = probe._measured(Wanted(None, "float32", (16384, 65536), "cuda"), 0.0)
    assert [(c.working_set_bytes, c.throttling) for c in found] == [(16384, told), (65536, told)]


def test_a_bug_in_a_backend_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BOOT", "raise ZeroDivisionError('what a pity')")
    with pytest.raises(UnrollbenchError, match=r"ended with code 1(.|\n)*what a pity"):
        probe.listing(fake_backend.SMALL)


def test_a_backend_that_crashes_while_loading_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BOOT", "import os; os.kill(os.getpid(), 11)")
    found = probe.availability("numba_cpu")
    assert found.reason is not None
    assert "SIGSEGV" in found.reason


def test_an_unknown_backend_is_unavailable_with_the_reason() -> None:
    found = probe.availability("abacus")
    assert found.reason is not None
    assert "abacus" in found.reason


@pytest.mark.usefixtures("_fakes")
def test_what_a_library_prints_is_not_taken_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = "from unrollbench import probe, tensors; quiet = tensors.draw; "
    loud += "tensors.draw = lambda case: (print('hello', flush=True), quiet(case))[1]; "
    monkeypatch.setattr(probe, "BOOT", probe.BOOT.replace("from unrollbench.probe", loud + "from unrollbench.probe"))
    assert probe.listing(fake_backend.SMALL).source == "source"

"""A backend is asked in a process of its own, and whatever happens to it is an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest

from tests import fake_backend
from unrollbench import probe
from unrollbench.case import Case
from unrollbench.errors import UnrollbenchError
from unrollbench.kernels import ceilings
from unrollbench.measure.affinity import chosen_cpus, usable_cpus
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
    assert [(c.name, c.dtype, c.bytes_per_thread) for c in found] == [
        ("multiply-add", "float32", None),
        ("read", "float32", 16384),
        ("read", "float32", 65536),
        ("multiply-add", "float64", None),
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

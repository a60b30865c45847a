"""What is stored comes back exactly, and what cannot be used says so with the remedy."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench import store as store_module
from unrollbench.case import Case
from unrollbench.errors import StoreError
from unrollbench.records import (
    SCHEMA_VERSION,
    STATUSES,
    Ceiling,
    Environment,
    Measurement,
    Metrics,
    Run,
    Sample,
    measurement_from_json,
    measurement_to_json,
)
from unrollbench.store import Store

CASES = tuple(Case(seed=seed).canonical() for seed in range(3))
RUN = Run("r1", "smoke", "2026-01-01T00:00:00+00:00", Environment("f", {"cpu": "x", "unknown": {}}), suite_source="[a]")
WHOLE = Measurement(
    CASES[0],
    "ok",
    metrics=Metrics(build_s=0.1 + 0.2, build_phases_s={"llvm": 0.1, "codegen": 1e-9}, build_peak_bytes=2**40),
    samples=(Sample(3, 0.1), Sample(1, 1e-7)),
    unknown={"device_bytes": "no device"},
    started_at="2026-01-01T00:00:01+00:00",
    worker_s=1.5,
)

numbers = st.floats() | st.none()
measurements = st.builds(
    Measurement,
    case=st.builds(
        Case,
        num_units=st.sampled_from([8, (8, 8, 8), (1, 2, 3)]),
        lengths=st.sampled_from(["full", "uniform", (0,) * 16]),
        num_layers=st.just(3),
    ),
    status=st.sampled_from(STATUSES),
    reason=st.none() | st.text(),
    repeat=st.integers(0, 9),
    metrics=st.builds(
        Metrics,
        build_s=numbers,
        build_phases_s=st.dictionaries(st.text(), st.floats()),
        base_bytes=st.none() | st.integers(0, 2**62),
        error=numbers,
    ),
    samples=st.lists(st.builds(Sample, st.integers(1, 10**9), st.floats(), numbers)).map(tuple),
    unknown=st.dictionaries(st.text(), st.text()),
    log=st.none() | st.text(),
)


@given(measurements)
def test_a_measurement_comes_back_exactly_from_json_even_nan_and_inf(measurement: Measurement) -> None:
    text = json.dumps(measurement_to_json(measurement))
    # NaN is unequal to itself, so the two are compared as they are written.
    assert repr(measurement_from_json(json.loads(text))) == repr(measurement)


def test_a_run_comes_back_exactly(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        store.add("r1", WHOLE)
        store.finish("r1", "2026-01-01T00:01:00+00:00")
    with Store(tmp_path / "new" / "runs.sqlite", create=False) as store:
        assert store.run("r1") == replace(
            RUN, measurements=(WHOLE,), planned=3, finished_at="2026-01-01T00:01:00+00:00"
        )
        assert store.planned("r1") == CASES


def test_ceilings_come_back_exactly_with_their_run_and_replace_earlier_ones(tmp_path: Path) -> None:
    found = (
        Ceiling("multiply-add", "float32", 2, 0.1 + 0.2, "GFLOP/s"),
        Ceiling("read", "float32", 2, 1e9, "GB/s", 7),
        Ceiling("read", "float64", None, 1e9, "GB/s", 7, device="cuda", place="shared memory", throttling="none"),
    )
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        store.begin(replace(RUN, id="r2"), CASES)
        assert (store.run("r1").ceilings, store.run("r1").ceilings_unknown) == ((), {})
        store.add_ceilings("r1", (), {"cuda": "no driver"})
        assert (store.run("r1").ceilings, store.run("r1").ceilings_unknown) == ((), {"cuda": "no driver"})
        store.add_ceilings("r1", found)
    with Store(tmp_path / "runs.sqlite") as store:
        assert (store.run("r1").ceilings, store.run("r1").ceilings_unknown) == (found, {})
        assert store.run("r2").ceilings == ()


def test_a_database_without_a_table_of_ceilings_is_read_and_gets_one(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        assert store._rows("SELECT name FROM sqlite_master WHERE name = 'ceilings'") == []
        assert store.run().ceilings == ()
        store.add_ceilings("r1", (Ceiling("read", "float64", 1, 1.0, "GB/s", 7),))
        assert len(store.run().ceilings) == 1


@pytest.mark.parametrize(("unknown", "told"), [(None, {}), ("no time", {"cpu": "no time"})])
def test_ceilings_of_version_2_are_read(tmp_path: Path, unknown: str | None, told: dict[str, str]) -> None:
    """As version 2 wrote them: no device, the working set by its old name, one reason why there are none."""
    old = {"name": "read", "dtype": "float32", "threads": 2, "value": 1e9, "unit": "GB/s"}
    old |= {"bytes_per_thread": 7, "processor_share": 0.5}
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        store.add_ceilings("r1", ())
    with closing(sqlite3.connect(tmp_path / "runs.sqlite")) as database, database:
        database.execute("UPDATE schema SET version = 2")
        database.execute("UPDATE ceilings SET data = ?", (json.dumps({"ceilings": [old], "unknown": unknown}),))
    with Store(tmp_path / "runs.sqlite") as store:
        run = store.run()
    assert run.ceilings == (Ceiling("read", "float32", 2, 1e9, "GB/s", 7, 0.5, device="cpu"),)
    assert run.ceilings_unknown == told


def test_the_newest_run_is_the_default(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(replace(RUN, id="r2", started_at="2026-01-02T00:00:00+00:00"), CASES)
        store.begin(RUN, CASES)
        assert store.run().id == "r2"
        assert [run.id for run in store.runs()] == ["r1", "r2"]
        with pytest.raises(StoreError, match="no run 'r3'; it has: r1, r2"):
            store.run("r3")


def test_an_empty_database_says_that_it_has_no_run(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store, pytest.raises(StoreError, match="no run yet"):
        store.run()


def test_pending_is_what_has_no_result_round_by_round_there_and_back(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES, repeats=2)
        store.add("r1", WHOLE)
        store.add("r1", Measurement(CASES[1], "timeout", "why", repeat=1))
        assert store.pending("r1") == ((CASES[1], 0), (CASES[2], 0), (CASES[2], 1), (CASES[0], 1))


def test_a_crash_is_stored_but_stays_pending_and_is_replaced(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES[:1])
        store.add("r1", Measurement(CASES[0], "crashed", "SIGKILL"))
        assert store.pending("r1") == ((CASES[0], 0),)
        assert [m.status for m in store.run().measurements] == ["crashed"]
        store.add("r1", WHOLE)
        assert store.run().measurements == (WHOLE,)


def test_a_change_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        with pytest.raises(StoreError):
            store.begin(RUN, (CASES[0], CASES[0]))
        assert store.runs() == []
        store.begin(RUN, CASES)


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, whatever it is called" * 10)
    with pytest.raises(StoreError, match="not a SQLite database; name another file"):
        Store(text)
    assert text.read_text().startswith("not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE runs (id)")
    database.close()
    with pytest.raises(StoreError, match="but not of unrollbench"):
        Store(other)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE schema SET version = 99")
    database.close()
    with pytest.raises(StoreError, match="schema version 99, this unrollbench reads 1, 2, 3, 4 and writes 4"):
        Store(path)


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (1, ("timed_by", "driver_bytes", "ptx_bytes", "registers", "sm_mhz_before", "throttling", "multiplied_by")),
        (3, ("multiplied_by",)),
    ],
)
def test_a_database_of_an_older_version_is_read_as_it_is_and_has_this_version_once_it_is_changed(
    tmp_path: Path, version: int, missing: tuple[str, ...]
) -> None:
    path = tmp_path / "runs.sqlite"
    old = measurement_to_json(WHOLE)
    for name in missing:
        del old["metrics"][name]
    with Store(path) as store:
        store.begin(RUN, CASES)
        store.add("r1", WHOLE)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE schema SET version = ?", (version,))
        database.execute("UPDATE measurements SET data = ?", (json.dumps(old),))
    with Store(path) as store:
        assert store.run().measurements == (WHOLE,)
        assert database.execute("SELECT version FROM schema").fetchall() == [(version,)]
        store.add("r1", replace(WHOLE, repeat=1))
        assert database.execute("SELECT version FROM schema").fetchall() == [(SCHEMA_VERSION,)]
        assert len(store.run().measurements) == 2
    database.close()


def test_folders_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="no such database"):
        Store(tmp_path / "none.sqlite", create=False)
    assert not (tmp_path / "none.sqlite").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "file" / "runs.sqlite")


def test_a_locked_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WAIT_S", 0.0)
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            store.begin(RUN, CASES)
        other.execute("ROLLBACK")
        other.close()
        store.begin(RUN, CASES)


def test_a_database_that_cannot_be_written_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        store.begin(RUN, CASES)
    with Store(path, create=False) as store:
        # Not by the file's mode: the superuser, as whom tests may run, writes any file.
        store._database.execute("PRAGMA query_only = ON")
        assert store.run().id == "r1"
        with pytest.raises(StoreError, match="read-only"):
            store.finish("r1", "now")


def test_a_full_disk_says_so_and_keeps_what_was_stored(tmp_path: Path) -> None:
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="the disk is full"):
            store.add("r1", replace(WHOLE, log="x" * 100_000))
        assert store.planned("r1") == CASES


@pytest.mark.parametrize(
    ("table", "column", "text", "read"),
    [
        ("runs", "facts", '{"a": 1', lambda store: store.runs()),
        ("measurements", "data", '{"a": 1}', lambda store: store.run()),
        ("measurements", "data", "3", lambda store: store.run()),
        ("planned", "data", '{"a": 1', lambda store: store.planned(RUN.id)),
        ("planned", "data", '{"a": 1}', lambda store: store.pending(RUN.id)),
    ],
)
def test_a_damaged_row_is_told_with_the_remedy(
    table: str, column: str, text: str, read: Callable[[Store], object], tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    with Store(path) as store:
        store.begin(RUN, CASES)
        store.add(RUN.id, WHOLE)
        with sqlite3.connect(path) as database:
            database.execute(f"UPDATE {table} SET {column} = ?", (text,))
        database.close()
        with pytest.raises(StoreError, match=r"runs\.db: a row of it is damaged .*; restore a copy"):
            read(store)


def test_no_sample_is_lost(tmp_path: Path) -> None:
    samples = tuple(Sample(i + 1, math.pi * i) for i in range(2000))
    with Store(tmp_path / "runs.sqlite") as store:
        store.begin(RUN, CASES)
        store.add("r1", replace(WHOLE, samples=samples))
        assert store.run().measurements[0].samples == samples

"""The results database: SQLite, each measurement stored as soon as it is made. The only file with SQL.

A rollback journal and full synchronisation keep every stored row through kill -9 and power loss, and the database one
file, which can be copied. Schema history: `records.SCHEMA_VERSION`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from unrollbench.case import Case, from_json, to_json
from unrollbench.errors import StoreError
from unrollbench.records import (
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    Ceiling,
    Environment,
    Measurement,
    Run,
    ceiling_from_json,
    measurement_from_json,
    measurement_to_json,
)

SCHEMA = """
CREATE TABLE schema (version INTEGER NOT NULL);
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    suite TEXT NOT NULL,
    suite_source TEXT NOT NULL,
    started_at TEXT NOT NULL,
    finished_at TEXT,
    fingerprint TEXT NOT NULL,
    facts TEXT NOT NULL
);
CREATE TABLE planned (
    run_id TEXT NOT NULL REFERENCES runs (id),
    position INTEGER NOT NULL,
    case_key TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (run_id, case_key, repeat)
);
CREATE TABLE measurements (
    run_id TEXT NOT NULL REFERENCES runs (id),
    case_key TEXT NOT NULL,
    repeat INTEGER NOT NULL,
    status TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (run_id, case_key, repeat)
);
"""
CEILINGS = "CREATE TABLE IF NOT EXISTS ceilings (run_id TEXT PRIMARY KEY REFERENCES runs (id), data TEXT NOT NULL)"
"""Made with the first row in it, as databases of schema version 1 have no such table."""
WAIT_S = 10.0
"""How long to wait while another process writes."""


class Store:
    """A database of runs; a context manager. Every method that changes it has the change on disk when it returns.

    All methods raise StoreError, with the file and what to do, where the database cannot be used.
    """

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        """Opens the database, which is created with its folder if it does not exist and `create` is true."""
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(f"{path}: is a folder; name a file in it, such as {self.path / 'runs.sqlite'}")
        if not create and not self.path.exists():
            raise StoreError(f"{path}: no such database; `unrollbench run` makes one")
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        try:
            with self._errors():
                self._open()
        except StoreError:
            self._database.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """The file is no longer held."""
        self._database.close()

    def begin(self, run: Run, cases: Sequence[Case], repeats: int = 1) -> None:
        """The run is recorded, with each case planned `repeats` times: all cases once, then all again.

        Every other round goes backwards, so that no case always comes after the same other one.
        """
        environment = run.environment
        with self._transaction() as database:
            database.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    run.id,
                    run.suite,
                    run.suite_source,
                    run.started_at,
                    run.finished_at,
                    environment.fingerprint,
                    json.dumps(dict(environment.facts)),
                ),
            )
            rounds = [(repeat, case) for repeat in range(repeats) for case in cases[:: -1 if repeat % 2 else 1]]
            planned = [(case.key, repeat, json.dumps(to_json(case))) for repeat, case in rounds]
            database.executemany(
                "INSERT INTO planned VALUES (?, ?, ?, ?, ?)",
                [(run.id, position, *row) for position, row in enumerate(planned)],
            )

    def add(self, run_id: str, measurement: Measurement) -> None:
        """The measurement is stored, in place of an earlier one of the same case and repeat."""
        row = (run_id, measurement.case.key, measurement.repeat, measurement.status)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?)",
                (*row, json.dumps(measurement_to_json(measurement))),
            )

    def add_ceilings(self, run_id: str, ceilings: Sequence[Ceiling], unknown: Mapping[str, str] | None = None) -> None:
        """The run has these ceilings, in place of earlier ones. unknown: device -> why it has none."""
        data = json.dumps({"ceilings": [asdict(one) for one in ceilings], "unknown": dict(unknown or {})})
        with self._transaction() as database:
            database.execute(CEILINGS)
            database.execute("INSERT OR REPLACE INTO ceilings VALUES (?, ?)", (run_id, data))

    def finish(self, run_id: str, finished_at: str) -> None:
        """The run is recorded as complete."""
        with self._transaction() as database:
            database.execute("UPDATE runs SET finished_at = ? WHERE id = ?", (finished_at, run_id))

    def run(self, run_id: str | None = None) -> Run:
        """That run, or the newest, with its measurements in the order of the plan."""
        found = [run for run in self.runs() if run_id in (None, run.id)]
        if not found:
            known = ", ".join(run.id for run in self.runs()) or "none"
            wanted = "no run yet" if run_id is None else f"no run {run_id!r}"
            raise StoreError(f"{self.path}: {wanted}; it has: {known}")
        run = found[-1]
        rows = self._rows(
            "SELECT m.data FROM measurements m LEFT JOIN planned p USING (run_id, case_key, repeat)"
            " WHERE m.run_id = ? ORDER BY p.position IS NULL, p.position, m.rowid",
            run.id,
        )
        with self._decoding():
            measurements = tuple(measurement_from_json(json.loads(data)) for (data,) in rows)
            ceilings, unknown = self._ceilings(run.id)
        return replace(run, measurements=measurements, ceilings=ceilings, ceilings_unknown=unknown)

    def runs(self) -> list[Run]:
        """All runs, the oldest first, without their measurements and ceilings."""
        rows = self._rows(
            "SELECT id, suite, started_at, fingerprint, facts, finished_at, suite_source,"
            " (SELECT count(*) FROM planned WHERE run_id = runs.id) FROM runs ORDER BY started_at, rowid"
        )
        with self._decoding():
            return [
                Run(
                    id=row[0],
                    suite=row[1],
                    started_at=row[2],
                    environment=Environment(row[3], json.loads(row[4])),
                    finished_at=row[5],
                    suite_source=row[6],
                    planned=row[7],
                )
                for row in rows
            ]

    def planned(self, run_id: str) -> tuple[Case, ...]:
        """The cases of the run, each once, in the order of the plan."""
        rows = self._rows("SELECT data FROM planned WHERE run_id = ? AND repeat = 0 ORDER BY position", run_id)
        with self._decoding():
            return tuple(from_json(json.loads(data)) for (data,) in rows)

    def pending(self, run_id: str) -> tuple[tuple[Case, int], ...]:
        """The (case, repeat) pairs that have no result yet, in the order of the plan.

        A crash is no result: whoever killed the worker may have been no fault of the case, and trying again is cheap.
        """
        rows = self._rows(
            "SELECT data, repeat FROM planned p WHERE run_id = ? AND NOT EXISTS (SELECT 1 FROM measurements m"
            " WHERE m.run_id = p.run_id AND m.case_key = p.case_key AND m.repeat = p.repeat AND m.status != 'crashed')"
            " ORDER BY position",
            run_id,
        )
        with self._decoding():
            return tuple((from_json(json.loads(data)), repeat) for data, repeat in rows)

    def _ceilings(self, run_id: str) -> tuple[tuple[Ceiling, ...], Mapping[str, str]]:
        """The run's ceilings, and for which devices it has none and why; neither where it measured none."""
        made = self._rows("SELECT name FROM sqlite_master WHERE name = 'ceilings'")
        rows = self._rows("SELECT data FROM ceilings WHERE run_id = ?", run_id) if made else []
        if not rows:
            return (), {}
        found = json.loads(rows[0][0])
        unknown = found["unknown"] or {}
        unknown = {"cpu": unknown} if isinstance(unknown, str) else unknown  # up to schema version 2
        return tuple(ceiling_from_json(one) for one in found["ceilings"]), unknown

    def _open(self) -> None:
        """The database is one of ours, of this version; an empty file becomes one."""
        self._database.execute("PRAGMA synchronous = FULL")
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            with self._transaction() as database:
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                database.execute("INSERT INTO schema VALUES (?)", (SCHEMA_VERSION,))
        elif not {"schema", "runs", "planned", "measurements"} <= tables:
            raise StoreError(f"{self.path}: a SQLite database, but not of unrollbench; name another file")
        else:
            version = max((found for (found,) in self._rows("SELECT version FROM schema")), default=None)
            if version not in READABLE_VERSIONS:
                known = ", ".join(map(str, READABLE_VERSIONS))
                raise StoreError(
                    f"{self.path}: has schema version {version}, this unrollbench reads {known} and writes"
                    f" {SCHEMA_VERSION}; use the unrollbench that wrote it, or name another file"
                )

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        with self._errors():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the `with` block is on disk at its end, or nothing of it."""
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                # An older database has this version from its first change on; what it held is read as it was.
                self._database.execute("UPDATE schema SET version = ?", (SCHEMA_VERSION,))
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """A row that is not what was written into it is a StoreError, with the file and what to do."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self.path}: a row of it is damaged ({type(error).__name__}: {error});"
                " restore a copy, or name another file"
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's and the system's errors as StoreError, with the file and what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {_explained(error)}") from error


def _explained(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened: {error.strerror}"
    remedies = {
        sqlite3.SQLITE_NOTADB: "not a SQLite database; name another file",
        sqlite3.SQLITE_BUSY: f"another process has kept it locked for {WAIT_S:g} s; wait for it, or name another file",
        sqlite3.SQLITE_LOCKED: "another process keeps it locked; wait for it, or name another file",
        sqlite3.SQLITE_READONLY: "is read-only; make it writable, or name another file",
        sqlite3.SQLITE_FULL: "the disk is full; what was stored before is safe",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened or created; look at the folder and its permissions",
        sqlite3.SQLITE_CORRUPT: "is damaged; restore a copy, or name another file",
    }
    # The low byte of SQLite's extended codes is the primary code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return remedies.get(code, f"cannot be used: {error}")

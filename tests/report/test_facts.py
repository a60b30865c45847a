"""Facts are listed flat, with units and reasons."""

from __future__ import annotations

from unrollbench.records import Environment
from unrollbench.report.facts import facts


def test_facts_are_flat_and_readable() -> None:
    given = {
        "cpu_model": "Abacus",
        "memory_bytes": 2**34,
        "load_1m": 0.123456,
        "versions": {"numba": "0.68", "odd": {}},
        "caches": ["L1", "L2"],
        "turbo": None,
        "governor": None,
        "unknown": {"turbo": "no wheels"},
    }
    assert facts(Environment("f00d", given)) == [
        ("fingerprint", "f00d"),
        ("cpu_model", "Abacus"),
        ("memory", "16.0 GiB"),
        ("load_1m", "0.1235"),
        ("versions.numba", "0.68"),
        ("versions.odd", "none"),
        ("caches", "L1, L2"),
        ("turbo", "unknown: no wheels"),
        ("governor", "unknown"),
    ]


def test_no_facts_are_no_lines() -> None:
    assert facts(Environment("f00d")) == [("fingerprint", "f00d")]

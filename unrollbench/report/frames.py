"""A run as pandas frames: `results`, one tidy row per case and process, and `samples`, one row per timed sample.

Columns derive from the fields of the records, so a new axis or metric is a new column without a change here. Unknown is
empty (pandas' NA), and the column `unknown` holds the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pandas as pd

from unrollbench import roofline, stats
from unrollbench.case import Case, CellOptions
from unrollbench.records import Measurement, Metrics, Run

_DTYPES: dict[frozenset[type], str] = {
    frozenset({int}): "Int64",
    frozenset({float}): "Float64",
    frozenset({bool}): "boolean",
}
"""Types of a field, None left aside -> the nullable dtype of its column; everything else is an object column."""


def results(run: Run) -> pd.DataFrame:
    """One row per measurement: run, case key, all axes, status and reason, all metrics, what follows from the samples.

    The axes are those of the canonical case, one column each, `cell_options` spread into its own fields; a list (of
    num_units or lengths) is JSON text. A row is enough to build its case again.
    """
    phases = sorted({phase for m in run.measurements for phase in m.metrics.build_phases_s})
    outcome = _outcome()
    columns = {
        "run_id": "string",
        "suite": "string",
        "fingerprint": "string",
        "case_key": "string",
        **_axes(),
        **{name: outcome.pop(name) for name in ("repeat", "status", "reason")},
        "run_median_s": "Float64",
        "run_min_s": "Float64",
        "run_iqr_s": "Float64",
        "run_host_median_s": "Float64",
        "samples_count": "Int64",
        **_attained(),
        **_metrics(),
        **{f"build_{phase}_s": "Float64" for phase in phases},
        **outcome,
    }
    return _frame((_result(run, m) for m in run.measurements), columns)


def samples(run: Run) -> pd.DataFrame:
    """One row per timed sample, joined to `results` by case_key and repeat; `sample` counts from 0 within a process."""
    rows = (
        {
            "run_id": run.id,
            "case_key": key,
            "repeat": m.repeat,
            "sample": number,
            "loops": sample.loops,
            "elapsed_s": sample.elapsed_s,
            "run_s": sample.run_s,
            "host_s": sample.host_s,
        }
        for m, key in ((m, m.case.key) for m in run.measurements)
        for number, sample in enumerate(m.samples)
    )
    whole, text, real = "Int64", "string", "Float64"
    columns = {"run_id": text, "case_key": text, "repeat": whole, "sample": whole, "loops": whole}
    return _frame(rows, {**columns, "elapsed_s": real, "run_s": real, "host_s": real})


def _result(run: Run, m: Measurement) -> dict[str, Any]:
    case, times = m.case.canonical(), [sample.run_s for sample in m.samples]
    attained = roofline.of_measurement(m, run)
    unknown = {**m.unknown, **({"ceiling_share": attained.reason} if times and attained.reason else {})}
    return {
        "run_id": run.id,
        "suite": run.suite,
        "fingerprint": run.environment.fingerprint,
        "case_key": case.key,
        **{f.name: cell(getattr(case, f.name)) for f in fields(Case) if f.name != "cell_options"},
        **{f.name: cell(getattr(case.cell_options, f.name)) for f in fields(CellOptions)},
        **{name: cell(getattr(m, name)) for name in _outcome()},
        "unknown": cell(unknown),
        "run_median_s": stats.median(times),
        "run_min_s": min(times, default=None),
        "run_iqr_s": stats.iqr(times),
        "run_host_median_s": stats.median([s.host_s / s.loops for s in m.samples if s.host_s is not None]),
        "samples_count": len(times),
        **{name: getattr(attained, name) for name in _attained()},
        **{name: getattr(m.metrics, name) for name in _metrics()},
        **{f"build_{phase}_s": value for phase, value in m.metrics.build_phases_s.items()},
    }


def _axes() -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, hint in get_type_hints(Case).items():
        columns |= _columns(CellOptions) if hint is CellOptions else {name: _dtype(hint)}
    return columns


def _outcome() -> dict[str, str]:
    """The fields of a measurement that are one column each."""
    spread = ("case", "metrics", "samples")
    return {name: dtype for name, dtype in _columns(Measurement).items() if name not in spread}


def _metrics() -> dict[str, str]:
    """The metrics that are one figure each; the build phases become a column per phase."""
    return {name: dtype for name, dtype in _columns(Metrics).items() if name != "build_phases_s"}


def _attained() -> dict[str, str]:
    """What was attained of the machine's ceilings; the reason goes to `unknown`."""
    return {name: dtype for name, dtype in _columns(roofline.Attained).items() if name != "reason"}


def _columns(record: type) -> dict[str, str]:
    return {name: _dtype(hint) for name, hint in get_type_hints(record).items()}


def _dtype(hint: Any) -> str:
    kinds = get_args(hint) if get_origin(hint) is Union or isinstance(hint, type(int | str)) else (hint,)
    return _DTYPES.get(frozenset(kind for kind in kinds if kind is not NoneType), "object")


def cell(value: Any) -> Any:
    """The value as a table holds it: a list or a table of reasons as JSON text, an empty one as nothing."""
    if isinstance(value, Mapping):
        return json.dumps(dict(value)) if value else None
    return json.dumps(list(value)) if isinstance(value, tuple) else value


def _frame(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """The rows under exactly these columns, in this order and of these dtypes, also without any row."""
    kept = list(rows)
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in kept], dtype=dtype) for name, dtype in columns.items()},
        columns=list(columns),
    )

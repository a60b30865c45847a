"""results.csv, samples.csv and, where there are peers, ratios.csv: the frames of a run as RFC 4180 text in UTF-8."""

from __future__ import annotations

from pathlib import Path

from unrollbench.records import Run
from unrollbench.report import frames, peers, ratios
from unrollbench.report.files import replace_text
from unrollbench.report.groups import groups


def write(run: Run, folder: Path) -> tuple[Path, ...]:
    """The run's tables lie in the folder, each whole or not at all. Returns their paths."""
    tables = {"results.csv": frames.results(run), "samples.csv": frames.samples(run)}
    beside = peers.tables(groups(run))
    if beside:
        tables["ratios.csv"] = ratios.ratios(run, beside)
    written = []
    for name, frame in tables.items():
        path = folder / name
        replace_text(path, frame.to_csv(index=False, lineterminator="\n"))
        written.append(path)
    return tuple(written)

"""results.csv and samples.csv: the frames of a run as RFC 4180 text in UTF-8."""

from __future__ import annotations

from pathlib import Path

from unrollbench.records import Run
from unrollbench.report import frames
from unrollbench.report.files import replace_text


def write(run: Run, folder: Path) -> tuple[Path, Path]:
    """`results.csv` and `samples.csv` lie in the folder, each whole or not at all. Returns their paths."""
    written = []
    for name, frame in (("results.csv", frames.results(run)), ("samples.csv", frames.samples(run))):
        path = folder / name
        replace_text(path, frame.to_csv(index=False, lineterminator="\n"))
        written.append(path)
    return written[0], written[1]

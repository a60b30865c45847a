"""What a run says, for people and for programs: a page, two tables, and a summary for the terminal."""

from __future__ import annotations

from pathlib import Path

from unrollbench.records import Run


def write(run: Run, folder: Path) -> tuple[Path, ...]:
    """The run's CSV files and `report.html` lie in the folder. Returns their paths."""
    from unrollbench.report import csv, html  # pandas takes half a second to import, and a summary needs none

    return (*csv.write(run, folder), html.write(run, folder))

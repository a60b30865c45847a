"""The CSV files hold what the frames hold, whatever the strings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.runs import adversarial
from unrollbench.records import Run
from unrollbench.report import csv


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_csv_files_can_be_read_back(run: Run, tmp_path: Path) -> None:
    results, samples = csv.write(run, tmp_path)
    assert (results.name, samples.name) == ("results.csv", "samples.csv")
    frame = pd.read_csv(results)
    assert list(frame["case_key"]) == [m.case.key for m in run.measurements]
    assert len(pd.read_csv(samples)) == sum(len(m.samples) for m in run.measurements)

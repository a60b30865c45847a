"""ratios.csv has a row for each peer of each network, whether it has figures or not."""

from __future__ import annotations

import pytest

from tests.report.test_standings import RUN
from unrollbench.report.groups import groups
from unrollbench.report.peers import tables
from unrollbench.report.ratios import ratios


def test_a_row_per_network_and_peer_with_both_sides_and_their_ratio() -> None:
    rows = ratios(RUN, tables(groups(RUN))).to_dict("records")
    onnx, torch, _ = rows
    assert (torch["batch_size"], torch["peer_backend"], torch["peer_setting"]) == (4, "torch", "library")
    assert torch["peer_run_s"] == pytest.approx(1.75e-3)
    assert (torch["ratio"], torch["ratio_low"], torch["ratio_high"]) == pytest.approx((1.75, 1.5, 2.0))
    assert (torch["rounds"], torch["fastest"]) == (2, True)
    assert (torch["ours_ceiling"], torch["ours_ceiling_share"]) == ("multiply-add", pytest.approx(0.5))
    assert torch["ours_case_key"] == RUN.measurements[0].case.key
    assert (onnx["peer_status"], onnx["fastest"]) == ("skipped", False)
    assert onnx["peer_failures"] == "onnx library: skipped: for this reason"


def test_what_is_not_known_is_empty() -> None:
    frame = ratios(RUN, tables(groups(RUN)))
    assert frame["ratio"].isna().tolist() == [True, False, False]
    assert frame["peer_ceiling_share"].isna().tolist() == [True, False, False]

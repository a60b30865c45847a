"""ratios.csv: the tables of peers as a pandas frame, one row per network and peer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pandas as pd

from unrollbench.case import VARIANT_AXES, Case, CellOptions
from unrollbench.records import Run
from unrollbench.report import frames, peers, standings
from unrollbench.report.peers import TABLE_AXES, Entrant, Standing

_AXES = tuple(f.name for f in fields(Case) if f.name in TABLE_AXES or f.name not in (*VARIANT_AXES, "cell_options"))
"""The axes that say which network it is, and in which precision."""


def ratios(run: Run, tables: tuple[peers.Table, ...]) -> pd.DataFrame:
    """One row per network and peer: both sides' best settings with their times, and the peer's time over ours.

    rounds: in how many both were measured; ratio_low and ratio_high are the lowest and highest of them, or with one
    round what its samples allow. fastest: whether it is the fastest peer of the network. A side without figures has its
    status, and its reasons in `failures`.
    """
    rows = [_row(run, s, peer) for table in tables for s in table.standings for peer in s.peers]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row))).convert_dtypes()


def _row(run: Run, standing: Standing, peer: Entrant) -> dict[str, Any]:
    case, ratio = standing.network.canonical(), standing.ratio(peer)
    return {
        "run_id": run.id,
        "suite": run.suite,
        **{name: frames.cell(getattr(case, name)) for name in _AXES},
        **{f.name: frames.cell(getattr(case.cell_options, f.name)) for f in fields(CellOptions)},
        **dict(_side("ours", standing.ours, run)),
        **dict(_side("peer", peer, run)),
        "ratio": None if ratio is None else ratio.estimate,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": None if ratio is None else ratio.high,
        "rounds": None if ratio is None else ratio.rounds,
        "fastest": peer is standing.fastest,
    }


def _side(side: str, entrant: Entrant, run: Run) -> Iterator[tuple[str, Any]]:
    best, attained = entrant.best, standings.attained(entrant, run)
    yield f"{side}_backend", entrant.backend
    yield f"{side}_status", entrant.status
    yield f"{side}_setting", None if best is None else peers.setting(best)
    yield f"{side}_case_key", None if best is None else best.case.key
    yield f"{side}_settings_count", entrant.settings
    yield f"{side}_run_s", entrant.run_s
    yield f"{side}_gflops_per_s", attained.gflops_per_s
    yield f"{side}_ceiling", attained.ceiling
    yield f"{side}_ceiling_share", attained.ceiling_share
    yield f"{side}_failures", "; ".join(entrant.failures) or None

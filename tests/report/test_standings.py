"""The tables in words have every figure with its spread, every peer, and what the figures mean."""

from __future__ import annotations

from dataclasses import replace

from tests.report.test_peers import LIBRARY, NETWORK, rounds
from tests.runs import failed, run_of
from unrollbench.records import Ceiling
from unrollbench.report import standings
from unrollbench.report.groups import groups
from unrollbench.report.peers import headlines, tables
from unrollbench.report.standings import Cell

OTHER = replace(NETWORK, batch_size=5)
RUN = replace(
    run_of(
        *rounds(NETWORK, 1e-3, 1e-3),
        *rounds(LIBRARY, 1.5e-3, 2e-3),
        failed(replace(LIBRARY, backend="onnx"), "skipped"),
        *rounds(OTHER, 1e-3, 1e-3),
        *rounds(replace(LIBRARY, batch_size=5), 0.8e-3, 0.9e-3),
    ),
    ceilings=(
        Ceiling("multiply-add", "float32", 1, NETWORK.flops / 0.5e-3 / 1e9, "GFLOP/s"),
        Ceiling("read", "float32", 1, 1e6, "GB/s", 4 * 32 * 32 * 4),
    ),
)


def test_a_row_has_our_setting_its_share_of_the_ceiling_and_a_cell_for_every_peer() -> None:
    told = standings.words(tables(groups(RUN))[0], RUN)
    assert told.backends == ("onnx", "torch")
    first, second = told.rows
    assert first.network == "T=8 B=4 I=64 H=32 L=1"
    assert first.ours == Cell("1.00 ms", "dynamic [1]")
    assert first.ceiling == Cell("50 % of multiply-add")
    assert first.fastest == Cell("1.75 ms torch", "library [1]")
    assert first.peers == (Cell("skipped"), Cell("1.75", "(1.50-2.00)", True))
    assert second.peers == (Cell("not tried"), Cell("0.85", "(0.80-0.90)", False))
    assert told.mean.text == "1.22"
    assert told.limit is not None
    least_s = 0.5e-3, 0.5e-3 * OTHER.flops / NETWORK.flops
    assert told.limit.text == f"{(1.75e-3 / least_s[0] * 0.85e-3 / least_s[1]) ** 0.5:.2f}"
    assert told.settings == "dynamic on 2"


def test_on_a_gpu_the_share_is_that_of_our_best_setting_and_of_the_gpu() -> None:
    """In float64 the loop's products are its kernel's; those of a graph may be made by tensor cores."""
    loop = replace(NETWORK, backend="numba_cuda", device="cuda", dtype="float64")
    graph, peer = replace(loop, execution="static"), replace(LIBRARY, device="cuda", dtype="float64")
    peak = Ceiling("multiply-add", "float64", None, NETWORK.flops / 0.5e-3 / 1e9, "GFLOP/s", device="cuda")
    read = Ceiling("read", "float64", None, 1e6, "GB/s", 4 * 32 * 32 * 8, device="cuda", place="shared memory")
    shares = {}
    for graph_s in (2e-3, 0.8e-3):
        measurements = (*rounds(graph, graph_s), *rounds(loop, 1e-3), *rounds(peer, 3e-3))
        run = replace(run_of(*measurements), ceilings=(peak, read))
        (table,) = tables(groups(run))
        (row,) = standings.words(table, run).rows
        shares[row.ours.fine] = row.ceiling.text
        assert row.ratio.text == f"{3e-3 / min(graph_s, 1e-3):.2f}"
    assert shares == {"dynamic [2]": "50 % of multiply-add", "static [2]": "-"}


def test_the_lines_for_a_terminal_have_the_same_cells() -> None:
    title, head, first, _, mean, limit, settings = standings.lines(tables(groups(RUN)), RUN)
    assert title == "lstm float32 forward, 1 thread: each peer's time over that of numba_cpu"
    assert head.split("  ")[-1].strip() == "torch"
    for figure in ("1.00 ms", "50 % of multiply-add", "1.75 ms torch", "1.75 (1.50-2.00)", "skipped"):
        assert figure in first
    assert limit.split()[:5] == ["at", "the", "ceilings", "100", "%"]
    assert mean.split() == ["geometric", "mean", "of", "2", "1.22", "-", "1.22"]
    assert settings == "  our fastest settings: dynamic on 2"


def test_without_ceilings_nothing_is_said_of_them() -> None:
    run = replace(RUN, ceilings=())
    (table,) = tables(groups(run))
    assert standings.words(table, run).limit is None
    assert not any("ceilings" in line for line in standings.lines((table,), run))


def test_the_note_says_what_the_spread_is_of() -> None:
    one = run_of(*rounds(NETWORK, 1e-3), *rounds(LIBRARY, 2e-3))
    assert "of 2 rounds" in standings.note(tables(groups(RUN)), ceiling=False)
    assert "samples" in standings.note(tables(groups(one)), ceiling=False)
    assert "three times the forward ones" in standings.note(tables(groups(one)), ceiling=True)


def test_the_note_tells_of_a_network_that_only_one_round_has_figures_of() -> None:
    alone = (*rounds(OTHER, 1e-3, 1e-3), *rounds(replace(LIBRARY, batch_size=5), 0.8e-3))
    mixed = tables(groups(run_of(*rounds(NETWORK, 1e-3, 1e-3), *rounds(LIBRARY, 1.5e-3, 2e-3), *alone)))
    assert "up to 2 rounds" in standings.note(mixed, ceiling=False)
    assert "in every round" not in " ".join(headlines(mixed))


def test_where_ours_has_no_figures_its_status_is_shown_and_no_ratio() -> None:
    run = run_of(failed(NETWORK, "crashed", "SIGSEGV"), *rounds(LIBRARY, 1e-3))
    (row,) = standings.words(tables(groups(run))[0], run).rows
    assert (row.ours.text, row.ratio.text) == ("crashed", "-")
    assert row.fastest.text == "1.00 ms torch"

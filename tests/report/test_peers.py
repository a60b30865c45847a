"""Ours is held against others on the same network only, each at its best, and nobody is dropped in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.runs import adversarial, failed, measured, run_of
from unrollbench.case import Case
from unrollbench.records import Measurement, Run, Sample
from unrollbench.report import peers
from unrollbench.report.groups import groups
from unrollbench.report.peers import Table, peer_of, setting, tables

NETWORK = Case(sequence_length=8, batch_size=4, num_units=32)
LIBRARY = replace(NETWORK, backend="torch", execution="library")


def rounds(case: Case, *seconds: float) -> list[Measurement]:
    """A measurement of the case for each round."""
    return [measured(case, run_s, repeat=repeat) for repeat, run_s in enumerate(seconds)]


def only(run: Run) -> Table:
    (table,) = tables(groups(run))
    return table


def test_each_side_is_taken_at_its_fastest_setting() -> None:
    static, narrow = replace(NETWORK, execution="static"), replace(NETWORK, parallel_iterations=2)
    loop = replace(NETWORK, backend="tensorflow")
    run = run_of(
        *rounds(NETWORK, 3e-3), *rounds(static, 1e-3), *rounds(narrow, 2e-3),
        *rounds(loop, 5e-3), *rounds(replace(loop, execution="static"), 4e-3), *rounds(LIBRARY, 6e-3),
    )  # fmt: skip
    (standing,) = only(run).standings
    assert standing.ours.best is not None
    assert setting(standing.ours.best) == "static"
    assert standing.ours.settings == 3
    assert standing.fastest is not None
    assert standing.fastest.backend == "tensorflow"
    ratio = standing.ratio(standing.fastest)
    assert ratio is not None
    assert ratio.estimate == pytest.approx(4.0)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine twice as slow in the second round changes both sides and not their ratio."""
    run = run_of(*rounds(NETWORK, 1e-3, 2e-3, 1e-3), *rounds(LIBRARY, 1.5e-3, 3e-3, 1.2e-3))
    (standing,) = only(run).standings
    ratio = standing.ratio(standing.fastest)
    assert ratio is not None
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((1.5, 1.2, 1.5))
    assert ratio.rounds == 3


def test_a_peer_without_events_is_held_against_the_wall_s_time_of_ours() -> None:
    on_gpu = replace(NETWORK, backend="numba_cuda", device="cuda")
    ours = replace(measured(on_gpu), samples=(Sample(2, 2e-3, 8e-3),) * 10)
    torch = replace(measured(replace(on_gpu, backend="torch", execution="library")), samples=(Sample(1, 2e-3, 9e-3),))
    jax = measured(replace(on_gpu, backend="jax"), 8e-3)
    (standing,) = only(run_of(ours, torch, jax)).standings
    ratios = {peer.backend: standing.ratio(peer) for peer in standing.peers}
    assert {name: ratio and ratio.estimate for name, ratio in ratios.items()} == pytest.approx({"torch": 2, "jax": 2})


def test_networks_precisions_and_threads_are_not_mixed() -> None:
    other = replace(NETWORK, mode="train")
    cases = (NETWORK, LIBRARY, other, replace(LIBRARY, mode="train"), replace(LIBRARY, batch_size=5))
    found = tables(groups(run_of(*(measured(case) for case in cases))))
    assert [(t.title, len(t.standings)) for t in found] == [
        ("lstm float32 forward, 1 thread", 1),
        ("lstm float32 train, 1 thread", 1),
    ]
    on_gpu = replace(NETWORK, backend="numba_cuda", device="cuda")
    rounded = replace(on_gpu, matmul_precision="tf32")
    both = [replace(case, backend="torch", execution="library") for case in (on_gpu, rounded)]
    found = tables(groups(run_of(*(measured(case) for case in (on_gpu, rounded, *both)))))
    titles = ["lstm float32 forward on cuda", "lstm float32 forward tf32 on cuda"]
    assert [table.title for table in found] == titles


def test_the_mean_is_geometric_over_networks_with_figures_of_both() -> None:
    small, large, broken = (replace(NETWORK, batch_size=size) for size in (1, 2, 3))
    library = [replace(LIBRARY, batch_size=case.batch_size) for case in (small, large, broken)]
    run = run_of(
        measured(small, 1e-3), measured(library[0], 2e-3),
        measured(large, 1e-3), measured(library[1], 8e-3),
        failed(broken, "crashed"), measured(library[2], 1e-3),
    )  # fmt: skip
    mean = only(run).mean()
    assert mean is not None
    assert (mean.estimate, mean.low, mean.high) == pytest.approx((4.0, 2.0, 8.0))
    assert mean.count == 2
    (said,) = peers.headlines([only(run)])
    assert "takes 4.00 times as long as numba_cpu (geometric mean; 2.00 to 8.00) on 2 networks" in said
    assert said.endswith("1 more without figures of both.")


def test_a_network_on_which_ours_is_behind_is_said() -> None:
    run = run_of(*rounds(NETWORK, 2e-3, 2e-3), *rounds(LIBRARY, 1e-3, 1e-3))
    (said,) = peers.headlines([only(run)])
    assert "takes 0.50 times as long as numba_cpu on 1 network; numba_cpu is ahead in every round on 0" in said
    assert "behind on 1" in said


def test_whoever_has_no_figures_stands_there_with_status_and_reason() -> None:
    crashed = replace(LIBRARY, backend="tensorflow", execution="static")
    run = run_of(measured(NETWORK), failed(crashed, "timeout", "too long"), failed(LIBRARY, "out_of_memory", "large"))
    (standing,) = only(run).standings
    assert standing.fastest is None
    assert [(peer.backend, peer.status) for peer in standing.peers] == [
        ("tensorflow", "timeout"),
        ("torch", "out of memory"),
    ]
    assert [peer.failures for peer in standing.peers] == [
        ("tensorflow static: timeout: too long",),
        ("torch library: out_of_memory: large",),
    ]
    assert peer_of(standing, "jax") is None
    (said,) = peers.headlines([only(run)])
    assert said.endswith("so nothing is ranked here.")


def test_sides_that_never_met_in_a_round_have_no_ratio() -> None:
    run = run_of(measured(NETWORK, repeat=0), measured(LIBRARY, repeat=1))
    (standing,) = only(run).standings
    assert standing.ratio(standing.peers[0]) is None


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_a_run_of_ours_alone_has_no_table(run: Run) -> None:
    assert tables(groups(run)) == ()

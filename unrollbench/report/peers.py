"""Our kernels beside other backends: on each network the fastest setting of each side, and the ratio of their times.

Only cases of one network are held against each other, in one precision, by the rounds in which both were measured. Each
backend is represented by its fastest setting that has figures, ours as well; how many it had to choose from is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from unrollbench import labels, stats
from unrollbench.case import Case
from unrollbench.report.groups import OURS, Group, Variant, same_clock

TABLE_AXES = ("cell", "dtype", "device", "mode", "threads", "matmul_precision")
"""Networks that differ in these are in tables of their own."""


@dataclass(frozen=True)
class Entrant:
    """A backend on one network, with every setting of it that was tried."""

    backend: str
    variants: tuple[Variant, ...]

    @cached_property
    def best(self) -> Variant | None:
        """The setting with the least median time of a run; None if none has figures."""
        timed = [(centre, v) for v in self.variants if (centre := stats.centre(v.run_s)) is not None]
        return min(timed, key=lambda one: one[0])[1] if timed else None

    @property
    def run_s(self) -> float | None:
        """Seconds of one run of the best setting."""
        return None if self.best is None else stats.centre(self.best.run_s)

    @property
    def settings(self) -> int:
        """How many settings have figures."""
        return sum(1 for v in self.variants if v.ok)

    @property
    def failures(self) -> tuple[str, ...]:
        """`SETTING: STATUS: REASON` of all that have none, or not in every round."""
        return tuple(f"{labels.variant(v.case)}: {reason}" for v in self.variants for reason in v.reasons)

    @property
    def status(self) -> str:
        """The status of its first measurement, in words: `ok` where it has figures."""
        return "ok" if self.best is not None else self.variants[0].measurements[0].status.replace("_", " ")


@dataclass(frozen=True)
class Standing:
    """Our kernels and their peers on one network."""

    ours: Entrant
    peers: tuple[Entrant, ...]

    @property
    def network(self) -> Case:
        return self.ours.variants[0].case

    @cached_property
    def fastest(self) -> Entrant | None:
        """The peer with the least ratio, or without ours the least time; None if no peer has figures."""
        timed = [(ratio.estimate, peer) for peer in self.peers if (ratio := self.ratio(peer)) is not None]
        timed = timed or [(peer.run_s, peer) for peer in self.peers if peer.run_s is not None]
        return min(timed, key=lambda one: one[0])[1] if timed else None

    def ratio(self, peer: Entrant | None) -> stats.Rounds | None:
        """The peer's time over ours: above 1, ours is faster. None where a side has no figures."""
        if peer is None or peer.best is None or self.ours.best is None:
            return None
        theirs, own = same_clock(peer.best, self.ours.best)
        return stats.by_rounds(_rounds(peer.best, theirs), _rounds(self.ours.best, own))


@dataclass(frozen=True)
class Table:
    """The standings of all networks that have the same TABLE_AXES."""

    standings: tuple[Standing, ...]

    @property
    def title(self) -> str:
        """`lstm float32 forward, 1 thread`; on a GPU, which the host's thread only starts, one is not told."""
        case = self.standings[0].network
        words = [case.cell, case.dtype, case.mode]
        words += [case.matmul_precision] if case.matmul_precision == "tf32" else []
        words += [f"on {case.device}"] if case.device != "cpu" else []
        threads = f", {case.threads} thread{'s' * (case.threads > 1)}"
        return " ".join(words) + (threads if case.device == "cpu" or case.threads > 1 else "")

    @property
    def ours(self) -> str:
        """The backend that is ours on this device."""
        return self.standings[0].ours.backend

    @property
    def backends(self) -> tuple[str, ...]:
        """The peers that were tried on any of the networks."""
        return tuple(sorted({peer.backend for standing in self.standings for peer in standing.peers}))

    def mean(self, backend: str | None = None) -> stats.Mean | None:
        """Over the networks where both have figures: of that peer's ratios, or of the fastest peer's on each."""
        ratios = (s.ratio(s.fastest if backend is None else peer_of(s, backend)) for s in self.standings)
        return stats.geometric_mean([ratio.estimate for ratio in ratios if ratio is not None])

    @property
    def settings(self) -> Mapping[str, int]:
        """Our best setting, in words -> on how many networks it is the best."""
        counts: dict[str, int] = {}
        for best in (standing.ours.best for standing in self.standings):
            if best is not None:
                name = setting(best)
                counts[name] = counts.get(name, 0) + 1
        return counts


def tables(found: Sequence[Group]) -> tuple[Table, ...]:
    """A table for all networks that were run by us and by another backend, whether with figures or not."""
    by_axes: dict[tuple[object, ...], list[Standing]] = {}
    for group in found:
        for standing in _standings(group):
            key = tuple(getattr(standing.network, axis) for axis in TABLE_AXES)
            by_axes.setdefault(key, []).append(standing)
    return tuple(Table(tuple(standings)) for standings in by_axes.values())


def peer_of(standing: Standing, backend: str) -> Entrant | None:
    """The peer of that name, or None if it was not tried on this network."""
    return next((peer for peer in standing.peers if peer.backend == backend), None)


def setting(variant: Variant) -> str:
    """How a backend runs the network, such as `static`: the variant without the backend's name."""
    return labels.variant(variant.case).removeprefix(f"{variant.case.backend} ")


def headlines(found: Sequence[Table]) -> Iterator[str]:
    """For each table a sentence: by how much ours is ahead of each network's fastest peer, and where it is not."""
    for table in found:
        mean, total = table.mean(), len(table.standings)
        if mean is None:
            yield f"{table.title}: no network has figures of {table.ours} and of another, so nothing is ranked here."
            continue
        ratios = [r for s in table.standings if (r := s.ratio(s.fastest)) is not None]
        ahead, behind = sum(r.low > 1 for r in ratios), sum(r.high < 1 for r in ratios)
        always = "in every round" if min(r.rounds for r in ratios) > 1 else "by more than the figures scatter"
        counts = [f"ahead {always} on {ahead}", *([f"behind on {behind}"] if behind else [])]
        level = len(ratios) - ahead - behind
        counts += [f"neither on {level}"] if level else []
        without = f"; {total - mean.count} more without figures of both" if total > mean.count else ""
        networks = "1 network" if mean.count == 1 else f"{mean.count} networks"
        spread = "" if mean.count == 1 else f" (geometric mean; {mean.low:.2f} to {mean.high:.2f})"
        yield (
            f"{table.title}: the fastest peer takes {mean.estimate:.2f} times as long as {table.ours}{spread} "
            f"on {networks}; {table.ours} is {', '.join(counts)}{without}."
        )


def _standings(group: Group) -> Iterator[Standing]:
    """Ours against the others, for each precision that ours was tried in."""
    for precision in dict.fromkeys(v.case.matmul_precision for v in group.variants):
        by_backend: dict[str, list[Variant]] = {}
        for v in group.variants:
            if v.case.matmul_precision == precision:
                by_backend.setdefault(v.case.backend, []).append(v)
        entrants = [Entrant(backend, tuple(variants)) for backend, variants in by_backend.items()]
        ours = next((one for one in entrants if one.backend in OURS), None)
        peers = tuple(one for one in entrants if one.backend not in OURS)
        if ours is not None and peers:
            yield Standing(ours, peers)


def _rounds(variant: Variant, seconds: stats.Processes) -> Mapping[int, Sequence[float]]:
    """Seconds of one run, by round and sample."""
    return {m.repeat: of_process for m, of_process in zip(variant.ok, seconds, strict=True)}

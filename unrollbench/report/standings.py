"""The tables of peers in words, for the terminal and for the page: every cell is text, and no peer is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unrollbench import labels, roofline, stats
from unrollbench.records import Run
from unrollbench.report import wording
from unrollbench.report.peers import TABLE_AXES, Entrant, Standing, Table, peer_of, setting

NOTE = (
    "A ratio is the other's time over ours: above 1, ours is faster. Every backend is taken at its fastest setting on "
    "the network; how many it had to choose from is in brackets in report.html, and more of them are more chances. "
    "Settings without figures are listed apart, with their reasons."
)
ROUNDS = "In parentheses: the lowest and highest of {rounds} rounds, in each of which all were measured side by side."
SOME_ROUNDS = (
    "In parentheses: the lowest and highest of up to {rounds} rounds, in each of which all were measured side by side; "
    "where a single round had figures of both, how far its samples let it be."
)
ONE_ROUND = "In parentheses: how far the samples let it be. What differs from process to process needs --repeats."
CEILING = (
    "Of the ceiling: the least time that this machine's measured limits allow over the time taken. multiply-add: all "
    "matrix products (training: three times the forward ones) at the peak of multiply-adds in registers; paired "
    "multiply-add, matrix unit: the same at the peak of multiplying in pairs (Winograd's inner product), or of the "
    "processor's matrix unit, where that is higher (in pairs ours are made forward only, no others' are); read: the "
    "recurrent weights "
    "once per step (training: twice) at the bandwidth of reading as many bytes. The larger binds. "
    "At the ceilings: how many times as fast as the fastest peer a program would be that reached them, which none can. "
    "Why a share is missing, results.csv tells."
)


@dataclass(frozen=True)
class Cell:
    """One figure, the finer print to it, and whether ours is ahead (True), behind (False) or neither."""

    text: str
    fine: str = ""
    ahead: bool | None = None


@dataclass(frozen=True)
class Row:
    """One network: ours, its share of the ceiling, the fastest peer, its ratio, and the ratio of each peer."""

    network: str
    ours: Cell
    ceiling: Cell
    fastest: Cell
    ratio: Cell
    peers: tuple[Cell, ...]


@dataclass(frozen=True)
class Words:
    """One table: its title, the peers' names, the rows, the geometric means below them, and our best settings.

    A mean is over all `networks` unless its fine print has another number. limit: what the mean of ratios would be if
    ours took no longer than the ceilings allow; None where there are no ceilings.
    """

    title: str
    ours: str
    backends: tuple[str, ...]
    rows: tuple[Row, ...]
    networks: int
    mean: Cell
    means: tuple[Cell, ...]
    limit: Cell | None
    settings: str


def words(table: Table, run: Run) -> Words:
    """The table in words."""
    return Words(
        title=table.title,
        ours=table.ours,
        backends=table.backends,
        rows=tuple(_row(standing, table, run) for standing in table.standings),
        networks=len(table.standings),
        mean=_mean(table.mean(), len(table.standings)),
        means=tuple(_mean(table.mean(backend), len(table.standings)) for backend in table.backends),
        limit=_limit(table, run),
        settings=", ".join(f"{name} on {count}" for name, count in table.settings.items()),
    )


def note(tables: Sequence[Table], *, ceiling: bool) -> str:
    """What the tables' figures mean, in the words that fit this run; what a ceiling is only where that is wanted."""
    counts = [r.rounds for table in tables for s in table.standings if (r := s.ratio(s.fastest)) is not None]
    rounds = max(counts, default=1)
    told = ROUNDS if min(counts, default=1) > 1 else SOME_ROUNDS
    spread = told.format(rounds=rounds) if rounds > 1 else ONE_ROUND
    return " ".join([NOTE, spread, *([CEILING] if ceiling else [])])


def lines(tables: Sequence[Table], run: Run) -> Iterator[str]:
    """The tables for a terminal."""
    for number, table in enumerate(tables):
        told = words(table, run)
        yield from [""] if number else []
        yield f"{told.title}: each peer's time over that of {told.ours}"
        yield from _aligned(told)
        if told.settings:
            yield f"  our fastest settings: {told.settings}"


def _row(standing: Standing, table: Table, run: Run) -> Row:
    fastest, ours = standing.fastest, standing.ours
    return Row(
        network=labels.shape(standing.network, TABLE_AXES),
        ours=_entrant(ours),
        ceiling=Cell(wording.share(attained(ours, run))),
        fastest=Cell(wording.UNKNOWN) if fastest is None else _entrant(fastest, named=True),
        ratio=Cell(wording.UNKNOWN) if fastest is None else _ratio(standing, fastest),
        peers=tuple(_ratio(standing, peer_of(standing, backend)) for backend in table.backends),
    )


def attained(entrant: Entrant, run: Run) -> roofline.Attained:
    """What the entrant's best setting attained of the run's ceilings."""
    case = (entrant.best or entrant.variants[0]).case
    return roofline.attained(case, entrant.run_s, run.ceilings, run.ceilings_unknown)


def _entrant(entrant: Entrant, *, named: bool = False) -> Cell:
    """`6.91 ms` and `static [3]`, or the status; after the time its name, if it is to be named."""
    if entrant.best is None:
        return Cell(entrant.status)
    time = wording.seconds(entrant.run_s)
    return Cell(f"{time} {entrant.backend}" if named else time, f"{setting(entrant.best)} [{entrant.settings}]")


def _ratio(standing: Standing, peer: Entrant | None) -> Cell:
    """The ratio with its spread; the peer's status where it has no figures."""
    if peer is None:
        return Cell("not tried")
    if peer.best is None:
        return Cell(peer.status)
    ratio = standing.ratio(peer)
    if ratio is None:
        return Cell(wording.UNKNOWN)
    figure, _, bounds = wording.spread(ratio).partition(" ")
    return Cell(figure, bounds, True if ratio.low > 1 else False if ratio.high < 1 else None)


def _limit(table: Table, run: Run) -> Cell | None:
    """The geometric mean of the fastest peers' times over the least that the ceilings allow."""
    attained_by_peers = [attained(s.fastest, run) for s in table.standings if s.fastest is not None]
    shares = [found.ceiling_share for found in attained_by_peers if found.ceiling_share is not None]
    mean = stats.geometric_mean([1 / share for share in shares])
    return None if mean is None else _mean(mean, len(table.standings))


def _mean(mean: stats.Mean | None, networks: int) -> Cell:
    """The mean with the lowest and highest of its ratios, and of how many networks where not of all."""
    if mean is None:
        return Cell(wording.UNKNOWN)
    figure, _, ends = wording.spread(mean).partition(" ")
    return Cell(figure, f"{ends} of {mean.count}" if mean.count < networks else ends)


def _aligned(told: Words) -> Iterator[str]:
    table = [
        ("network", told.ours, "of the ceiling", "fastest of the others", "ratio", *told.backends),
        *(_texts(row) for row in told.rows),
        (f"geometric mean of {told.networks}", "", "", "", *map(_with_count, (told.mean, *told.means))),
    ]
    if told.limit is not None:
        table.append(("at the ceilings", "", "100 %", "", _with_count(told.limit), *[""] * len(told.backends)))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        padded = zip(row, widths, strict=True)
        cells = [cell.ljust(width) if n in (0, 2, 3) else cell.rjust(width) for n, (cell, width) in enumerate(padded)]
        yield ("  " + "  ".join(cells)).rstrip()


def _with_count(mean: Cell) -> str:
    """`1.26`, or `1.26 of 11` where some networks have none."""
    return mean.text + mean.fine.partition(")")[2]


def _texts(row: Row) -> tuple[str, ...]:
    first = (row.network, row.ours.text, row.ceiling.text, row.fastest.text)
    return (*first, f"{row.ratio.text} {row.ratio.fine}".strip(), *(cell.text for cell in row.peers))

"""The text that ends a run on the terminal: what each way to run a network costs, and what to do about it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from unrollbench import labels
from unrollbench.records import STATUSES, Measurement, Run
from unrollbench.report import answers, peers, standings, wording
from unrollbench.report.declared import declared
from unrollbench.report.groups import (
    UNDISTURBED_SHARE,
    Contrast,
    Group,
    Variant,
    contrast,
    groups,
    processor_share,
    questions,
)
from unrollbench.stats import ENOUGH_VALUES, Ratio, centre, iqr

_WIDTH = 100
"""Characters of a line of running text."""
_SCATTER = 0.3
"""Interquartile range over median, above which a measurement counts as disturbed."""
_CLOCK_FALL = 0.03
"""A fall of a GPU's clock by more than this fraction from before to after the timed runs counts."""
_HEAD = ("variant", "build", "run", "memory", "its own")
_TWO_CLOCKS = (
    "Run times of a program that is timed by its device's events are those; others' ({}) are the wall's, the wait for "
    "the device included. A ratio between the two is of both by the wall."
)
_RATIOS = ("run time", "build time", "memory")


def text(run: Run) -> str:
    """The whole summary: a block per network, the failures, the counts, and one sentence that answers the suite."""
    found = groups(run)
    beside = peers.tables(found)
    notes = [note for note in (wording.caveat(ratios(found)),) if note]
    notes += [note for note in (two_clocks(found),) if note]
    notes += [standings.note(beside, ceiling=bool(run.ceilings))] if beside else []
    ending = [
        *skips(run),
        tally(run),
        *disturbed(run),
        *throttled(run),
        *multiplied(run),
        *answers.headlines(found),
        *peers.headlines(beside),
    ]
    tables = ["\n".join(standings.lines(beside, run))] if beside else []
    return "\n\n".join(
        [*_blocks(found, run), *tables, *(textwrap.fill(note, _WIDTH) for note in notes), "\n".join(ending)]
    )


def two_clocks(found: Sequence[Group]) -> str | None:
    """Whose run times are not by a device's events, where they stand beside others that are; else None."""
    mixed = [v for group in found for v in group.variants if v.ok and _is_mixed(group)]
    by_wall = sorted({v.case.backend for v in mixed if not v.by_events})
    return _TWO_CLOCKS.format(", ".join(by_wall)) if by_wall else None


def _is_mixed(group: Group) -> bool:
    return len({v.by_events for v in group.variants if v.ok}) > 1


def disturbed(run: Run) -> tuple[str, ...]:
    """A line if measurements show that something else used the machine; else none."""
    timed = [m for m in run.measurements if m.samples]
    shares = [share for m in timed if (share := processor_share(m)) is not None and share < UNDISTURBED_SHARE]
    scattered = sum(1 for m in timed if _scatter(m) > _SCATTER)
    signs = [f"in {scattered} the samples scatter by more than {_SCATTER:.0%}"] if scattered else []
    if shares:
        signs.append(f"in {len(shares)} the process had its processor only in part, {min(shares):.0%} at the least")
    if not signs:
        return ()
    return (
        f"Of {_plural(len(timed), 'measurement')}, {' and '.join(signs)}: something else was probably "
        "using this machine. The bounds allow for that; a quiet machine would show more.",
    )


def throttled(run: Run) -> tuple[str, ...]:
    """A line if a GPU's clocks were held down or fell during measurements; else none."""
    timed = [m for m in run.measurements if m.samples and m.case.device != "cpu"]
    held = [m.metrics.throttling for m in timed if m.metrics.throttling not in (None, "none")]
    before_and_after = [(m.metrics.sm_mhz_before, m.metrics.sm_mhz_after) for m in timed]
    falls = [1 - after / before for before, after in before_and_after if before and after and after < before]
    signs = []
    if held:
        reasons = dict.fromkeys(reason for told in held for reason in str(told).split(", "))
        signs.append(f"in {len(held)} the clocks were held down ({', '.join(reasons)})")
    if max(falls, default=0.0) > _CLOCK_FALL:
        signs.append(f"in {sum(1 for fall in falls if fall > _CLOCK_FALL)} they fell, by {max(falls):.0%} at the most")
    if not signs:
        return ()
    return (f"Of {_plural(len(timed), 'measurement')} on the GPU, {' and '.join(signs)}: those are slower for it.",)


def multiplied(run: Run) -> tuple[str, ...]:
    """A line per backend whose programs tell what their products are made with, if not all just say which vectors."""
    told: dict[str, Counter[str]] = {}
    for m in run.measurements:
        if m.samples and m.metrics.multiplied_by is not None:
            told.setdefault(m.case.backend, Counter())[m.metrics.multiplied_by] += 1
    return tuple(
        f"{backend} multiplied by {' and by '.join(f'{by} in {count}' for by, count in counts.items())} of "
        f"{_plural(counts.total(), 'measurement')} (multiplied_by in results.csv)."
        for backend, counts in told.items()
        if len(counts) > 1 or not next(iter(counts)).endswith("bits")
    )


def _scatter(measurement: Measurement) -> float:
    """Interquartile range of the samples over their median."""
    times = [sample.run_s for sample in measurement.samples]
    return (iqr(times) or 0.0) / median(times)


def ratios(found: Sequence[Group]) -> list[Ratio]:
    """Every ratio that the groups' tables show."""
    return [r for group in found for c in _contrasts(group) for r in (c.run, c.build, c.memory) if r is not None]


def skips(run: Run) -> tuple[str, ...]:
    """A line per reason for which cases were skipped, with how many."""
    found = Counter((m.case.backend, one_line(m.reason)) for m in run.measurements if m.status == "skipped")
    return tuple(
        f"skipped, {backend}, {_plural(count, 'case')}: {reason}" for (backend, reason), count in found.items()
    )


def tally(run: Run) -> str:
    """How many measurements have which status, and how many are missing: `12 measured: 10 ok, 2 skipped; 3 missing`."""
    counts = Counter(m.status for m in run.measurements)
    said = ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES if counts[status])
    missing = max(0, run.planned - len(run.measurements))
    head = _plural(len(run.measurements), "measurement")
    parts = [f"{head}: {said}" if said else "nothing was measured"]
    if missing:
        parts.append(f"{missing} of {run.planned} missing: the run is still going or was cut short")
    return "; ".join(parts) + "."


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _blocks(found: Sequence[Group], run: Run) -> Iterator[str]:
    """A block per network; the first network of each question of the suite has it above.

    A network of which everything was skipped has none: the ending tells how many cases were, and why.
    """
    asked, before = declared(run).of_network, None
    for group in found:
        if all(m.status == "skipped" for variant in group.variants for m in variant.measurements):
            continue
        name_and_question = asked.get(group.network.network)
        if name_and_question is not None and name_and_question != before:
            yield textwrap.fill(": ".join(name_and_question), _WIDTH)
        before = name_and_question
        yield _block(group)


def _block(group: Group) -> str:
    lines = [labels.network(group.network)]
    if group.baseline is not None:
        lines[0] += f"   (against {labels.variant(group.baseline.case, group.varying)})"
    head = _HEAD if group.baseline is None else (*_HEAD, *_RATIOS)
    rows = [head, *(_row(v, group) for v in group.variants if v.ok)]
    if len(rows) > 1:
        lines += _aligned(rows)
    lines += _failures(group)
    lines += [f"  -> {wording.answer(c, group)}" for c in questions(group)]
    if group.baseline is None and len(group.variants) == 1:
        lines.append("  -> one variant only: nothing to hold it against.")
    return "\n".join(lines)


def _row(variant: Variant, group: Group) -> tuple[str, ...]:
    figures = (
        labels.variant(variant.case, group.varying),
        wording.seconds(centre(variant.build_s)),
        wording.seconds(centre(variant.run_s)),
        wording.size(centre(variant.run_memory_bytes)),
        wording.size(centre(variant.own_bytes)),
    )
    if group.baseline is None:
        return figures
    if variant is group.baseline:
        return (*figures, "baseline", "", "")
    c = contrast(variant, group.baseline)
    return (
        *figures,
        wording.versus(c.run, "slower", "faster"),
        _briefly(c.build, "slower", "faster"),
        _briefly(c.memory, "more", "less"),
    )


def _briefly(ratio: Ratio | None, more: str, less: str) -> str:
    """The ratio in words; its bounds only where values stand behind them and not just the margin for too few."""
    said = wording.versus(ratio, more, less)
    return said if ratio is None or ratio.values >= ENOUGH_VALUES else said.partition(" (")[0]


def _failures(group: Group) -> Iterator[str]:
    for variant in group.variants:
        for failure in variant.failures:
            if failure.status != "skipped":
                name = labels.variant(variant.case, group.varying)
                yield f"  {name}: {failure.status.replace('_', ' ')}: {one_line(failure.reason)}"


def _contrasts(group: Group) -> Iterator[Contrast]:
    if group.baseline is not None:
        for variant in group.variants:
            if variant.ok and variant is not group.baseline:
                yield contrast(variant, group.baseline)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if 1 <= column <= 4 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def one_line(reason: str | None, limit: int = 200) -> str:
    """The reason on one line of at most `limit` characters."""
    flat = " ".join((reason or "no reason recorded").split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."

"""report.html: one self-contained page, without scripts and without anything from the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined

from unrollbench import labels, roofline, stats
from unrollbench.records import Ceiling, Measurement, Run
from unrollbench.report import answers, curves, peers, plots, standings, summary, wording
from unrollbench.report.declared import Declared, declared
from unrollbench.report.facts import facts
from unrollbench.report.files import replace_text
from unrollbench.report.groups import (
    Contrast,
    Group,
    Variant,
    build_memory_bytes,
    contrast,
    groups,
    memory_bytes,
    questions,
)


@dataclass(frozen=True)
class Answer:
    """A row of the answer table: one way to run one network, its figures and its ratios in words."""

    name: str
    is_baseline: bool
    build: str
    run: str
    ceiling: str
    memory: str
    own: str
    run_ratio: str
    build_ratio: str
    memory_ratio: str


@dataclass(frozen=True)
class Section:
    """One network: its answer table, the sentences that it supports, and what could not be measured.

    asked: name and question of the suite's group, where this is the group's first network.
    """

    asked: tuple[str, str] | None
    title: str
    baseline: str | None
    answers: tuple[Answer, ...]
    sentences: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Trade:
    """A row of the first table: what one variant costs and buys against its backend's dynamic loop."""

    network: str
    variant: str
    against: str
    run: str
    build: str
    memory: str
    payback: str


@dataclass(frozen=True)
class Row:
    """A row of the table of all measurements: names and figures as text, in the order of `MEASUREMENT_COLUMNS`."""

    cells: tuple[str, ...]
    status: str
    title: str


MEASUREMENT_COLUMNS = (
    "case",
    "process",
    "status",
    "build",
    "of which",
    "run, median",
    "run, minimum",
    "run, IQR",
    "samples",
    "GFLOP/s",
    "weights, GB/s",
    "of the ceiling",
    "build memory",
    "run memory",
    "own account",
    "graph nodes",
    "code",
    "error / tolerance",
)
"""Headings of the table of all measurements; results.csv has every field in full precision."""


def write(run: Run, folder: Path) -> Path:
    """`report.html` lies in the folder, whole or not at all. Returns its path."""
    path = folder / "report.html"
    replace_text(path, page(run))
    return path


def page(run: Run) -> str:
    """The page as HTML. Every string of the run is escaped; nothing in it can become markup."""
    templates = Templates(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("report.html").render(**_content(run))


def _content(run: Run) -> dict[str, Any]:
    found = groups(run)
    said = declared(run)
    beside = peers.tables(found)
    return {
        "run": run,
        "title": said.title or run.suite,
        "question": said.question,
        "description": said.description,
        "moment": wording.moment,
        "headlines": (*peers.headlines(beside), *answers.headlines(found)),
        "standings": [standings.words(table, run) for table in beside],
        "standings_note": standings.note(beside, ceiling=False),
        "tally": summary.tally(run),
        "disturbed": (*summary.disturbed(run), *summary.throttled(run)),
        "multiplied": summary.multiplied(run),
        "two_clocks": summary.two_clocks(found),
        "caveat": wording.caveat(summary.ratios(found)),
        "trades": [_trade(c, group) for group in found for c in questions(group)],
        "sections": list(_sections(found, run, said)),
        "figures": [(f, [plots.draw(plot, f.axis.replace("_", " ")) for plot in f.plots]) for f in curves.figures(run)],
        "plot": plots,
        "failures": _failures(run),
        "columns": MEASUREMENT_COLUMNS,
        "rows": [_row(m, run) for m in run.measurements],
        "ceilings": [_ceiling(c) for c in run.ceilings],
        "ceilings_unknown": sorted(run.ceilings_unknown.items()),
        "unknown": _unknown(run),
        "facts": facts(run.environment),
    }


def _trade(c: Contrast, group: Group) -> Trade:
    return Trade(
        network=labels.network(group.network),
        variant=labels.variant(c.variant.case, group.varying),
        against=labels.variant(c.against.case, group.varying),
        run=wording.versus(c.run, "slower", "faster"),
        build=wording.versus(c.build, "slower", "faster"),
        memory=wording.versus(c.memory, "more", "less"),
        payback=wording.payback(c),
    )


def _sections(found: Sequence[Group], run: Run, said: Declared) -> Iterator[Section]:
    before = None
    for group in found:
        asked = said.of_network.get(group.network.network)
        yield _section(group, run, asked if asked != before else None)
        before = asked


def _section(group: Group, run: Run, asked: tuple[str, str] | None) -> Section:
    base = group.baseline
    return Section(
        asked=asked,
        title=labels.network(group.network),
        baseline=None if base is None else labels.variant(base.case, group.varying),
        answers=tuple(_answer(v, group, run) for v in group.variants if v.ok),
        sentences=tuple(wording.answer(c, group) for c in questions(group)),
        failures=tuple((labels.variant(v.case, group.varying), reason) for v in group.variants for reason in v.reasons),
    )


def _answer(variant: Variant, group: Group, run: Run) -> Answer:
    base, run_s = group.baseline, stats.centre(variant.run_s)
    against = contrast(variant, base) if base is not None and variant is not base else None
    return Answer(
        name=labels.variant(variant.case, group.varying),
        is_baseline=variant is base,
        build=wording.seconds(stats.centre(variant.build_s)),
        run=wording.seconds(run_s),
        ceiling=wording.share(roofline.attained(variant.case, run_s, run.ceilings, run.ceilings_unknown)),
        memory=wording.size(stats.centre(variant.run_memory_bytes)),
        own=wording.size(stats.centre(variant.own_bytes)),
        run_ratio=wording.versus(against.run, "slower", "faster") if against else "",
        build_ratio=wording.versus(against.build, "slower", "faster") if against else "",
        memory_ratio=wording.versus(against.memory, "more", "less") if against else "",
    )


def _failures(run: Run) -> list[tuple[str, str, str, int]]:
    """(status, reason, the first case, how many cases) of everything that is not ok, each reason once."""
    cases: dict[tuple[str, str], list[str]] = {}
    for m in run.measurements:
        if m.status != "ok":
            key = (m.status.replace("_", " "), m.reason or "no reason recorded")
            cases.setdefault(key, []).append(labels.label(m.case))
    return [(status, reason, names[0], len(names)) for (status, reason), names in cases.items()]


def _ceiling(c: Ceiling) -> tuple[str, str, str, str]:
    """Name, dtype and threads or device, working set, and value of a ceiling."""
    why = roofline.disturbance(c)
    low = "" if why is None else f" (too low and not used: {why})"
    how = f"on {c.device}" if c.threads is None else f"{c.threads} thread{'s' * (c.threads > 1)}"
    return c.name, f"{c.dtype}, {how}", wording.working_set(c), f"{c.value:.1f} {c.unit}{low}"


def _row(m: Measurement, run: Run) -> Row:
    metrics, times = m.metrics, [sample.run_s for sample in m.samples]
    attained = roofline.of_measurement(m, run)
    own = [metrics.weight_bytes, metrics.workspace_bytes, metrics.saved_bytes]
    known = [value for value in own if value is not None]
    checked = metrics.error is not None and metrics.tolerance is not None
    phases = [f"{phase} {wording.seconds(value)}" for phase, value in metrics.build_phases_s.items()]
    cells = (
        labels.label(m.case),
        str(m.repeat),
        m.status.replace("_", " "),
        wording.seconds(metrics.build_s),
        ", ".join(phases) or wording.UNKNOWN,
        wording.seconds(stats.median(times)),
        wording.seconds(min(times, default=None)),
        wording.seconds(stats.iqr(times)),
        str(len(times)),
        wording.rate(attained.gflops_per_s),
        wording.rate(attained.recurrent_weights_gb_per_s),
        wording.share(attained),
        wording.size(build_memory_bytes(metrics)),
        wording.size(memory_bytes(m)),
        wording.size(sum(known)) if len(known) == len(own) else wording.UNKNOWN,
        wording.count(metrics.graph_nodes),
        wording.size(metrics.code_bytes),
        f"{metrics.error:.1e} / {metrics.tolerance:.1e}" if checked else wording.UNKNOWN,
    )
    return Row(cells, m.status, f"case {m.case.key}")


def _unknown(run: Run) -> list[tuple[str, str, int]]:
    """(figures, reason, how many measurements) of all that could not be known; figures of one reason together."""
    counts: dict[tuple[str, str], int] = {}
    for m in run.measurements:
        for name, reason in m.unknown.items():
            counts[name, reason] = counts.get((name, reason), 0) + 1
    together: dict[tuple[str, int], list[str]] = {}
    for (name, reason), number in counts.items():
        together.setdefault((reason, number), []).append(name)
    return [(", ".join(names), reason, number) for (reason, number), names in together.items()]

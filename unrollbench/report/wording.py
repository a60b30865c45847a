"""Figures and findings in plain words, each figure with its unit; pure functions, no colours, ASCII only."""

from __future__ import annotations

import math
from datetime import datetime

from unrollbench.labels import variant
from unrollbench.records import Ceiling
from unrollbench.report.groups import Contrast, Group
from unrollbench.roofline import BARRIER, Attained
from unrollbench.stats import ENOUGH_PROCESSES, FEW_PROCESSES_MARGIN, FEW_VALUES_MARGIN, Mean, Ratio, Rounds, centre

UNKNOWN = "-"
"""Stands where a figure is unknown; never 0."""


def seconds(value: float | None) -> str:
    """A duration with three digits and the unit that fits: `412 us`, `4.10 ms`, `1.09 s`, `2 min 05 s`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0 s"
    if value >= 119.5:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if abs(value) >= 0.9995 * scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value / 1e-9)} ns"


def size(value: float | None) -> str:
    """Bytes with three digits and a binary unit: `12.3 MiB`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    scaled, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(scaled) >= 999.5 and len(units) > 1:
        scaled /= 1024
        units.pop(0)
    return f"{scaled:.0f} {units[0]}" if units[0] == "B" else f"{_digits(scaled)} {units[0]}"


def moment(text: str) -> str:
    """An ISO 8601 moment as people read it, to the second: `2026-11-21 01:35:10 UTC`; anything else as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = "" if found.tzinfo is None else " UTC" if not found.utcoffset() else f" {found:%z}"
    return f"{found:%Y-%m-%d %H:%M:%S}{zone}"


def count(value: float | None) -> str:
    """A whole number with thousands separated, two digits kept above 100 where it is an estimate (a float)."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if isinstance(value, float) and value >= 100:
        magnitude = 10 ** (math.floor(math.log10(value)) - 1)
        value = round(value / magnitude) * magnitude
    return f"{math.ceil(value):,}"


def factor(value: float) -> str:
    """`1.08x`, `12.3x`, `140x`."""
    return f"{_factor(value)}x"


def share(attained: Attained) -> str:
    """How much of the ceiling that binds was reached: `82 % of multiply-add`."""
    if attained.ceiling_share is None:
        return UNKNOWN
    return f"{attained.ceiling_share * 100:.{0 if attained.ceiling_share > 0.095 else 1}f} % of {attained.ceiling}"


def working_set(ceiling: Ceiling) -> str:
    """What a ceiling was measured with: `in registers`, `16.0 KiB each`, `4.00 MiB in shared memory`."""
    if ceiling.name == BARRIER:
        return "between threads"
    if ceiling.working_set_bytes is None:
        return "in registers"
    return f"{size(ceiling.working_set_bytes)} {'each' if ceiling.place is None else f'in {ceiling.place}'}"


def rate(value: float | None) -> str:
    """A rate in its unit with three digits."""
    return UNKNOWN if value is None else f"{value:.3g}"


def spread(seen: Rounds | Mean | None) -> str:
    """The ratio with the lowest and the highest that was seen: `1.41 (1.38-1.45)`."""
    return UNKNOWN if seen is None else f"{_factor(seen.estimate)} ({_factor(seen.low)}-{_factor(seen.high)})"


def versus(ratio: Ratio | None, more: str, less: str) -> str:
    """The ratio as a person says it: `1.08x faster (1.02-1.15)`, turned so that the factor is above 1.

    Where the bounds include 1 it says so and gives only them: there is no difference to name.
    """
    if ratio is None:
        return UNKNOWN
    if not ratio.shown:
        return f"no difference shown ({_bounds(ratio)})"
    turned, word = (ratio, more) if ratio.estimate > 1 else (ratio.inverse(), less)
    return f"{factor(turned.estimate)} {word} ({_bounds(turned)})"


def answer(contrast: Contrast, group: Group) -> str:
    """One sentence: what the variant costs and buys against the other, as far as the data supports it."""
    this, other = (variant(v.case, group.varying) for v in (contrast.variant, contrast.against))
    run, build = contrast.run, contrast.build
    if run is None:
        return f"{this} and {other}: no run times to compare."
    said = _run_clause(run, this, other)
    if build is None:
        return f"{said}; build times are unknown."
    return f"{said} {'and' if run.shown else 'and it'} {_build_clause(build)}{_payback(contrast)}."


def payback(contrast: Contrast) -> str:
    """`answer`'s last clause for a table: `after 9,800 runs (3,500-140,000)`, `from the first run`, `never`, ..."""
    run, build = contrast.run, contrast.build
    runs = payback_runs(contrast)
    if run is None or build is None:
        return UNKNOWN
    if runs is not None:
        about, fewest, most = (count(float(r)) for r in runs)
        return f"{'after' if run.estimate < 1 else 'only for the first'} {about} runs ({fewest}-{most})"
    if run.shown:
        return "from the first run" if run.estimate < 1 else "never"
    if build.shown:
        return "not shown" if build.estimate > 1 else "by building faster"
    return "nothing shown"


def payback_runs(contrast: Contrast) -> tuple[float, float, float] | None:
    """After how many runs the faster run has repaid the slower build: estimate, fewest and most by the bounds.

    Works both ways round (a slower run that was cheaper to build is overtaken); None where the data shows no trade.
    """
    run, build = contrast.run, contrast.build
    if run is None or build is None or not (run.shown and build.shown):
        return None
    if (run.estimate < 1) == (build.estimate < 1):
        return None
    run_s, build_s = centre(contrast.against.run_s), centre(contrast.against.build_s)
    if run_s is None or build_s is None:
        return None
    gains = [abs(1 - r) * run_s for r in (run.estimate, run.low, run.high)]
    extras = [abs(b - 1) * build_s for b in (build.estimate, build.low, build.high)]
    return extras[0] / gains[0], min(extras) / max(gains), max(extras) / min(gains)


def caveat(ratios: list[Ratio]) -> str | None:
    """What the bounds could not see, for a footnote; None where enough processes were measured."""
    few = [r for r in ratios if r.processes < ENOUGH_PROCESSES]
    if not few:
        return None
    fewest = min(r.processes for r in few)
    each = "one process per case" if fewest == 1 else f"{fewest} processes per case"
    return (
        f"In parentheses: the bounds that this data supports. With {each}, what differs from process to process is not "
        f"seen, so bounds were widened by {_percent(FEW_PROCESSES_MARGIN)}, or by {_percent(FEW_VALUES_MARGIN)} where "
        f"there are only a few values (a build, a memory peak). --repeats {ENOUGH_PROCESSES} measures it instead."
    )


def _run_clause(run: Ratio, this: str, other: str) -> str:
    if not run.shown:
        span = f"{_bounds(run)} times as long"
        return f"{this} against {other}: no difference in run time that this run can show ({span})"
    turned, word = (run, "slower") if run.estimate > 1 else (run.inverse(), "faster")
    return f"{this} runs {factor(turned.estimate)} {word} ({_bounds(turned)}) than {other}"


def _build_clause(build: Ratio) -> str:
    if not build.shown:
        return "builds no slower and no faster that this run can show"
    turned, word = (build, "slower") if build.estimate > 1 else (build.inverse(), "faster")
    return f"builds {factor(turned.estimate)} {word}"


def _payback(contrast: Contrast) -> str:
    run, build = contrast.run, contrast.build
    if run is None or build is None:
        return ""
    runs = payback_runs(contrast)
    if runs is not None:
        about, fewest, most = (count(float(r)) for r in runs)
        what = "it pays back after" if run.estimate < 1 else "it is ahead only for the first"
        return f": {what} about {about} runs ({fewest}-{most})"
    if run.shown and run.estimate < 1:
        return ": it is ahead from the first run"
    if build.shown and build.estimate > 1:
        return ": it never pays back" if run.shown else ": nothing shown here pays that back"
    return ""


def _bounds(ratio: Ratio) -> str:
    """`1.02-1.15`; a bound near 1 with the digits that tell it from 1, where rounding would deny a difference."""
    return f"{_factor(ratio.low, ratio.shown)}-{_factor(ratio.high, ratio.shown)}"


def _factor(value: float, exact: bool = False) -> str:
    if exact and f"{value:.2f}" == "1.00":
        return f"{value:.4f}"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _percent(margin: float) -> str:
    return f"{(margin - 1) * 100:.0f} %"


def _digits(value: float) -> str:
    magnitude = abs(value)
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:.0f}"

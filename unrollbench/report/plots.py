"""Where the marks of a plot lie: a Plot of numbers becomes a Drawing in SVG units, which a template writes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unrollbench.report import wording
from unrollbench.report.curves import Curve, Plot, Point

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 12.0, 12.0, 40.0
"""Margins around the plotting area: room for the labels of the axes."""
MARKS = ("circle", "square", "diamond", "triangle", "cross")
COLOURS = 6
"""How many colours the style sheet has; with the marks, 30 curves look different."""
_MIN_GAP = 26.0
"""SVG units between two labels of the x axis, below which they would touch."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """One point: its place, the ends of its bounds, and the words that a reader gets on pointing at it."""

    x: float
    y: float
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Line:
    """One curve: `number` picks its colour and mark, `path` joins its points."""

    label: str
    number: int
    level: bool
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Drawing:
    """A plot in SVG units; `scale` says in words how its axes are divided. `lines` is empty where nothing is known."""

    title: str
    scale: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def draw(plot: Plot, x_label: str) -> Drawing:
    """The plot's drawing: times on a logarithmic axis, bytes on a linear one from 0; x logarithmic from a span of 4."""
    points = [point for curve in plot.curves for point in curve.points]
    if not points:
        return Drawing(plot.title, "", x_label, (), (), ())
    xs = sorted({point.x for point in points})
    ends = [end for point in points for end in (point.low, point.high, point.y)]
    logarithmic = plot.unit == "s" and min(ends) > 0
    steps = _decades(min(ends), max(ends)) if logarithmic else _round_steps(min(0.0, *ends), max(ends), plot.unit)
    place_y = _placer(steps[0], steps[-1], HEIGHT - BOTTOM, TOP, logarithmic)
    x_logarithmic = xs[0] > 0 and xs[-1] >= 4 * xs[0]
    place_x = _placer(xs[0], xs[-1], LEFT + 14, WIDTH - RIGHT - 14, x_logarithmic)
    words = wording.seconds if plot.unit == "s" else wording.size
    return Drawing(
        title=plot.title,
        scale="both axes logarithmic" if logarithmic and x_logarithmic else _scale_words(logarithmic, x_logarithmic),
        x_label=x_label,
        x_ticks=_spaced([Tick(place_x(x), f"{x:,}") for x in xs]),
        y_ticks=tuple(Tick(place_y(step), "0" if step == 0 else words(step)) for step in _thinned(steps, logarithmic)),
        lines=tuple(_line(curve, number, place_x, place_y, words) for number, curve in enumerate(plot.curves)),
    )


def _line(
    curve: Curve,
    number: int,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
    words: Callable[[float], str],
) -> Line:
    marks = tuple(
        Mark(place_x(p.x), place_y(p.y), place_y(p.low), place_y(p.high), _tip(curve, p, words)) for p in curve.points
    )
    path = " ".join(f"{'M' if index == 0 else 'L'}{mark.x:.1f} {mark.y:.1f}" for index, mark in enumerate(marks))
    # A level was measured once, without the axis: a mark at each place would claim more.
    return Line(curve.label, number, curve.level, path, marks[-1:] if curve.level else marks)


def _tip(curve: Curve, point: Point, words: Callable[[float], str]) -> str:
    return f"{curve.label}: {words(point.y)}" if curve.level else f"{curve.label}, {point.x:,}: {words(point.y)}"


def _placer(first: float, last: float, start: float, end: float, logarithmic: bool) -> Callable[[float], float]:
    """A function from a value in first..last to its place in start..end; the middle if first equals last."""

    def unit(value: float) -> float:
        return math.log(value) if logarithmic else float(value)

    span = unit(last) - unit(first)
    if span == 0:
        return lambda value: (start + end) / 2
    return lambda value: start + (unit(value) - unit(first)) / span * (end - start)


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten from at most `low` to at least `high`."""
    steps = [
        mantissa * 10.0**exponent
        for exponent in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for mantissa in (1, 2, 5)
    ]
    first = max(index for index, step in enumerate(steps) if step <= low * (1 + 1e-9))
    last = min(index for index, step in enumerate(steps) if step >= high * (1 - 1e-9))
    return steps[first : max(last, first + 1) + 1]


def _thinned(steps: Sequence[float], logarithmic: bool) -> list[float]:
    """The steps that get a label: all of few, of many only the powers of ten."""
    if not logarithmic or len(steps) <= 8:
        return list(steps)
    return [step for step in steps if abs(math.log10(step) - round(math.log10(step))) < 1e-6]


def _round_steps(low: float, high: float, unit: str) -> list[float]:
    """Four to eight even steps from at most `low` to at least `high`, of a size that reads well in its unit."""
    span = max(high - low, 1e-300)
    base = 1024.0 if unit == "bytes" else 10.0
    mantissas = (1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 250, 500) if unit == "bytes" else (1, 2, 5)
    power = base ** math.floor(math.log(span / 8, base))
    sizes = [mantissa * power for mantissa in mantissas] + [base * power, 2 * base * power]
    step = next((size for size in sizes if size * 6 >= span), sizes[-1])
    return [index * step for index in range(math.floor(low / step), max(math.ceil(high / step), 1) + 1)]


def _spaced(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """The ticks that have room for a label, from the right, since the largest values matter most."""
    kept: list[Tick] = []
    for tick in reversed(ticks):
        if not kept or kept[-1].at - tick.at >= max(_MIN_GAP, 7.0 * len(tick.label)):
            kept.append(tick)
    return tuple(reversed(kept))


def _scale_words(y_logarithmic: bool, x_logarithmic: bool) -> str:
    if y_logarithmic:
        return "vertical axis logarithmic"
    return "vertical axis linear" if x_logarithmic else "both axes linear"

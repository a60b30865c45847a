"""Which curves a run holds: build time, run time and memory of each way to run a network, over the axis swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unrollbench import labels, stats
from unrollbench.case import VARIANT_AXES, Case
from unrollbench.records import Run
from unrollbench.report.groups import Group, Variant, groups

QUESTION_AXES = ("sequence_length", "unroll", "parallel_iterations")
"""Axes that the project is about: each one that was swept has its figures."""
SHAPE_AXES = ("batch_size", "num_units", "num_layers", "input_size", "threads")
"""Axes that have figures only where no question axis was swept."""

_MEASURES: tuple[tuple[str, str, Callable[[Variant], stats.Processes]], ...] = (
    ("Build time", "s", lambda variant: variant.build_s),
    ("Time of one run", "s", lambda variant: variant.run_s),
    ("Memory while running", "bytes", lambda variant: variant.run_memory_bytes),
)


@dataclass(frozen=True)
class Point:
    """One measured case: x is its value of the swept axis, y the median in the curve's unit, low to high its bounds."""

    x: int
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One way to run the network. A curve without the axis (static over `unroll`) is one level: points of equal y."""

    label: str
    points: tuple[Point, ...]
    level: bool = False


@dataclass(frozen=True)
class Plot:
    """One measure over the axis: all curves in the same unit, `s` or `bytes`."""

    title: str
    unit: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Figure:
    """One network (`title`) over one swept axis: a plot per measure, with the same curves in the same order in each.

    `absent` names the cases that have no point, with their status, so that a gap is not read as a choice.
    """

    title: str
    axis: str
    labels: tuple[str, ...]
    plots: tuple[Plot, ...]
    absent: tuple[str, ...]


def figures(run: Run) -> tuple[Figure, ...]:
    """The figures of every axis that was swept; empty if the run has no network with two values of one axis."""
    found = [variant for group in groups(run) for variant in group.variants]
    chosen = [figure for axis in QUESTION_AXES for figure in _over(axis, found)]
    if not chosen:
        chosen = next((list(over) for axis in SHAPE_AXES if (over := _over(axis, found))), [])
    return tuple(chosen)


def _over(axis: str, variants: Sequence[Variant]) -> tuple[Figure, ...]:
    families: dict[Case, list[Variant]] = {}
    for variant in variants:
        if isinstance(getattr(variant.case, axis), int | None):
            families.setdefault(_without(variant.case.network, axis), []).append(variant)
    return tuple(
        _figure(axis, family, members)
        for family, members in families.items()
        if len({getattr(v.case, axis) for v in members if v.ok} - {None}) > 1
    )


def _without(case: Case, axis: str) -> Case:
    """The case with the axis at its default, so that it no longer tells cases apart."""
    return replace(case, **{axis: getattr(Case(), axis)}) if axis not in VARIANT_AXES else case


def _figure(axis: str, family: Case, members: Sequence[Variant]) -> Figure:
    varying = Group(tuple(members), None).varying - {axis}
    by_label: dict[str, list[Variant]] = {}
    absent: list[str] = []
    for variant in members:
        label = labels.variant(_label_case(variant.case, axis), varying)
        if variant.ok:
            by_label.setdefault(label, []).append(variant)
        else:
            absent.append(_absence(label, axis, variant))
    xs = sorted({x for v in members if v.ok and (x := getattr(v.case, axis)) is not None})
    plots = tuple(
        Plot(title, unit, tuple(_curve(label, axis, xs, same, values) for label, same in by_label.items()))
        for title, unit, values in _MEASURES
    )
    return Figure(labels.network(family, without=(axis,)), axis, tuple(by_label), plots, tuple(absent))


def _absence(label: str, axis: str, variant: Variant) -> str:
    x, statuses = getattr(variant.case, axis), dict.fromkeys(m.status for m in variant.measurements)
    where = "" if x is None else f" at {axis} {x:,}"
    return f"{label}{where}: {', '.join(statuses).replace('_', ' ')}"


def _label_case(case: Case, axis: str) -> Case:
    """The case whose label leaves the axis out, whether it applies (its default) or not (None)."""
    if axis in VARIANT_AXES and getattr(case, axis) is not None:
        return replace(case, **{axis: getattr(Case(), axis)})
    return case


def _curve(
    label: str, axis: str, xs: Sequence[int], variants: Sequence[Variant], values: Callable[[Variant], stats.Processes]
) -> Curve:
    points: list[Point] = []
    level = False
    for variant in variants:
        middle, bounds = stats.centre(values(variant)), stats.bounds(values(variant))
        if middle is None or bounds is None:
            continue
        x = getattr(variant.case, axis)
        level = level or x is None
        points += [Point(at, middle, bounds.low, bounds.high) for at in (xs if x is None else (x,))]
    return Curve(label, tuple(sorted(points, key=lambda point: point.x)), level)

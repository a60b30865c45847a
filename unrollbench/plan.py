"""Suite -> Plan: which cases are run, in which order, their expected cost, and what a budget leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from unrollbench import cost
from unrollbench.case import Case
from unrollbench.errors import NothingLeft, SuiteError
from unrollbench.labels import label as label  # a plan is listed by its labels
from unrollbench.suite import Group, Suite
from unrollbench.suite.axes import show
from unrollbench.suite.filters import parse as parse_filters

MAX_PROCESSES = 100_000
"""Cases times repeats: each takes about a second, and a day is long enough for a suite."""


@dataclass(frozen=True)
class Plan:
    """The cases to run: canonical, each once, in the order written, but all cases of one network next to each other.

    So a slow moment of the machine meets all that are held against each other, and repeats are whole rounds of them.

    left_out: one line for each group of which a budget left cases out.
    """

    suite: Suite
    cases: tuple[Case, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a plan: seconds of the whole, resident memory and disk of its largest cases.

    `cost` says what is assumed.
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int


def make(suite: Suite, *, filters: Sequence[str] = ()) -> Plan:
    """The suite's cases that match every filter.

    Raises SuiteError if a filter cannot be read or the repeats are too many, NothingLeft if no case fits.
    """
    wanted = parse_filters(filters)
    cases = _side_by_side(case for group in suite.groups for case in group.cases)
    kept = tuple(case for case in cases if all(one.matches(case, label(case)) for one in wanted))
    if not kept:
        options = " ".join(f'--filter "{text}"' for text in filters)
        first = label(cases[0])
        raise NothingLeft([f"{options}: fits none of the {len(cases)} cases of {suite.name}; the first is: {first}"])
    if len(kept) * suite.repeats > MAX_PROCESSES:
        got = f"repeats = {suite.repeats} of {len(kept)} cases of {suite.name}"
        most = MAX_PROCESSES // len(kept)
        raise SuiteError([f"{got}: expected at most {most}: fewer repeats, or fewer cases"])
    return Plan(suite, kept)


def _side_by_side(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Each case once, network by network, in the order in which networks and their cases first come."""
    networks: dict[Case, dict[Case, None]] = {}
    for case in cases:
        networks.setdefault(case.network, {})[case] = None
    return tuple(case for of_network in networks.values() for case in of_network)


def estimate(plan: Plan) -> Estimate:
    """What the whole plan may be expected to cost, one process after the other."""
    costs = [_cost(plan.suite, case) for case in plan.cases]
    return Estimate(
        seconds=_seconds(plan.suite, plan.cases),
        memory_bytes=max(one.memory_bytes for one in costs),
        disk_bytes=max(one.disk_bytes for one in costs),
    )


def fit(plan: Plan, budget_s: float) -> Plan:
    """The plan cut to what may be expected to take at most `budget_s`.

    Cases that are held against each other stay together or go together. Each group's cheapest such set is taken first,
    then each group's next, as far as they fit. Raises NothingLeft if nothing fits.
    """
    sets = [sorted(_sets(plan, group), key=_by_seconds) for group in plan.suite.groups]
    cheapest = sorted((of_group[0] for of_group in sets if of_group), key=_by_seconds)
    others = sorted((one for of_group in sets for one in of_group[1:]), key=_by_seconds)
    rest_s = budget_s
    kept: set[Case] = set()
    for one in (*cheapest, *others):
        seconds = _seconds(plan.suite, [case for case in one.cases if case not in kept])
        if seconds <= rest_s:
            rest_s -= seconds
            kept.update(one.cases)
    if not kept:
        least_s = min(one.seconds for of_group in sets for one in of_group)
        raise NothingLeft([f"--budget: the cheapest cases that belong together take about {least_s:.0f} s"])
    left_out = (_left_out(group.name, of_group, kept) for group, of_group in zip(plan.suite.groups, sets, strict=True))
    return replace(plan, cases=tuple(c for c in plan.cases if c in kept), left_out=tuple(filter(None, left_out)))


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `5m`, `1h` or `1h30m`. Raises SuiteError on anything else and on nothing."""
    found = re.fullmatch(r"\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s)?\s*", text, re.ASCII)
    parts = [float(part) if part else 0.0 for part in found.groups()] if found else []
    seconds = sum(part * unit_s for part, unit_s in zip(parts, (3600, 60, 1), strict=False))
    if not 0 < seconds < float("inf"):
        raise SuiteError([f"{show(text)}: expected a duration such as 90s, 5m, 1h or 1h30m"])
    return seconds


@dataclass(frozen=True)
class _Set:
    """Cases that are held against each other, and what all of them may be expected to take."""

    cases: tuple[Case, ...]
    seconds: float


def _by_seconds(one: _Set) -> float:
    return one.seconds


def _sets(plan: Plan, group: Group) -> Iterator[_Set]:
    """The group's cases that are in the plan, by what they compute."""
    planned, sets = set(plan.cases), dict[Case, list[Case]]()
    for case in group.cases:
        if case in planned:
            sets.setdefault(_work(case), []).append(case)
    for cases in sets.values():
        yield _Set(tuple(cases), _seconds(plan.suite, cases))


def _work(case: Case) -> Case:
    """The network with its steps cut to the longest length: T 50 with every length 25 is held against T 25."""
    if isinstance(case.lengths, tuple) and max(case.lengths) > 0:
        case = replace(case, sequence_length=max(case.lengths))
    return case.network


def _cost(suite: Suite, case: Case) -> cost.Cost:
    return cost.expected(case, min_samples=suite.min_samples, min_time_s=suite.min_time_s, timeout_s=suite.timeout_s)


def _seconds(suite: Suite, cases: Iterable[Case]) -> float:
    """Every process of the cases, and one reference for each network."""
    costs = {case: _cost(suite, case) for case in cases}
    references = {case.network: one.reference_s for case, one in costs.items()}
    return sum(suite.repeats * one.seconds for one in costs.values()) + sum(references.values())


def _left_out(name: str, sets: Sequence[_Set], kept: set[Case]) -> str | None:
    """`layers: 6 of 18 cases, from lstm/... on: about 80 s`, or None if the whole group is kept."""
    dropped = [one for one in sets if not kept.issuperset(one.cases)]
    if not dropped:
        return None
    count, total = (sum(len(one.cases) for one in some) for some in (dropped, sets))
    seconds = sum(one.seconds for one in dropped)
    return f"{name}: {count} of {total} cases, about {seconds:.0f} s, the cheapest {label(dropped[0].cases[0])}"

"""What the suite's text says of a run: its title, its question, and the question that each network belongs to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from unrollbench import suite
from unrollbench.case import Case
from unrollbench.errors import UnrollbenchError
from unrollbench.records import Run


@dataclass(frozen=True)
class Declared:
    """Empty where the text does not say, or is not a suite's.

    of_network: the name and the question of the group that each network stands in, by `Case.network`. A network that is
    in no group as written, since --axis gave it other values, is not in it.
    """

    title: str | None = None
    question: str | None = None
    of_network: Mapping[Case, tuple[str, str]] = field(default_factory=dict)


def declared(run: Run) -> Declared:
    """What the run's suite declares."""
    try:
        data = tomllib.loads(run.suite_source)
    except (tomllib.TOMLDecodeError, RecursionError):
        return Declared()
    title, question = (value if isinstance(value := data.get(name), str) else None for name in ("title", "question"))
    return Declared(title, question, _of_network(run) if isinstance(data.get("group"), list) else {})


def _of_network(run: Run) -> Mapping[Case, tuple[str, str]]:
    try:
        groups = suite.parse(run.suite_source, name=run.suite, origin=f"run {run.id}").groups
    except UnrollbenchError:  # written by another version, or with cells that are not installed here
        return {}
    # The first group has a case that is in two, as in the plan.
    return {case.network: (g.name, g.question) for g in reversed(groups) if g.question for case in reversed(g.cases)}

"""What the suite's text says of a run: its title, its question, and the question that each network belongs to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from unrollbench import suite
from unrollbench.case import Case
from unrollbench.errors import UnrollbenchError
from unrollbench.records import Run

TEXTS = ("title", "question", "description")
"""What a suite may say about itself."""


@dataclass(frozen=True)
class Declared:
    """Empty where the text does not say, or is not a suite's.

    of_network: by `Case.network`, the name of the group that each network stands in, and its question with what it says
    beside that. A network that is in no group as written, since --axis gave it other values, is not in it.
    """

    title: str | None = None
    question: str | None = None
    description: str | None = None
    of_network: Mapping[Case, tuple[str, str]] = field(default_factory=dict)


def declared(run: Run) -> Declared:
    """What the run's suite declares."""
    try:
        data = tomllib.loads(run.suite_source)
    except (tomllib.TOMLDecodeError, RecursionError):
        return Declared()
    texts = {name: value for name in TEXTS if isinstance(value := data.get(name), str)}
    return Declared(**texts, of_network=_of_network(run) if isinstance(data.get("group"), list) else {})


def _of_network(run: Run) -> Mapping[Case, tuple[str, str]]:
    try:
        groups = suite.parse(run.suite_source, name=run.suite, origin=f"run {run.id}").groups
    except UnrollbenchError:  # written by another version, or with cells that are not installed here
        return {}
    said = ((group, " ".join(f"{group.question} {group.description}".split())) for group in groups)
    found: dict[Case, tuple[str, str]] = {}
    for group, text in said:
        for case in group.cases if text else ():
            found.setdefault(case.network, (group.name, text))  # of a case in two groups the first has it
    return found

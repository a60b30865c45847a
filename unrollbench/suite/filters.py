"""`--filter` expressions: `execution=static`, `sequence_length>=32`, or a glob on the case's label."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from unrollbench.case import Case
from unrollbench.errors import SuiteError
from unrollbench.suite.axes import AXES, OPTIONS, did_you_mean, parse_values

NAMES = (*(axis for axis in AXES if axis != "cell_options"), *(f"cell_options.{option}" for option in OPTIONS))
ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
HELP = 'expected axis=value[,value], axis!=value, axis<value (<=, >, >=), or a glob on the label such as "lstm/static*"'


@dataclass(frozen=True)
class Filter:
    """One expression: with an `axis` a comparison with `values`, without one a glob on the label."""

    text: str
    axis: str | None = None
    comparison: str = ""
    values: tuple[Any, ...] = ()

    def matches(self, case: Case, label: str) -> bool:
        """Whether the canonical case fits. An axis that means nothing for the case fits only `!=`."""
        if self.axis is None:
            return fnmatchcase(label, self.text)
        value = case
        for name in self.axis.split("."):
            value = getattr(value, name)
        if self.comparison in ORDERINGS:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and ORDERINGS[self.comparison](value, self.values[0])
        found = any(_same(value, wanted) for wanted in self.values)
        return found if self.comparison == "=" else not found


def parse(texts: Sequence[str]) -> tuple[Filter, ...]:
    """The filters, all of which a case has to match. Raises SuiteError with every one that cannot be read."""
    filters, findings = [], []
    for text in texts:
        found = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*(!=|<=|>=|==?|<|>)\s*(.*)", text, re.DOTALL)
        if found is None:
            filters.append(Filter(text.strip()))
            findings += [] if text.strip() else [f'--filter "{text}": {HELP}']
            continue
        axis, comparison, values = found[1], found[2].replace("==", "="), parse_values(found[3])
        finding = _finding(axis, comparison, values)
        if finding:
            findings.append(f'--filter "{text}": {finding}')
        else:
            filters.append(Filter(text, axis, comparison, tuple(values or ())))
    if findings:
        raise SuiteError(findings)
    return tuple(filters)


def _finding(axis: str, comparison: str, values: list[object] | None) -> str | None:
    if axis not in NAMES:
        return f"unknown axis{did_you_mean(axis, NAMES)}"
    if not values:
        return HELP
    number = len(values) == 1 and isinstance(values[0], int | float) and not isinstance(values[0], bool)
    if comparison in ORDERINGS and not number:
        return f"expected one number after {comparison}"
    return None


def _same(value: Any, wanted: Any) -> bool:
    value = list(value) if isinstance(value, tuple) else value
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)

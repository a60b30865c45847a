"""Axes as suite files and options write them: each value checked on its own, then their product as cases."""

from __future__ import annotations

import datetime
import difflib
import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from unrollbench import backends
from unrollbench.case import Case, CellOptions
from unrollbench.errors import CaseError

AXES = tuple(field.name for field in fields(Case))
OPTIONS = tuple(field.name for field in fields(CellOptions))
LARGEST = 2**31 - 1
"""No axis has a use for more, and results, arrays and JSON readers all hold it."""
LARGEST_BYTES = 2**53 - 1
"""An axis in bytes may be larger; every reader of JSON holds it exactly."""
LARGEST_BATCH_LISTED = 16_384
"""Rows for which one number in `lengths` is written out; a case keeps every row's length."""

Values = Mapping[str, tuple[Any, ...]]
"""Axis name -> its values, as `Case` takes them, but for `lengths`: an int there is the length of every row."""


@dataclass(frozen=True)
class Product:
    """One table of axes: every combination of their values is a case. `table` says where it is written."""

    table: str
    axes: Values

    @property
    def size(self) -> int:
        return math.prod(len(values) for values in self.axes.values())

    def over(self, axes: Values, table: str) -> Product:
        """This product with `axes` put over its own: an axis that both have takes the new values."""
        return Product(table, {**self.axes, **axes})

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination, the last axis varying fastest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


@dataclass(frozen=True)
class Exclude:
    """A rule that removes cases: those for which every axis has one of the rule's values."""

    table: str
    axes: Values

    def matches(self, combination: Mapping[str, Any], case: Case | None) -> bool:
        """Whether the rule removes this combination; `case` is its canonical case, None if it makes none.

        An axis that means nothing for the case, such as unroll for a static one, matches no value.
        """
        return all(
            (case is None or getattr(case, name) is not None)
            and any(_same(combination.get(name, getattr(DEFAULT, name)), value) for value in values)
            for name, values in self.axes.items()
        )


DEFAULT = Case()


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, CellOptions):
        return all(getattr(value, name) == option for name, option in wanted.items())
    return bool(value == wanted)


def to_case(combination: Mapping[str, Any]) -> Case:
    """The canonical case of one combination. Raises CaseError if its axes contradict each other."""
    values = dict(combination)
    lengths = values.get("lengths")
    if isinstance(lengths, int):
        batch_size = values.get("batch_size", DEFAULT.batch_size)
        if batch_size > LARGEST_BATCH_LISTED:
            raise CaseError(
                [f"lengths = {lengths}: expected batch_size <= {LARGEST_BATCH_LISTED} beside it, got {batch_size}"]
            )
        values["lengths"] = (lengths,) * batch_size
    return Case(**values).canonical()


@dataclass(frozen=True)
class Expansion:
    """cases: canonical, each once, in the order written. used: the tables of the rules that excluded something."""

    cases: tuple[Case, ...]
    findings: tuple[str, ...]
    used: frozenset[str]


def expand(products: Sequence[Product], excludes: Sequence[Exclude]) -> Expansion:
    """Every case of the products that no rule excludes; a combination that cannot be is a finding."""
    cases: dict[Case, None] = {}
    findings: dict[str, None] = {}
    used: set[str] = set()
    for product in products:
        for combination in product.combinations():
            case, contradictions = _case_or_findings(combination)
            matching = {rule.table for rule in excludes if rule.matches(combination, case)}
            used |= matching
            if matching:
                continue
            if case is not None:
                cases[case] = None
            for text in contradictions:
                findings[f"{product.table} {text}; an [[exclude]] can leave this combination out"] = None
    return Expansion(tuple(cases), tuple(findings), frozenset(used))


def _case_or_findings(combination: Mapping[str, Any]) -> tuple[Case | None, tuple[str, ...]]:
    try:
        return to_case(combination), ()
    except CaseError as error:
        return None, error.findings


def read(table: str, raw: Mapping[str, Any]) -> tuple[Values, list[str]]:
    """The checked values of one table of axes, and a finding for each that is none, beginning with the table's name."""
    axes: dict[str, tuple[Any, ...]] = {}
    findings: list[str] = []
    for name, value in raw.items():
        if name not in AXES:
            findings.append(f"{table} {show_key(name)}: unknown axis{did_you_mean(name, AXES)}")
            continue
        values = value if isinstance(value, list) else [value]
        if not values:
            findings.append(f"{table} {name} = []: expected at least one value")
        wrong = [text for one in values for text in _check(name, one)]
        findings.extend(f"{table} {text}" for text in dict.fromkeys(wrong))
        if not wrong and values:
            axes[name] = tuple(dict.fromkeys(_to_axis(name, one) for one in values))
    return axes, findings


def read_exclude(table: str, raw: Mapping[str, Any]) -> tuple[Exclude, list[str]]:
    """The rule that one table of axes writes, and its findings; only the cell options that are written are compared."""
    axes, findings = read(table, raw)
    if "cell_options" in axes:
        options = raw["cell_options"]
        axes = {**axes, "cell_options": tuple(options if isinstance(options, list) else [options])}
    if not axes and not findings:
        findings.append(f"{table} is empty: expected at least one axis = value")
    return Exclude(table, axes), findings


def _to_axis(name: str, value: Any) -> Any:
    if name == "cell_options":
        return CellOptions(**value)
    return tuple(value) if isinstance(value, list) else value


def _check(name: str, value: Any) -> Iterable[str]:
    """Findings about one value by itself, whatever the other axes are."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if any(isinstance(part, dict | list) for part in parts):
        return [f"{name} = {show(value)}: nested too deeply: expected {name} = value, or a list of values"]
    largest = LARGEST_BYTES if name == "device_memory_limit" else LARGEST
    if any(isinstance(part, int | float) and abs(part) > largest for part in parts):
        return [f"{name} = {show(value)}: expected at most {largest}"]
    if name == "cell_options" and isinstance(value, dict):
        unknown = [option for option in value if option not in OPTIONS]
        if unknown:
            return [f"{name}.{show_key(o)}: unknown cell option{did_you_mean(o, OPTIONS)}" for o in unknown]
    if name == "backend" and isinstance(value, str) and value not in backends.names():
        return [f"backend = {show(value)}: unknown backend{did_you_mean(value, backends.names())}"]
    return _probe(name, value)


def _probe(name: str, value: Any) -> Iterable[str]:
    """Findings of a case in which everything but this one value is in order and fits it."""
    fitting: dict[str, Any] = {}
    if isinstance(value, list):
        numbers = [part for part in value if isinstance(part, int)]
        fitting = {"batch_size": max(1, len(value)), "sequence_length": max([1, *numbers])}
        fitting = fitting if name == "lengths" else {"num_layers": max(1, len(value))}
    tried = _to_axis(name, value) if isinstance(value, dict | list) else value
    if name == "lengths" and isinstance(value, int) and not isinstance(value, bool):
        tried, fitting = (value,), {"batch_size": 1, "sequence_length": max(1, value)}
    try:
        Case(**{**fitting, name: tried})
    except CaseError as error:
        return [_in_toml(name, value, finding) for finding in error.findings]
    except TypeError:  # a table where only cell_options may have one
        return [f"{name} = {show(value)}: expected a value, not a table"]
    return []


def _in_toml(name: str, value: Any, finding: str) -> str:
    """The finding with the value as the file writes it, not as Python does."""
    key, separator, _ = finding.partition(" = ")
    position = finding.rfind(": expected")
    if not separator or position < 0:
        return finding
    option = key.removeprefix("cell_options.")
    shown = value[option] if isinstance(value, dict) and option in value else value
    return f"{key} = {show(shown)}{finding[position:]}"


def parse_values(text: str) -> list[object] | None:
    """The comma-separated TOML values of the text, in which words need no quotes; None if it cannot be read."""
    word = r"""("[^"]*"|'[^']*')|(?<![\w.+-])(?!(?:true|false|inf|nan)\b)([A-Za-z_][\w-]*)"""
    quoted = re.sub(word, lambda match: match[1] or f'"{match[2]}"', text)
    try:
        data = tomllib.loads(f"values = [{quoted}]")
    except (ValueError, RecursionError):
        return None
    values = data.get("values")
    return values if isinstance(values, list) and len(data) == 1 else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean "unroll"?` and every name there is, to end a finding about an unknown one."""
    names = tuple(names)
    near = difflib.get_close_matches(name[:40], names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"{hint} (expected one of {', '.join(names)})"


def show_key(key: str) -> str:
    """The key as TOML writes it, cut where it is long."""
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare and len(key) <= 40 else show(key)


def show(value: Any, *, depth: int = 2) -> str:
    """The value in TOML's syntax, cut where it is long or deep."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 40 else value[:40] + "...", ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{_show_parts([_show_part(part, depth) for part in value[:6]], len(value))}]"
    if isinstance(value, dict):
        shown = [f"{show_key(key)} = {_show_part(value[key], depth)}" for key in list(value)[:6]]
        return f"{{{_show_parts(shown, len(value))}}}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return repr(value)


def _show_part(value: Any, depth: int) -> str:
    return show(value, depth=depth - 1) if depth or not isinstance(value, list | dict) else "..."


def _show_parts(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f", ... {count} in all" if count > len(shown) else "")

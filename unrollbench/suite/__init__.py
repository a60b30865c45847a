"""Suite files: TOML text -> Suite, with every finding about a file reported at once.

    title = "Unrolling a small LSTM"                   # required, as is the question
    question = "How far should the loop be unrolled?"
    description = "Longer text."                       # optional
    [measure]                                          # optional: repeats, min_samples, min_time_s, timeout_s
    [axes]                                             # any axis of a case: a value, or a list of values to multiply
    execution = ["static", "stepwise"]
    mode = ["forward", "train"]
    batch_size = 2
    num_layers = 2
    num_units = [64, [64, 32]]                         # a list in the list: one size per layer
    lengths = ["full", 16, [3, 5]]                     # 16: every row's length; a list in the list: one per batch row
    cell_options = [{}, { use_peepholes = true }]
    [[include]]                                        # one more product: [axes] with these put over it
    execution = "dynamic"
    unroll = [1, 2, 4, "full"]
    [[exclude]]                                        # leaves out the cases that have all of these
    unroll = "full"
    mode = "train"

A file whose questions have shapes of their own has `[[group]]` tables instead of `[[include]]`: each has a `name`, may
have a `question` and a `description`, and puts its `[group.axes]` over `[axes]`, with its own `[[group.include]]` and
`[[group.exclude]]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unrollbench.case import Case
from unrollbench.errors import CaseError, SuiteError
from unrollbench.suite import document
from unrollbench.suite.axes import (
    Exclude,
    Product,
    Values,
    did_you_mean,
    expand,
    parse_values,
    read,
    read_exclude,
    to_case,
)
from unrollbench.suite.document import Table

MAX_CASES = 10_000
"""At 1.5 s, the least that a case takes, these are four hours; a product beyond it is refused before it is expanded."""
MAX_FINDINGS = 50

KEYS = ("title", "question", "description", "measure", "axes", "include", "exclude", "group")
GROUP_KEYS = ("name", "question", "description", "axes", "include", "exclude")
MEASURE_KEYS = ("repeats", "min_samples", "min_time_s", "timeout_s")


@dataclass(frozen=True)
class Group:
    """The cases that answer one question: canonical, each once, in the order written."""

    name: str
    question: str
    cases: tuple[Case, ...]
    description: str = ""


@dataclass(frozen=True)
class Suite:
    """One suite file, checked.

    repeats: fresh processes per case. min_samples, min_time_s: what is timed in each, at least. timeout_s: for one
    process. source: the file's text.
    """

    name: str
    title: str
    question: str
    description: str
    groups: tuple[Group, ...]
    repeats: int
    min_samples: int
    min_time_s: float
    timeout_s: float
    source: str


@dataclass(frozen=True)
class _Draft:
    """A group before its products are expanded."""

    name: str
    question: str
    products: tuple[Product, ...]
    excludes: tuple[Exclude, ...]
    description: str = ""


def folder() -> Path:
    """Where the installed suites are: in the package, or beside it in a checkout."""
    inside = Path(__file__).parents[1] / "suites"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "suites"


def names() -> tuple[str, ...]:
    """The installed suites."""
    return tuple(sorted(path.stem for path in folder().glob("*.toml")))


def load(name_or_path: str, *, axes: Mapping[str, list[object]] | None = None) -> Suite:
    """The installed suite of that name, or the file. `axes` takes the place of those axes' values in all of its tables.

    Raises SuiteError with every finding: file, table, key, value, what was expected.
    """
    if name_or_path in names():
        path, origin = folder() / f"{name_or_path}.toml", f"suites/{name_or_path}.toml"
    else:
        path, origin = Path(name_or_path), name_or_path
        if not _exists(path):
            hint = did_you_mean(name_or_path, names())
            raise SuiteError([f"{origin}: no such file, and no installed suite has that name{hint}"])
    return parse(document.read_text(path, origin), name=path.stem, origin=origin, axes=axes)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for any file, or with a NUL in it
        return False


def parse(text: str, *, name: str, origin: str, axes: Mapping[str, list[object]] | None = None) -> Suite:
    """The suite that the TOML text describes; `origin` begins each finding. Raises SuiteError."""
    top = document.parse(text, origin)
    override, option_findings = read("--axis", axes or {})
    top.known(KEYS)
    measure = top.table("measure")
    measure.known(MEASURE_KEYS)
    drafts = _drafts(top, name)
    suite = Suite(
        name=name,
        title=top.text("title"),
        question=top.text("question"),
        description=top.text("description", required=False),
        groups=() if top.findings or option_findings else _groups(top, drafts, override),
        repeats=measure.integer("repeats", 1),
        min_samples=measure.integer("min_samples", 5),
        min_time_s=measure.seconds("min_time_s", 0.2),
        timeout_s=measure.seconds("timeout_s", 300.0),
        source=text,
    )
    findings = [*option_findings, *(f if f.startswith("--axis") else f"{origin}: {f}" for f in top.findings)]
    if len(findings) > MAX_FINDINGS:
        findings[MAX_FINDINGS:] = [f"{origin}: ... and {len(findings) - MAX_FINDINGS} more findings"]
    if findings:
        raise SuiteError(findings)
    return suite


def parse_axes(options: Sequence[str], *, where: str = "--axis") -> dict[str, list[object]]:
    """Axis name -> values of `name=values` options: TOML values separated by commas, quotes optional.

    `where` begins each finding. Raises SuiteError with every option that cannot be read; whether there are such axes
    and values, `load` says.
    """
    axes: dict[str, list[object]] = {}
    findings = []
    for option in options:
        name, _, text = (part.strip() for part in option.partition("="))
        values = parse_values(text)
        if not values or not name:
            findings.append(f"{where} {option}: expected name=values, separated by commas, such as unroll=1,4,full")
        elif name in axes:
            findings.append(f"{where} {option}: {name} is given twice: write all its values in one option")
        else:
            axes[name] = values
    if findings:
        raise SuiteError(findings)
    return axes


def parse_case(options: Sequence[str], *, where: str) -> Case:
    """The canonical case of `axis=value` options, its other axes at their defaults. Raises SuiteError."""
    axes, findings = read(where, parse_axes(options, where=where))
    findings += [f"{where} {axis}: expected one value, since this is one case" for axis in axes if len(axes[axis]) != 1]
    if findings:
        raise SuiteError(findings)
    try:
        return to_case({axis: values[0] for axis, values in axes.items()})
    except CaseError as error:
        raise SuiteError(f"{where} {finding}" for finding in error.findings) from error


def _drafts(top: Table, name: str) -> list[_Draft]:
    """The groups of the file; without `[[group]]` the whole file is one, named as the suite."""
    if "group" not in top.data:
        return [_draft(top, name, Product("[axes]", {}))]
    if "include" in top.data:
        top.report("include: expected it as [[group.include]], in the group that it is for")
    base = Product("[axes]", _axes(top.table("axes")))
    shared = tuple(_exclude(table) for table in top.tables("exclude"))
    drafts: list[_Draft] = []
    seen: set[str] = set()
    for table in top.tables("group"):
        table.known(GROUP_KEYS)
        name = table.text("name")
        if name and name in seen:
            table.report(f'name = "{name}": expected a name of its own; an earlier group has this one')
        seen.add(name)
        draft = _draft(table, name, base)
        description = table.text("description", required=False)
        drafts.append(replace(draft, excludes=(*draft.excludes, *shared), description=description))
    return drafts


def _draft(table: Table, name: str, base: Product) -> _Draft:
    """The group that the table's axes, include and exclude describe, its axes put over `base`."""
    if not (table.data.get("axes") or table.data.get("include") or base.axes):
        table.report('has no axes: expected what to run, such as a table [axes] with unroll = [1, 4, "full"]')
    axes = table.table("axes")
    product = base.over(_axes(axes), axes.where)
    included = [product.over(_axes(one), one.where) for one in table.tables("include")]
    excludes = tuple(_exclude(one) for one in table.tables("exclude"))
    return _Draft(name, table.text("question", required=False), (product, *included), excludes)


def _axes(table: Table) -> Values:
    values, findings = read(table.where, table.data)
    table.findings.extend(findings)
    return values


def _exclude(table: Table) -> Exclude:
    rule, findings = read_exclude(table.where, table.data)
    table.findings.extend(findings)
    return rule


def _groups(top: Table, drafts: Sequence[_Draft], override: Values) -> tuple[Group, ...]:
    """The drafts with their products expanded, after `override`; reports what cannot be expanded."""
    products = [tuple(p.over(override, p.table) for p in draft.products) for draft in drafts]
    count = sum(product.size for group in products for product in group)
    if count > MAX_CASES:
        largest = max((product for group in products for product in group), key=lambda product: product.size)
        sizes = " x ".join(f"{len(values)} {axis}" for axis, values in largest.axes.items() if len(values) > 1)
        top.report(
            f"{count} cases, of which {largest.table} has {sizes}: expected at most {MAX_CASES}: shorten its lists, "
            "here or with --axis, or put axes that need not be multiplied into tables of their own"
        )
        return ()
    groups: list[Group] = []
    used: set[str] = set()
    for draft, of_group in zip(drafts, products, strict=True):
        expansion = expand(of_group, draft.excludes)
        top.findings.extend(expansion.findings)
        used |= expansion.used
        groups.append(Group(draft.name, draft.question, expansion.cases, draft.description))
    if not override:
        unused = dict.fromkeys(rule.table for draft in drafts for rule in draft.excludes if rule.table not in used)
        top.findings.extend(f"{table} excludes no case: remove it, or correct its values" for table in unused)
    if not top.findings and not any(group.cases for group in groups):
        top.report("every case is excluded: expected at least one")
    return tuple(groups)

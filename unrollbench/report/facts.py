"""Nested facts about a machine as a flat list of names and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unrollbench.records import Environment
from unrollbench.report import wording


def facts(environment: Environment) -> list[tuple[str, str]]:
    """(dotted name, text) of the fingerprint and every fact, in their order; what is unknown with its reason."""
    known = {name: value for name, value in environment.facts.items() if name != "unknown"}
    reasons = environment.facts.get("unknown")
    why = reasons if isinstance(reasons, Mapping) else {}
    return [("fingerprint", environment.fingerprint), *_flat(known, (), why)]


def _flat(value: object, path: Sequence[str], why: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    name = ".".join(path)
    if isinstance(value, Mapping) and (value or not path):
        for inner, inside in value.items():
            yield from _flat(inside, (*path, str(inner)), why)
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "none"
    elif value is None:
        yield name, f"unknown: {why[name]}" if name in why else "unknown"
    elif isinstance(value, int) and name.endswith("_bytes"):
        yield name.removesuffix("_bytes"), wording.size(value)
    elif isinstance(value, float):
        yield name, f"{value:.4g}"
    else:
        yield name, "none" if value == {} else str(value)

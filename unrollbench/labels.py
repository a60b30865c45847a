"""Names of cases for people: a label of the whole case, and its two halves, the network and the way to run it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields

from unrollbench.case import VARIANT_AXES, Case, CellOptions

LETTERS = {"sequence_length": "T", "batch_size": "B", "input_size": "I", "num_units": "H", "num_layers": "L"}
"""Axis -> its letter in labels."""
LISTED_LENGTHS = 8
"""A label lists so many lengths; more are told by their range and a digest."""


def label(case: Case) -> str:
    """A short name such as `lstm/static T=64 B=32 I=64 H=128 L=1 train`, different for different canonical cases.

    After the letters come the mode and every other axis that is not at its default.
    """
    execution = case.execution if case.unroll in (None, 1) else f"{case.execution} unroll={case.unroll}"
    parts = [f"{case.cell}/{execution}", *_shape(case, ()), case.mode, *_rest(case, ("cell", "execution", "unroll"))]
    return " ".join(parts)


def network(case: Case, without: tuple[str, ...] = ()) -> str:
    """Which network, such as `lstm T=64 B=32 I=64 H=128 L=1 train`: the label without what says how it is run.

    Axes named in `without` are left out.
    """
    return " ".join([case.cell, *_shape(case, without), case.mode, *_rest(case, ("cell", *VARIANT_AXES, *without))])


def shape(case: Case, without: tuple[str, ...] = ()) -> str:
    """The network's sizes, such as `T=64 B=32 I=64 H=128 L=1`, and all else of it that is not named in `without`."""
    told = ("cell", "mode", *VARIANT_AXES, *without)
    return " ".join([*_shape(case, without), *_rest(case, told)])


def variant(case: Case, varying: Iterable[str] = ()) -> str:
    """Which way to run it, such as `static` or `dynamic unroll=4`: the axes that say so and are not at their default.

    Axes named in `varying` are told also at their default, unless they mean nothing for the case.
    """
    default = Case()
    plain = case.backend == default.backend and "backend" not in varying
    parts = [case.execution if plain else f"{case.backend} {case.execution}"]
    for axis in VARIANT_AXES:
        value = getattr(case, axis)
        if axis in ("backend", "execution") or value is None:
            continue
        if axis in varying or value != getattr(default, axis):
            parts.append(f"{axis}={_shown(value)}")
    return " ".join(parts)


def _shape(case: Case, without: tuple[str, ...]) -> Iterator[str]:
    for axis, letter in LETTERS.items():
        if axis not in without:
            yield f"{letter}={_shown(getattr(case, axis))}"


def _rest(case: Case, told: tuple[str, ...]) -> Iterator[str]:
    """Every axis without a letter, and every cell option, that is not at its default."""
    default = Case()
    for field in fields(Case):
        value = getattr(case, field.name)
        if field.name in (*LETTERS, "mode", "cell_options", *told):
            continue
        if value is not None and value != getattr(default, field.name):
            yield f"{field.name}={_shown(value)}"
    for field in fields(CellOptions):
        value = getattr(case.cell_options, field.name)
        if value != field.default:
            yield f"{field.name}={_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, tuple):
        return str(value)
    text = ",".join(map(str, value))
    if len(value) <= LISTED_LENGTHS:
        return text
    if len(set(value)) == 1:
        return f"{value[0]}*{len(value)}"
    return f"{min(value)}..{max(value)}#{hashlib.sha256(text.encode()).hexdigest()[:6]}"

"""Small functions that hold the branches of generated text, on a device and in the simulator.

A branch costs numba-cuda the more time the longer the text is that it stands in, and products have hundreds of them.
Here each is compiled once, and becomes a predicate or a selection where it is called.
"""

from __future__ import annotations

from typing import Any


def choose(condition: Any, one: Any, other: Any) -> Any:
    """One if the condition holds, or else the other."""
    return one if condition else other


def fetch(array: Any, place: Any, inside: Any, otherwise: Any) -> Any:
    """The element at that place if it is inside of the matrix."""
    value = otherwise
    if inside:
        value = array[place]
    return value


def store(array: Any, place: Any, value: Any, inside: Any, adds: Any) -> None:
    """The element at that place becomes the value, or with `adds` its sum with the value, if it is inside."""
    if inside:
        if adds:
            array[place] += value
        else:
            array[place] = value


FUNCTIONS = (choose, fetch, store)

"""Kernel text as machine code, against what Python makes of the same text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.vectors import call
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.source import define, function
from unrollbench.kernels.words import peek, poke

WORDS = 6


def in_python(text: str, arguments: tuple[int, ...], words: list[int]) -> list[int]:
    """The words after the text has run as Python, with addresses that count from 0."""
    memory = list(words)

    def poke(address: int, value: int) -> None:
        memory[address // 8] = int(value)

    define(text, "run", {"peek": lambda address, offset: memory[(address + offset) // 8], "poke": poke})(0, *arguments)
    return memory


def compiled(text: str, arguments: tuple[int, ...], words: list[int]) -> list[int]:
    """The words after the compiled text has run on an array of them."""
    memory = np.array(words, np.int64)
    call(machine_code(text), memory.ctypes.data, *arguments)
    return memory.tolist()  # type: ignore[no-any-return]


_kernels: dict[str, Kernel] = {}


def machine_code(text: str) -> Kernel:
    if text not in _kernels:
        _kernels[text] = kernel(text, "run", {"peek": peek, "poke": poke})
    return _kernels[text]


ARITHMETIC = function(
    "run",
    "f, a, b, c",
    [
        "poke(f, a + b * c - (a - b))",
        "poke(f + 8, a // c)",
        "poke(f + 16, a % c)",
        "poke(f + 24, (a & b) + -a + min(a, b))",
        "poke(f + 32, (a if a < b else c) + 10 * (a == b) + 100 * (a != b and b >= c))",
        "a, b = b, a",
        "poke(f + 40, a - 2 * b)",
    ],
)
SMALL = st.integers(-1000, 1000)


@given(SMALL, SMALL, SMALL.filter(bool))
def test_arithmetic_and_comparisons_mean_what_they_mean_in_python(a: int, b: int, c: int) -> None:
    words = [0] * WORDS
    assert compiled(ARITHMETIC, (a, b, c), words) == in_python(ARITHMETIC, (a, b, c), words)


LOOPS = function(
    "run",
    "f, a, b",
    [
        "total = 0",
        "for i in range(a):",
        "    if i % 3 == 0 and i != b:",
        "        total += i",
        "    elif i > b:",
        "        total -= 1",
        "    else:",
        "        i += 5",  # a loop's own count is not its variable
        "        total += i",
        "poke(f, total)",
        "for i in range(b, a, 4):",
        "    for j in range(i):",
        "        total += j",
        "        if total > 50:",
        "            poke(f + 8, i)",
        "            return",
        "while total > b:",
        "    total -= 7",
        "poke(f + 16, total + peek(f, 24))",
    ],
)


@given(st.integers(-3, 30), st.integers(-5, 30))
def test_loops_branches_and_returns_go_where_they_go_in_python(a: int, b: int) -> None:
    words = [0, 0, 0, 17, 0, 0]
    assert compiled(LOOPS, (a, b), words) == in_python(LOOPS, (a, b), words)


def test_what_follows_a_condition_that_is_false_is_not_evaluated() -> None:  # a crash, if it were
    text = function("run", "f, a", ["if a != 0 and peek(a, 0) == 7:", "    poke(f, 1)"])
    assert compiled(text, (0,), [0] * WORDS)[0] == 0
    text = function("run", "f, a", ["poke(f, 5 // a if a != 0 else 7)", "poke(f + 8, peek(a, 0) if a else 8)"])
    assert compiled(text, (0,), [0] * WORDS)[:2] == [7, 8]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("x = a / 2", "a / 2"),
        ("a **= 2", "a **= 2"),
        ("x = y", "y"),
        ("poke(f, unknown(a))", "unknown(a)"),
        ("poke(f, 1.5)", "1.5"),
        ("print(a)", "print(a)"),
        ("x = [a]", "[a]"),
        ("return a", "return a"),
        ("x = 0 < a < 5", "0 < a < 5"),
        ("for i in range(a, 0, -1):\n        poke(f, i)", "range(a, 0, -1)"),
        ("for i in range(0, 9, a):\n        poke(f, i)", "range(0, 9, a)"),
        ("if a or f:\n        poke(f, 1)", "a or f"),
    ],
)
def test_text_that_is_no_kernels_is_an_error_that_says_what(line: str, named: str) -> None:
    with pytest.raises(SyntaxError) as error:
        kernel(function("run", "f, a", [line]), "run", {"poke": poke})
    assert str(error.value).startswith(f"line 2: {named!r} is no ")


def test_a_text_without_the_named_function_is_an_error() -> None:
    with pytest.raises(SyntaxError, match="kernel run: expected one function of that name"):
        kernel(function("other", "f", ["return"]), "run", {})


def test_a_kernel_calls_another_by_its_address() -> None:
    inner = machine_code(function("run", "f, a", ["poke(f, peek(f, 0) * a)"]))
    outer = kernel(function("twice", "f, a", ["inner(f, a)", "inner(f, a)"]), "twice", {"inner": inner.call}, [inner])
    memory: Any = np.array([3], np.int64)
    call(outer, memory.ctypes.data, 5)
    assert memory[0] == 75
    assert outer.reachable() == {outer, inner}


def test_a_call_of_a_kernel_with_another_number_of_arguments_is_an_error() -> None:
    inner = kernel(function("one", "f", ["poke(f, 1)"]), "one", {"poke": poke})
    with pytest.raises(TypeError, match="kernel one: called with 2 arguments, but it has 1"):
        kernel(function("two", "f", ["one(f, f)"]), "two", {"one": inner.call}, [inner])

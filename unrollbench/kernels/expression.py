"""A cell's equations as a graph of operations, read off by calling them once on placeholders.

    def forward(z, h):                          h --------------.-----------.
        z = tanh(z)                  becomes    z --- tanh --- sub -- mul -- add
        return z, h + leak * (z - h)            leak -----------------'

Equations are straight-line functions of + - * and of `cells.functions`, so one call shows all that they do.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from unrollbench.cells.functions import Placeholder


@dataclass(frozen=True, eq=False)
class Expression(Placeholder):
    """One operation on operands that are expressions or numbers; an argument of the equations has none of either.

    function: `operator.add`, `sub`, `mul` or `neg`, or one of `cells.functions`; None for an argument.
    """

    function: Callable[..., Any] | None = None
    operands: tuple[Any, ...] = ()

    __array_ufunc__ = None  # a NumPy number on the left leaves the operation to this class

    def applied(self, function: Callable[..., Any], operands: tuple[Any, ...]) -> Expression:
        """The expression function(*operands)."""
        return Expression(function, operands)

    def __add__(self, other: Any) -> Expression:
        return Expression(operator.add, (self, other))

    def __radd__(self, other: Any) -> Expression:
        return Expression(operator.add, (other, self))

    def __sub__(self, other: Any) -> Expression:
        return Expression(operator.sub, (self, other))

    def __rsub__(self, other: Any) -> Expression:
        return Expression(operator.sub, (other, self))

    def __mul__(self, other: Any) -> Expression:
        return Expression(operator.mul, (self, other))

    def __rmul__(self, other: Any) -> Expression:
        return Expression(operator.mul, (other, self))

    def __neg__(self) -> Expression:
        return Expression(operator.neg, (self,))


def uses(results: Iterable[Any]) -> dict[Expression, int]:
    """How often each expression is an operand, or a result."""
    found: dict[Expression, int] = {}
    waiting = [result for result in results if isinstance(result, Expression)]
    while waiting:
        one = waiting.pop()
        found[one] = found.get(one, 0) + 1
        if found[one] == 1:
            waiting += [operand for operand in one.operands if isinstance(operand, Expression)]
    return found

"""Equations as instructions on the rows of a tile: loaded from memory, computed in registers, stored.

Beside what the equations say, two things are done as no compiler would without fast-math flags: a product that is only
added to something is one multiply-add with it, and sigmoid(x) * tanh(y), where neither is needed elsewhere, is one
division instead of two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from llvmlite import ir

from unrollbench.kernels.elementary import OTHERS, QUOTIENTS, Emitter, Value
from unrollbench.kernels.expression import Expression, uses
from unrollbench.kernels.simd import Vector, vector
from unrollbench.kernels.words import LINE_BYTES, Emit, pointer, prefetch

I64 = ir.IntType(64)


@dataclass(frozen=True)
class Lanes:
    """Where in a sequence of vectors a value begins, in elements, and how many elements it has; it need not begin one.

    A vector of it has zeros in the other lanes.
    """

    first: int
    count: int

    def columns(self, width: int) -> range:
        """The vectors of `width` elements that hold some of it."""
        return range(self.first // width, (self.first + self.count - 1) // width + 1)


@dataclass(frozen=True)
class Place:
    """Where a value lies: `offset` bytes past the address that is the argument of that name, `stride` from row to row.

    With stride 0 all rows have the same. lanes: None where it has vectors of its own.
    """

    argument: str
    offset: int = 0
    stride: int = 0
    lanes: Lanes | None = None


@dataclass(frozen=True)
class Touched:
    """A place whose lines are asked for: for reading or, if `written`, for writing as well."""

    place: Place
    written: bool


@dataclass(frozen=True)
class Equations:
    """What is loaded, each an expression's argument, and which expressions or numbers are stored where."""

    loads: tuple[tuple[Expression, Place], ...]
    stores: tuple[tuple[Any, Place], ...]

    @property
    def arguments(self) -> dict[str, int]:
        """The names of the addresses, in the order in which `on_tile` takes them, and the stride of each."""
        return arguments(place for _, place in (*self.loads, *self.stores))


def arguments(places: Iterable[Place]) -> dict[str, int]:
    """The names of the addresses of places, each once, and the stride of each."""
    return {place.argument: place.stride for place in places}


class _Emission:
    """The values of expressions, each emitted once."""

    def __init__(self, emitter: Emitter, loaded: dict[Expression, Value], results: Sequence[Any]) -> None:
        self.emitter, self.values, self.uses = emitter, dict(loaded), uses(results)

    def value(self, one: Any) -> Value:
        if not isinstance(one, Expression):
            return self.emitter.constant(one)
        if one not in self.values:
            self.values[one] = self._emit(one)
        return self.values[one]

    def _emit(self, one: Expression) -> Value:
        e, operands = self.emitter, one.operands
        if one.function is operator.add:
            return self._sum(*operands)
        if one.function is operator.sub:
            return self._difference(*operands)
        if one.function is operator.mul:
            return self._product(*operands)
        if one.function is operator.neg:
            return e.neg(self.value(*operands))
        if one.function in QUOTIENTS:
            numerator, denominator = QUOTIENTS[one.function](e, self.value(*operands))
            return self._times(numerator, e.reciprocal(denominator))
        return OTHERS[one.function](e, *map(self.value, operands))

    def _once(self, one: Any, *functions: Any) -> bool:
        return isinstance(one, Expression) and one.function in functions and self.uses[one] == 1

    def _sum(self, x: Any, y: Any) -> Value:
        for product, other in ((x, y), (y, x)):
            if self._once(product, operator.mul) and not self._is_one_quotient(*product.operands):
                return self.emitter.fma(*map(self.value, product.operands), self.value(other))
        return self.emitter.add(self.value(x), self.value(y))

    def _difference(self, x: Any, y: Any) -> Value:
        e = self.emitter
        if self._once(y, operator.mul):
            return e.fma(e.neg(self.value(y.operands[0])), self.value(y.operands[1]), self.value(x))
        if self._once(x, operator.mul):
            return e.fma(*map(self.value, x.operands), e.neg(self.value(y)))
        return e.sub(self.value(x), self.value(y))

    def _is_one_quotient(self, x: Any, y: Any) -> bool:
        both = x is not y and self._once(x, *QUOTIENTS) and self._once(y, *QUOTIENTS)
        return both and x.function is not y.function  # of two sigmoids the denominator could overflow

    def _product(self, x: Any, y: Any) -> Value:
        e = self.emitter
        if not self._is_one_quotient(x, y):
            return e.mul(self.value(x), self.value(y))
        (n_x, d_x), (n_y, d_y) = (QUOTIENTS[z.function](e, self.value(*z.operands)) for z in (x, y))
        return self._times(self._times(n_x, n_y), e.reciprocal(e.mul(d_x, d_y)))

    def _times(self, x: Value, y: Value) -> Value:
        """x * y, where a numerator that is the same for all vectors is 1."""
        if not isinstance(x, tuple):
            return y
        return x if not isinstance(y, tuple) else self.emitter.mul(x, y)


MOST_TOGETHER = 6
"""Vectors that are computed side by side at most: with more, their values would not stay in registers."""


def on_tile(dtype: str, rows: int, blocks: int, equations: Equations) -> Any:
    """A function of `equations.arguments`, addresses of the first row's first unit, that computes a tile at once."""
    ty = vector(dtype)
    names = tuple(equations.arguments)
    vectors = [(row, block) for block in range(blocks) for row in range(rows)]
    most = -(-len(vectors) // -(-len(vectors) // MOST_TOGETHER))  # as many in one part as in the next
    together = [vectors[first : first + most] for first in range(0, len(vectors), most)]

    def emit(builder: Any, *args: Any) -> None:
        addresses = {name: pointer(builder, value) for name, value in zip(names, args, strict=True)}
        for part in together:
            _emit_together(builder, ty, equations, addresses, part)

    return emit


def ask_for_tile(dtype: str, rows: int, blocks: int, touched: Sequence[Touched], level: int) -> Any:
    """A function of the `arguments` of these places that asks for what a tile touches, in the cache of that level.

    A tile that begins in the middle of a line, where a vector is shorter than one, may leave its last line out.
    """
    ty = vector(dtype)
    names, width = tuple(arguments(each.place for each in touched)), ty.lanes * ty.size
    asked: dict[tuple[Place, int], bool] = {}
    for place, written in ((each.place, each.written) for each in touched):
        columns = range(blocks) if place.lanes is None else place.lanes.columns(ty.lanes)
        for column in columns[:: max(1, LINE_BYTES // width)]:
            key = replace(place, lanes=None), column
            asked[key] = written or asked.get(key, False)

    def emit(builder: Any, *args: Any) -> None:
        memory = _Memory(builder, ty, {name: pointer(builder, value) for name, value in zip(names, args, strict=True)})
        for (place, column), written in asked.items():
            for row in range(rows):
                prefetch(builder, memory.at(place, row, column), level, writes=written)

    return emit


@cache
def ask_for_row(dtype: str, blocks: int, touched: tuple[Touched, ...], level: int) -> Emit:
    """A function of a row's number and `ask_for_tile`'s arguments that asks for what that row of the tile touches."""
    strides = arguments(each.place for each in touched).values()
    ask = ask_for_tile(dtype, 1, blocks, touched, level)

    def emit(builder: Any, row: Any, *args: Any) -> None:
        offsets = [builder.mul(row, ir.Constant(I64, stride)) for stride in strides]
        ask(builder, *(builder.add(value, offset) for value, offset in zip(args, offsets, strict=True)))

    return emit


def _emit_together(
    builder: Any, ty: Vector, equations: Equations, addresses: dict[str, Any], vectors: Sequence[tuple[int, int]]
) -> None:
    """Emits the equations for vectors, (row, block) each, whose instructions alternate."""
    memory = _Memory(builder, ty, addresses)

    def load(place: Place) -> Value:
        wanted = [(row if place.stride else 0, block) for row, block in vectors]
        found = {one: memory.load(place, *one) for one in dict.fromkeys(wanted)}
        return tuple(found[one] for one in wanted)

    loaded = {expression: load(place) for expression, place in equations.loads}
    results = [result for result, _ in equations.stores]
    emission = _Emission(Emitter(builder, ty, len(vectors)), loaded, results)
    values = [emission.value(result) for result in results]
    for index, one in enumerate(vectors):
        own = [value[index] if isinstance(value, tuple) else value for value in values]
        memory.store([(place, value) for (_, place), value in zip(equations.stores, own, strict=True)], *one)


@dataclass(frozen=True)
class _Memory:
    """Loads and stores vectors of one row and unit block."""

    builder: Any
    ty: Vector
    addresses: dict[str, Any]

    def load(self, place: Place, row: int, block: int) -> Any:
        if place.lanes is None:
            return self._load(place, row, block)
        return self._unpacked(place.lanes, lambda column: self._load(place, row, column))

    def store(self, values: Sequence[tuple[Place, Any]], row: int, block: int) -> None:
        """Stores all of them; those that are packed together make one sequence."""
        sequences: dict[Place, list[tuple[Lanes, Any]]] = {}
        for place, value in values:
            if place.lanes is None:
                self._store(value, place, row, block)
            else:
                sequences.setdefault(replace(place, lanes=None), []).append((place.lanes, value))
        for place, parts in sequences.items():
            for column, value in enumerate(self._packed(parts)):
                self._store(value, place, row, column)

    def at(self, place: Place, row: int, column: int) -> Any:
        """Where the vector of a place begins."""
        offset = ir.Constant(I64, place.offset + row * place.stride + column * self.ty.lanes * self.ty.size)
        return self.builder.gep(self.addresses[place.argument], [offset], source_etype=ir.IntType(8))

    def _load(self, place: Place, row: int, column: int) -> Any:
        return self.builder.load(self.at(place, row, column), align=self.ty.size, typ=self.ty.llvm)

    def _store(self, value: Any, place: Place, row: int, column: int) -> None:
        self.builder.store(value, self.at(place, row, column), align=self.ty.size)

    def _shuffled(self, x: Any, y: Any, lanes: Sequence[int]) -> Any:
        """The lanes of x, which count from 0, and of y, which count on, in that order."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.ty.lanes), list(lanes))
        return self.builder.shuffle_vector(x, y, mask)

    def _unpacked(self, lanes: Lanes, load: Callable[[int], Any]) -> Any:
        """A vector of the value that lies at `lanes` of a sequence; load(column) is a vector of the sequence."""
        width = self.ty.lanes
        column, first = divmod(lanes.first, width)
        found = load(column)
        if first + lanes.count > width:
            found = self._shuffled(found, load(column + 1), range(first, first + width))
            first = 0
        wanted = [first + lane if lane < lanes.count else width for lane in range(width)]
        return self._shuffled(found, self._zero, wanted)

    def _packed(self, parts: Sequence[tuple[Lanes, Any]]) -> list[Any]:
        """The vectors of a sequence of values, with zeros where none of them lies."""
        width, columns = self.ty.lanes, []
        for start in range(0, max(lanes.first + lanes.count for lanes, _ in parts), width):
            found = self._zero
            for lanes, value in parts:
                own = [start + lane - lanes.first for lane in range(width)]
                if any(0 <= each < lanes.count for each in own):
                    chosen = [width + each if 0 <= each < lanes.count else lane for lane, each in enumerate(own)]
                    found = self._shuffled(found, value, chosen)
            columns.append(found)
        return columns

    @property
    def _zero(self) -> Any:
        return ir.Constant(self.ty.llvm, None)

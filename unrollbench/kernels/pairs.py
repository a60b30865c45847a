"""Winograd's inner product: of two steps of k one multiplication instead of two, where processors add meanwhile.

    a0 w0 + a1 w1 =   (a0 + w1) (a1 + w0) - a0 a1 - w0 w1
    a0 w0 + a1 w1 = - (a0 - w1) (a1 - w0) + a0 a1 + w0 w1

(S. Winograd, "A New Algorithm for Inner Product", IEEE Transactions on Computers C-17, 1968.) The products of a row's
own elements are the same for all columns, and those of a column of weights are known before a program runs. What is
left of two multiply-adds is one, and two additions. Some processors add on units of their own: of STEPS steps of k
PAIRED are multiplied that way and the others as they are, so that both kinds of units have four instructions.

Sums then hold what is subtracted again, which costs accuracy. Pairs take turns in the two ways, so that the products of
numbers of one sign cancel as they go. And a row is first multiplied by a power of two that makes its largest element
about as large as the largest weight, and its sums are divided by that: where both are alike in size, the error is small
beside the largest element times the largest weight (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd
edition, section 23.2.1). So these are multiplied as they are, with all rows that are multiplied together with them:
rows whose largest element is more than SPREAD times their mean magnitude, and weights of which that is so of any row or
column; rows and columns whose own products add up to more than those of numbers that have nothing to do with each
other; and what is not finite, or far larger or smaller than numbers that networks have.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from unrollbench.case import DTYPES
from unrollbench.kernels import host
from unrollbench.kernels.simd import Vector, multiply_add, splat, vector
from unrollbench.kernels.tile import Ends, Part, Product, Tile, add_and_ask, add_steps, after, even
from unrollbench.kernels.words import I64, Emit, at, pointer
from unrollbench.tensors import Array

STEPS, PAIRED = 6, {0: 1, 4: -1}
"""Steps of k that are multiplied together, and those that begin a pair: whether its own products are too much in a sum,
or too little. The two between the pairs do not make one."""
LEAST_ROWS, ROW_TILE, COLUMN_TILE = 4, 8, 2
"""Rows of a tile with which pairs pay, and rows and columns of one at most. With 7 rows or more, for which weights are
read once, it is at 98 % of the peak of such instructions, with 6 at 95 and with 4 at 83."""
MOST_ROWS = 12
"""Rows that are one tile, with COLUMN_TILE columns, where all are no more: STEPS weights of a column and two factors
take the other eight registers. Otherwise it would be no faster, and slower where the rows of sums are powers of two
apart: those of more than eight do not stay in a first-level cache together."""
LEAST_DEPTH = 24
"""Elements of a row with which pairs pay. With fewer their errors are up to 1.7 times those of multiply-adds, too."""
LARGEST, LARGEST_FACTOR, FACTOR_OF_ZEROS, LARGEST_WEIGHT, SMALLEST_WEIGHT = 40, 20, 40, 8, -20
"""Powers of two: what no element reaches, the most that a row is multiplied by, or what one of zeros is (by which sums
of numbers from 1e26 on get infinite in float32), and what the largest weight lies between."""
SPREAD = 16
"""How many times as large the largest element may be as a row's mean magnitude, and the largest weight as that of any
row and column."""
MOST_PRODUCTS = 3.5
"""How many times the root of K times the mean square the own products of a row's pairs, or a column's, may add up to:
six times what they do in numbers that have nothing to do with each other. Those that repeat in a period of STEPS or a
divisor or multiple of it may come to more."""
NO_PAIRS = 1 << 20
"""What `weights_exponent` says of weights that are not to be multiplied that way."""


def row_tile(rows: int) -> int:
    """Rows of a tile at most where there are so many."""
    return MOST_ROWS if rows <= MOST_ROWS else ROW_TILE


def row_bytes(dtype: str, depth: int) -> int:
    """Bytes that a scaled row of so many elements takes: its numbers, and whole vectors of elements."""
    return (1 + -(-depth // host.lanes(dtype))) * host.lanes(dtype) * DTYPES[dtype]


def weights_exponent(weights: Array) -> int:
    """(K, N) -> the exponent of the largest weight's power of two, which rows are scaled to, or NO_PAIRS."""
    magnitudes = np.abs(weights).astype(np.float64)
    largest = float(magnitudes.max(initial=0))
    if not 2.0**SMALLEST_WEIGHT < largest < 2.0**LARGEST_WEIGHT:  # nor is NaN
        return NO_PAIRS
    if largest > SPREAD * min(float(magnitudes.mean(axis).min()) for axis in (0, 1)):
        return NO_PAIRS
    most = MOST_PRODUCTS / np.sqrt(len(weights)) * np.square(magnitudes).sum(0)
    if (np.abs(own_products(weights.astype(np.float64)[None])[0]) > most).any():
        return NO_PAIRS
    return int(np.frexp(largest)[1]) - 1


def own_products(vectors: Array) -> Array:
    """(columns, K, lanes) -> (columns, lanes): of each column what the products of its pairs make too much of a sum."""
    found = np.zeros(vectors[:, 0].shape)
    with np.errstate(invalid="ignore", over="ignore"):  # in weights that are not multiplied in pairs
        for first, sign in PAIRED.items():
            one, other = vectors[:, first::STEPS].astype(np.float64), vectors[:, first + 1 :: STEPS]
            found += sign * (one[:, : other.shape[1]] * other).sum(1)
        return found.astype(vectors.dtype)


def scaled(dtype: str, product: Product) -> Product:
    """The product of scaled rows, if it is deep enough."""
    return product if product.depth < LEAST_DEPTH else replace(product, a_row=row_bytes(dtype, product.depth))


def scaling(rows: str, depth: int | str, row: str, exponent: str, place: str, row_bytes: int) -> list[str]:
    """Lines that scale rows and count in `unfit` those that do not allow pairs; row: the address of that `number`."""
    return [
        f"exponent, place = {exponent}, {place}",
        f"if exponent == {NO_PAIRS}:",
        "    unfit += 1",
        "else:",
        f"    for number in range({rows}):",
        f"        unfit = unfit + scale_row({depth}, {row}, place, exponent)",
        f"        place += {row_bytes}",
    ]


def counting(counts: str) -> list[str]:
    """Lines that say whether all rows that were scaled can be `paired`, and count how often they can and cannot."""
    return ["paired = unfit == 0", f"put({counts} + 8 * (unfit > 0), peek({counts}, 8 * (unfit > 0)) + 1)"]


class PairTile(Tile):
    """Emits a tile of scaled rows, which lie at constants; it takes STEPS steps of k at a time, or the first of them.

    Each row's and column's instructions are one assembly statement: a compiler would read elements of a, which are
    operands in memory here, into registers that there are not, and order additions as it likes.
    """

    def step(self, a, a_rows, w, w_column, w_k, sums):
        """The sums after so many steps of k."""
        updated = list(sums)
        for c in range(self.columns):
            first = self.at(w, self.times(w_column, c))
            weights = [self.at(first, self.times(w_k, k)) for k in range(self.steps)]
            weights = [self.builder.load(place, align=self.size, typ=self.llvm) for place in weights]
            for r, row in enumerate(a_rows):
                own, place = r * self.columns + c, f"(${self.steps + 2}){{1to{self.ty.lanes}}}"
                elements = [f"{row.constant + k * self.size}{place}" for k in range(self.steps)]
                updated[own] = _statement(self.builder, self.ty, elements, [updated[own], *weights], a)
        return updated

    def heads(self, a, rows):
        """Of each scaled row, the LLVM pointer to its numbers."""
        start = pointer(self.builder, a)
        return [self.at(start, self.builder.sub(row, ir.Constant(I64, self.size * self.ty.lanes))) for row in rows]

    def begin(self, sums, own, heads):
        """Sums as pairs add to them: of each row and column what it starts from, and less what pairs add too much.

        own: the sums of the columns' products; heads: of each row, the LLVM pointer to its numbers.
        """
        numbers = [[self._number(head, index) for index in (0, 2)] for head in heads]
        rows = [(factor, products) for factor, products in numbers for _ in range(self.columns)]
        begun = []
        for index, (value, (factor, products)) in enumerate(zip(sums, rows, strict=True)):
            less = self.builder.fneg(self.builder.fadd(own[index % self.columns], products))
            begun.append(multiply_add(self.builder, self.ty, value, factor, less))
        return begun

    def end(self, sums, heads):
        """The sums themselves again."""
        inverses = [self._number(head, 1) for head in heads]
        return [self.builder.fmul(value, inverses[index // self.columns]) for index, value in enumerate(sums)]

    def _number(self, head, index):
        """One of the numbers that a scaled row begins with, in every lane."""
        number = self.builder.load(at(self.builder, head, index * self.size), align=self.size, typ=self.llvm.element)
        return splat(self.builder, number, self.llvm)


def _statement(builder, ty, elements, values, place=None):
    """An assembly statement that adds the products of elements and as many weights to a sum; values: it, and these.

    elements: the operands that they are, of which $0 is the sum and weight k is ${k + 2}; those in memory need `place`.
    """
    kind, lines = {4: "ps", 8: "pd"}[ty.size], []
    for k in range(0, len(elements), 2):
        own, other = elements[k : k + 2]
        if k in PAIRED:
            added, multiplied = ("vadd", "vfmadd231") if PAIRED[k] > 0 else ("vsub", "vfnmadd231")
            lines += [f"{added}{kind} {own}, ${k + 3}, %zmm30", f"{added}{kind} {other}, ${k + 2}, %zmm31"]
            lines.append(f"{multiplied}{kind} %zmm30, %zmm31, $0")
        else:
            lines += [f"vfmadd231{kind} {own}, ${k + 2}, $0", f"vfmadd231{kind} {other}, ${k + 3}, $0"]
    passed = [*values, *([place] if place else [])]
    function = ir.FunctionType(ty.llvm, [value.type for value in passed])
    constraints = [
        "=v",
        "0",
        *["v"] * (len(values) - 1),
        *(["r"] if place else []),
        "~{xmm30}",
        "~{xmm31}",
        "~{memory}",
    ]
    return builder.asm(function, "\n".join(lines), ",".join(constraints), passed, side_effect=True)


def in_registers(builder: Any, ty: Vector, total: Any, number: Any) -> Any:
    """The sum after STEPS steps of k in pairs, all of whose elements and weights are that vector: for a ceiling."""
    return _statement(builder, ty, ["$2"] * STEPS, [total, *[number] * STEPS])


def _multiplied(tile, depth, sums, a, w, ask=None, ahead=None, *, once=False):
    """The sums of a tile of scaled rows after all steps of k: STEPS by STEPS, then pairs that are left, then one.

    a, w: as `Part` has them; ask, ahead, once: as `add_and_ask` has them.
    """
    builder, done = tile.builder, 0
    rest, plain = depth % STEPS // 2 * 2, Tile(builder, tile.ty, tile.rows, tile.columns)
    for own in (tile, PairTile(builder, tile.ty, tile.rows, tile.columns, rest) if rest else plain, plain):
        rounds, past = ir.Constant(I64, (depth - done) // own.steps), ir.Constant(I64, done)
        moved = [(after(builder, each[0], each[-1], past), *each[1:]) for each in (a, w)]
        line, part = (after(builder, *ahead, past), ahead[1]) if ahead else None, Part(own, sums, *moved)
        if ask and own is tile:
            sums = add_and_ask(builder, rounds, part, ask, line, once=once)
        elif rounds.constant:
            (sums,) = add_steps(builder, rounds, [part], line, once=once)
        done += rounds.constant * own.steps
    return sums


@cache
def tile(dtype: str, rows: int, columns: int, depth: int) -> Emit:
    """`tile.tile` of scaled rows of so many elements, in pairs.

    Arguments: the address of the first row's elements; of w and its strides over c and k; of the columns' own products;
    of start, and 1 if all rows share it; of out; and of offsets, as there. There may be two more: the address of what
    to ask for meanwhile, a line for each STEPS steps of k, and the bytes from one step's to the next one's.
    """
    ty = vector(dtype)
    width = ty.size * ty.lanes
    columns_at = tuple(c * width for c in range(columns))

    def emit(builder, a, w, w_column, w_k, own, start, shared, out, offsets, *ahead):
        emitted, of_a = PairTile(builder, ty, rows, columns, STEPS), even(rows, row_bytes(dtype, depth))
        sums, of_out, ask = emitted.told(start, shared, out, offsets, columns_at)
        heads = emitted.heads(a, of_a)
        sums = emitted.begin(sums, emitted.load_row(own, columns_at), heads)
        elements = a, of_a, ir.Constant(I64, ty.size)
        sums = _multiplied(emitted, depth, sums, elements, (w, w_column, w_k), ask, ahead, once=True)
        emitted.store(emitted.end(sums, heads), out, of_out, columns_at)

    return emit


@cache
def step_tile(
    dtype: str,
    rows: int,
    start: Ends,
    out: Ends,
    products: tuple[Product, ...],
    columns_at_once: tuple[int, ...],
    asks: bool,
    ask_for_row: Emit | None = None,
) -> Emit:
    """`tile.step_tile` with rows that are scaled for pairs, but those of products of less than LEAST_DEPTH.

    Arguments: start and out; for each product the address of the columns' own products, in the order of the weights, of
    the first row's elements, scaled or not, and of w, and with `asks` ahead and ahead_k; and the others as there.
    """
    ty = vector(dtype)
    width, each = ty.size * ty.lanes, 3 + 2 * asks

    def emit(builder, first, last, *args):
        told, touched, column = args[: each * len(products)], args[each * len(products) :], 0

        def ask(row):
            ask_for_row(builder, row, *touched)

        for columns in columns_at_once:
            paired, plain = PairTile(builder, ty, rows, columns, STEPS), Tile(builder, ty, rows, columns)
            begins, ends = (one.offsets[column : column + columns] for one in (start, out))
            sums = plain.load(first, even(rows, start.row), begins)
            for index, product in enumerate(products):
                own, a, w, *ahead = told[each * index : each * (index + 1)]
                a_rows, count = even(rows, product.a_row), ir.Constant(I64, product.depth)
                panel = builder.add(w, ir.Constant(I64, column * product.depth * width))
                part = a, a_rows, ir.Constant(I64, ty.size)
                weights = panel, ir.Constant(I64, width), ir.Constant(I64, columns * width)
                line = ahead if ahead and column == 0 else None
                asking = ask if ask_for_row and column == 0 and product is products[-1] else None
                if product.depth >= LEAST_DEPTH:
                    heads = paired.heads(a, a_rows)
                    own_sums = paired.load_row(own, tuple((column + c) * width for c in range(columns)))
                    sums = paired.begin(sums, own_sums, heads)
                    sums = paired.end(_multiplied(paired, product.depth, sums, part, weights, asking, line), heads)
                elif asking:
                    sums = add_and_ask(builder, count, Part(plain, sums, part, weights), asking, line)
                else:
                    (sums,) = add_steps(builder, count, [Part(plain, sums, part, weights)], line)
            plain.store(sums, last, even(rows, out.row), ends)
            column += columns

    return emit

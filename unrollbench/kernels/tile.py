"""The register tile of a matrix product: a few rows times a few vector columns, summed in registers.

While it works it can ask for the weights that the next tiles need, where these do not fit in the second-level cache,
and for the lines that the next tile's rows touch: those of one row, then a part of k, then those of the next. Asked
for all at once they took up what a core waits for lines in, and the tile's own weights had to wait behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from llvmlite import ir

from unrollbench.kernels import host
from unrollbench.kernels.simd import multiply_add, splat, vector
from unrollbench.kernels.words import Emit, peek, pointer, prefetch

I64 = ir.IntType(64)
ROW_TILE, COLUMN_TILE = 6, 8
"""Rows and columns of a tile at most."""


def most_columns(rows: int) -> int:
    """Columns of a tile of so many rows, up to ROW_TILE, at most: its sums stay in registers.

    So do, for a step of k, either its elements of a or its weights, whichever are fewer; the others pass through one
    register.
    """
    free = host.vector_unit().registers - 1
    return max(c for c in range(1, COLUMN_TILE + 1) if rows * c + min(rows, c) <= free)


@dataclass(frozen=True)
class Product:
    """One product that a tile adds to its sums: `depth` steps of k, rows of a `a_row` bytes apart, and a packed w.

    ranges: so many parts of k that are told at run time, or 0, which is all of it.
    """

    depth: int
    a_row: int
    ranges: int = 0


class Tile:
    """Emits a tile into a function that is being compiled. Addresses and strides are LLVM integers, in bytes."""

    def __init__(self, builder, ty, rows, columns, steps=1):
        """steps: of k, that `step` takes."""
        self.builder, self.ty, self.llvm, self.size = builder, ty, ty.llvm, ty.size
        self.rows, self.columns, self.steps = rows, columns, steps

    def load(self, start, rows, offsets):
        """The sums that the tile starts from; row r lies at rows[r], and column c at offsets[c] in it."""
        places = self._cells(start, rows, offsets)
        return [self.builder.load(place, align=self.size, typ=self.llvm) for place in places]

    def store(self, sums, out, rows, offsets):
        for place, value in zip(self._cells(out, rows, offsets), sums, strict=True):
            self.builder.store(value, place, align=self.size)

    def ask(self, out, rows, offsets):
        """Asks for where another tile stores its sums."""
        for place in self._cells(out, rows, offsets):
            prefetch(self.builder, place, level=1, writes=True)

    def _cells(self, address, rows, offsets):
        start = pointer(self.builder, address)
        return [self.at(start, self.builder.add(row, ir.Constant(I64, offset))) for row in rows for offset in offsets]

    def at(self, address, offset):
        return self.builder.gep(address, [offset], source_etype=ir.IntType(8))

    def _spread(self, a, row):
        """One element of a in every lane."""
        element = self.builder.load(self.at(a, row), align=self.size, typ=self.llvm.element)
        return splat(self.builder, element, self.llvm)

    def times(self, stride, index):
        return self.builder.mul(stride, ir.Constant(I64, index))

    def told(self, start, shared, out, offsets, columns_at):
        """The sums of a `tile` that is told where its rows lie; the offsets of these in out; and a function for `ask`.

        That asks for where the tile below stores its sums.
        """
        builder = self.builder
        of_out = [peek(builder, offsets, ir.Constant(I64, 16 * r + 8)) for r in range(self.rows)]
        of_start = [builder.and_(offset, builder.sub(shared, ir.Constant(I64, 1))) for offset in of_out]
        below = builder.add(offsets, ir.Constant(I64, 16 * self.rows + 8))

        def ask(row):
            self.ask(out, [peek(builder, below, builder.mul(row, ir.Constant(I64, 16)))], columns_at)

        return self.load(start, of_start, columns_at), of_out, ask

    def load_row(self, address, offsets):
        """A vector for each column, which all rows share."""
        return self.load(address, even(1, 0), offsets)

    def step(self, a, a_rows, w, w_column, w_k, sums):
        """The sums after so many steps of k; a and w are LLVM pointers."""
        for k in range(self.steps):
            sums = self._one_step(
                self.at(a, ir.Constant(I64, k * self.size)), a_rows, self.at(w, self.times(w_k, k)), w_column, sums
            )
        return sums

    def _one_step(self, a, a_rows, w, w_column, sums):
        places = [self.at(w, self.times(w_column, c)) for c in range(self.columns)]
        spread = cache(lambda r: self._spread(a, a_rows[r]))
        weight = cache(lambda c: self.builder.load(places[c], align=self.size, typ=self.llvm))
        rows, columns = range(self.rows), range(self.columns)
        if self.rows < self.columns:  # the fewer are loaded first and wait in registers for the others
            load, few, pairs = spread, rows, [(r, c) for c in columns for r in rows]
        else:
            load, few, pairs = weight, columns, [(r, c) for r in rows for c in columns]
        for index in few:
            load(index)
        updated = list(sums)
        for r, c in pairs:
            own = r * self.columns + c
            updated[own] = multiply_add(self.builder, self.ty, spread(r), weight(c), sums[own])
        return updated


@dataclass(frozen=True)
class Part:
    """A tile and what is added to its sums.

    a: (address, offsets of its rows, stride over k); w: (address, stride over columns, over k).
    """

    tile: Tile
    sums: list[Any]
    a: tuple[Any, Any, Any]
    w: tuple[Any, Any, Any]


def add_steps(builder, count, parts, ahead=None, *, once=False):
    """Each part's sums after `count` times as many more steps of k as its tile takes at once; the parts take turns.

    ahead: (address, stride) of the line to ask for in each step of k of the first; once: only in the first of the steps
    that its tile takes at once, and for the first-level cache: on Zen 4 a hint for the second one was no help there.
    """
    zero, first_tile = ir.Constant(I64, 0), parts[0].tile
    entry, body, done = builder.basic_block, builder.append_basic_block(), builder.append_basic_block()
    walked = [(each, part.tile) for part in parts for each in (part.a, part.w)]
    walked += [(ahead, first_tile)] if ahead else []
    walks = [(pointer(builder, one[0]), tile.times(one[-1], tile.steps)) for one, tile in walked]
    builder.cbranch(builder.icmp_signed(">", count, zero), body, done)
    builder.position_at_end(body)
    k, places = builder.phi(I64), [builder.phi(ir.PointerType()) for _ in walks]
    before, after_round = [[builder.phi(value.type) for value in part.sums] for part in parts], []
    for index, (part, sums) in enumerate(zip(parts, before, strict=True)):
        added = part.tile.step(places[2 * index], part.a[1], places[2 * index + 1], *part.w[1:], sums)
        after_round.append(added)
    for step in range((1 if once else first_tile.steps) if ahead else 0):
        line = first_tile.at(places[-1], first_tile.times(ahead[1], step))
        prefetch(builder, line, level=1 if once else 2)
    following = builder.add(k, ir.Constant(I64, 1))
    moved = [(place, start, first_tile.at(place, step)) for place, (start, step) in zip(places, walks, strict=True)]
    first, last, phis = (list(chain(*each)) for each in ([part.sums for part in parts], after_round, before))
    for phi, start, value in ((k, zero, following), *moved, *zip(phis, first, last, strict=True)):
        phi.add_incoming(start, entry)
        phi.add_incoming(value, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, done)
    builder.position_at_end(done)
    results = [[builder.phi(value.type) for value in part.sums] for part in parts]
    for result, start, value in zip(chain(*results), first, last, strict=True):
        result.add_incoming(start, entry)
        result.add_incoming(value, body)
    return results


def add_and_ask(builder, count, part, ask, ahead=None, *, once=False):
    """`add_steps` of one part, as many for each row of the tile; before those of each row, ask(number of the row)."""
    rows = ir.Constant(I64, part.tile.rows)
    last = builder.sub(rows, ir.Constant(I64, 1))
    each = builder.udiv(count, rows)
    left = builder.sub(count, builder.mul(each, last))
    entry, body, done = builder.basic_block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(body)
    builder.position_at_end(body)
    row, before = builder.phi(I64), [builder.phi(value.type) for value in part.sums]
    ask(row)
    first = builder.mul(builder.mul(row, each), ir.Constant(I64, part.tile.steps))
    steps = builder.select(builder.icmp_signed("<", row, last), each, left)
    (a, a_rows, a_k), (w, w_column, w_k) = part.a, part.w
    moved = (after(builder, a, a_k, first), a_rows, a_k), (after(builder, w, w_k, first), w_column, w_k)
    line = (after(builder, *ahead, first), ahead[1]) if ahead else None
    (added,) = add_steps(builder, steps, [Part(part.tile, before, *moved)], line, once=once)
    following, end = builder.add(row, ir.Constant(I64, 1)), builder.basic_block
    phis = zip((row, *before), (ir.Constant(I64, 0), *part.sums), (following, *added), strict=True)
    for phi, start, value in phis:
        phi.add_incoming(start, entry)
        phi.add_incoming(value, end)
    builder.cbranch(builder.icmp_signed("<", following, rows), body, done)
    builder.position_at_end(done)
    return added


@cache
def copy_vectors(dtype: str, count: int):
    """A function (destination, origin) that copies so many vectors; the two must not overlap."""
    ty = vector(dtype)
    offsets = tuple(c * ty.size * ty.lanes for c in range(count))

    def emit(builder, destination, origin):
        emitted, rows = Tile(builder, ty, 1, count), even(1, 0)
        emitted.store(emitted.load(origin, rows, offsets), destination, rows, offsets)

    return emit


@cache
def tile(dtype: str, rows: int, columns: int):
    """A function that multiplies a tile held in rows * columns registers:

        for r in range(rows):
            for c in range(columns):
                out[r, c] = start[r, c] + sum(a[r, k] * w[c, k] for k in range(K))

    where a[r, k] is one element and w[c, k], start[r, c], out[r, c] are one vector each. Per k it reads rows elements
    and columns vectors and does rows * columns vector multiply-adds.

    Arguments, all integers: K; the address of a, whose rows are elements next to each other; of w and its strides over
    c and k; of start, and 1 if all rows share it (a bias), or 0 if its rows lie as those of out; of out, which may be
    start; and of offsets. Strides and offsets are in bytes. offsets[r] are two words, where row r of a and of out lies,
    and there are twice as many as rows: the tile asks for where the one below stores its sums, since no hardware
    foresees rows that lie far apart.
    """
    ty = vector(dtype)
    columns_at = tuple(c * ty.size * ty.lanes for c in range(columns))

    def emit(builder, count, a, w, w_column, w_k, start, shared, out, offsets):
        emitted, a_k = Tile(builder, ty, rows, columns), ir.Constant(I64, ty.size)
        of_a = [peek(builder, offsets, ir.Constant(I64, 16 * r)) for r in range(rows)]
        sums, of_out, ask = emitted.told(start, shared, out, offsets, columns_at)
        sums = add_and_ask(builder, count, Part(emitted, sums, (a, of_a, a_k), (w, w_column, w_k)), ask)
        emitted.store(sums, out, of_out, columns_at)

    return emit


@cache
def add_vector(dtype: str):
    """A function (target, origin) that adds one vector to another."""
    ty = vector(dtype)

    def emit(builder, target, origin):
        tile, alone = Tile(builder, ty, 1, 1), even(1, 0)
        (own,), (other,) = (tile.load(address, alone, (0,)) for address in (target, origin))
        tile.store([builder.fadd(own, other)], target, alone, (0,))

    return emit


def even(rows, stride):
    """The offsets of rows that are all `stride` bytes apart."""
    return [ir.Constant(I64, r * stride) for r in range(rows)]


@dataclass(frozen=True)
class Ends:
    """Where a tile's sums start and end up: bytes from row to row, and from the address to each column."""

    row: int
    offsets: tuple[int, ...]


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
):
    """`tile` with all but addresses built in, and one product after the other added to the same sums.

    It goes through its columns in parts that registers hold, and reads the weights of each as one stream: all columns
    of a step of k, then those of the next.

    Arguments: start, out, and for each product a and w, the first step of k and the number of steps of each of its
    `ranges`, and with `asks` also ahead and ahead_k: a line of later weights to ask for at the first step of k, and
    what to add for the next step's. ask_for_row: called once for each row of the tile during the last product, with its
    number and the arguments that are left, it asks for what the next tile's row touches. The first part asks, the
    others do not; of several ranges the first does, which may have no steps: then it asks for all rows at once.
    """
    ty = vector(dtype)
    width = ty.size * ty.lanes
    count_told = sum(2 + 2 * product.ranges + 2 * asks for product in products)

    def emit(builder, first, last, *args):
        column, touched = 0, args[count_told:]

        def ask(row):
            ask_for_row(builder, row, *touched)

        for columns in columns_at_once:
            emitted, told = Tile(builder, ty, rows, columns), list(args[:count_told])
            begins, ends = (each.offsets[column : column + columns] for each in (start, out))
            sums = emitted.load(first, even(rows, start.row), begins)
            for product in products:
                a, w, *ranges = (told.pop(0) for _ in range(2 + 2 * product.ranges))
                w = builder.add(w, ir.Constant(I64, column * product.depth * width))
                ahead = (told.pop(0), told.pop(0)) if asks else None
                asking = ask_for_row and column == 0 and product is products[-1]
                for done, count in _ranges(product, ranges):
                    part = _part(emitted, sums, product, a, w, columns * width, done)
                    line = (after(builder, *ahead, done), ahead[1]) if ahead and column == 0 else None
                    if asking:
                        sums, asking = add_and_ask(builder, count, part, ask, line), False
                    else:
                        (sums,) = add_steps(builder, count, [part], line)
            emitted.store(sums, last, even(rows, out.row), ends)
            column += columns

    return emit


@cache
def projecting_tile(
    dtype: str, ends: Ends, product: Product, ahead: Product, ahead_rows: int, ahead_row_bytes: int, steps: int
):
    """A `step_tile` of one row that multiplies some rows of later inputs by one column of W_x at the same time.

    While the first waits for weights from a cache, the other has something to multiply: a step of k for each `steps` of
    the first. Arguments: out, from which the row's sums also start; a, w and what tells the product's `ranges`; then of
    the other product x, W_x, the first of its steps of k and how many, where its sums start and the stride of that over
    rows, which is 0 for a bias, and where they go, in rows of `ahead_row_bytes`.
    """
    ty = vector(dtype)
    width, columns = ty.size * ty.lanes, len(ends.offsets)

    def emit(builder, out, a, w, *args):
        *told, x, w_x, done, left, start, start_row, out_x = args
        several, row = (Tile(builder, ty, 1, columns, each) for each in (steps, 1))
        later, alone = Tile(builder, ty, ahead_rows, 1), even(1, 0)
        start_rows = [later.times(start_row, r) for r in range(ahead_rows)]
        sums, later_sums = row.load(out, alone, ends.offsets), later.load(start, start_rows, (0,))
        for first, count in _ranges(product, told):
            rounds = builder.sdiv(count, ir.Constant(I64, steps))
            rounds = builder.select(builder.icmp_signed("<", rounds, left), rounds, left)
            own = _part(several, sums, product, a, w, columns * width, first)
            other = _part(later, later_sums, ahead, x, w_x, width, done)
            sums, later_sums = add_steps(builder, rounds, [own, other])
            together = row.times(rounds, steps)
            own = _part(row, sums, product, a, w, columns * width, builder.add(first, together))
            (sums,) = add_steps(builder, builder.sub(count, together), [own])
            done, left = builder.add(done, rounds), builder.sub(left, rounds)
        (later_sums,) = add_steps(builder, left, [_part(later, later_sums, ahead, x, w_x, width, done)])
        row.store(sums, out, alone, ends.offsets)
        later.store(later_sums, out_x, even(ahead_rows, ahead_row_bytes), (0,))

    return emit


def _ranges(product, told):
    """(first, count) of each range of k: as `told` one after the other, or all of it."""
    if not product.ranges:
        return [(ir.Constant(I64, 0), ir.Constant(I64, product.depth))]
    return list(zip(told[::2], told[1::2], strict=True))


def _part(tile, sums, product, a, w, w_k, first):
    """A tile and its product from a step of k on; w_k: bytes of weights from one to the next."""
    builder, size, width = tile.builder, ir.Constant(I64, tile.size), tile.ty.size * tile.ty.lanes
    a, w = after(builder, a, size, first), after(builder, w, ir.Constant(I64, w_k), first)
    rows = even(tile.rows, product.a_row)
    return Part(tile, sums, (a, rows, size), (w, ir.Constant(I64, width), ir.Constant(I64, w_k)))


def after(builder, address, stride, steps):
    return builder.add(address, builder.mul(stride, steps))

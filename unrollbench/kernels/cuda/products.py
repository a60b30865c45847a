"""Text of a whole matrix product by tiles: the input's share of a window's gates, and the gradients of inputs.

    c[i, j] = sum over k of a[i, k] * b[k, j]     or += with `adds`

a and b have any strides, so that a transpose is one too; a row of c is contiguous. Each tile is made by one block, and
each element by one thread from the first k to the last, so that the result does not depend on the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.kernels.cuda.layout import StageLayout
from unrollbench.kernels.cuda.text import ARGUMENTS as STEP_ARGUMENTS
from unrollbench.kernels.cuda.text import Places
from unrollbench.kernels.cuda.tile import indented, prologue
from unrollbench.kernels.cuda.tiling import PADDING, Block, ProductTile
from unrollbench.kernels.source import function

AT_ONCE = 2
"""Terms of a slice in a straight line."""
ARGUMENTS = "c, c_at, c_row, a, a_at, a_row, a_column, b, b_at, b_row, b_column, rows, columns, depth, adds"
"""Arrays, their first elements, their strides in elements, sizes, and whether the result is added."""


def product(name: str, tile: ProductTile, block: Block, vector: int) -> str:
    """The function of that name. Reads each tile of a and b once per tile of c; 2 x rows x columns x depth flops.

    While a slice of `depth` terms is multiplied, the next one is on its way to registers. vector: elements of the
    widest load.
    """
    loads = [*_loads("a", tile, block), *_loads("b", tile, block)]
    body = [
        "first_row = number // across * HEIGHT",
        "first_column = number % across * WIDTH",
        *(line for load in loads for line in load.places()),
        *(f"sum_{r}_{c} = ZERO" for r in range(tile.rows) for c in range(tile.columns)),
        *(line for load in loads for line in load.fetch("0")),
        "for k in range(0, depth, DEPTH):",
        *indented(line for load in loads for line in load.keep()),
        "    cuda.syncthreads()",
        *indented(line for load in loads for line in load.fetch("k + DEPTH")),
        *indented(_multiply(tile, block, vector)),
        "    cuda.syncthreads()",
        *_by_those_who_multiply(tile, block, _store(tile, vector)),
        "number += cuda.gridDim.x * cuda.gridDim.y",
    ]
    lines = [
        *prologue(block, 0),
        f"thread = (z * {block.units} + y) * {block.lanes} + x",
        f"down, right = thread // {tile.across}, thread % {tile.across}",
        "across = (columns + WIDTH - 1) // WIDTH",
        "tiles = (rows + HEIGHT - 1) // HEIGHT * across",
        "number = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x",
        "while number < tiles:",
        *indented(body),
    ]
    sizes = {"HEIGHT": tile.height, "WIDTH": tile.width, "DEPTH": tile.depth}
    text = function(name, ARGUMENTS, lines)
    for constant, size in sizes.items():
        text = text.replace(constant, str(size))
    return text


def _by_those_who_multiply(tile: ProductTile, block: Block, lines: list[str]) -> list[str]:
    """The lines, of down x across threads."""
    multiplying = tile.down * tile.across
    return lines if multiplying == block.threads else [f"if thread < {multiplying}:", *indented(lines)]


@dataclass(frozen=True)
class Load:
    """An element that a thread copies of each slice of a or b, zero beyond the matrix: number `first` + thread of it.

    size: rows of a or columns of b in a slice, which begins at `start` of shared memory. Neighbours read neighbours:
    along the depth where that has stride 1, or else across it. threads: of the block. last: those that have such an
    element.
    """

    matrix: str
    first: int
    size: int
    depth: int
    start: int
    threads: int
    last: int | None

    @property
    def name(self) -> str:
        return f"{self.matrix}_{self.first}"

    def places(self) -> list[str]:
        """Where it is in a slice: i across the depth, j along it; a constant from the thread's first one if that is so.

        Places that have nothing in common keep two registers each, and there are none to spare.
        """
        deep, a = "a_column" if self.matrix == "a" else "b_row", self.matrix
        i, j, element = f"i_{self.name}", f"j_{self.name}", f"(thread + {self.first})"
        regular = self.threads % self.size == 0 and self.threads % self.depth == 0
        if regular and self.first:
            turn = self.first // self.threads
            return [f"{i}, {j} = i_{a}_0 + {turn} * across_{a}, j_{a}_0 + {turn} * along_{a}"]
        return [
            f"if {deep} == 1:",
            f"    {i}, {j} = {element} // {self.depth}, {element} % {self.depth}",
            *([f"    across_{a}, along_{a} = {self.threads // self.depth}, 0"] if regular else []),
            "else:",
            f"    {i}, {j} = {element} % {self.size}, {element} // {self.size}",
            *([f"    across_{a}, along_{a} = 0, {self.threads // self.size}"] if regular else []),
        ]

    def fetch(self, k: str) -> list[str]:
        """Its element of the slice at k, on the way to a register."""
        name, (row, total) = self.name, ("first_row", "rows") if self.matrix == "a" else ("first_column", "columns")
        along, deep = ("a_row", "a_column") if self.matrix == "a" else ("b_column", "b_row")
        inside = f"({row} + i_{name} < {total}) & ({k} + j_{name} < depth)"
        place = f"{self.matrix}_at + ({row} + i_{name}) * {along} + ({k} + j_{name}) * {deep}"
        if self.last is not None:
            inside += f" & (thread < {self.last})"
        return [f"{name} = fetch({self.matrix}, at({place}), {inside}, ZERO)"]

    def keep(self) -> list[str]:
        """From there to shared memory."""
        place = f"{self.start} + j_{self.name} * {self.size + PADDING} + i_{self.name}"
        line = f"S[at({place})] = {self.name}"
        return [line] if self.last is None else [f"if thread < {self.last}:", f"    {line}"]


def _loads(matrix: str, tile: ProductTile, block: Block) -> list[Load]:
    size = tile.height if matrix == "a" else tile.width
    start = 0 if matrix == "a" else tile.start_of_b
    elements, threads = size * tile.depth, block.threads
    return [
        Load(matrix, first, size, tile.depth, start, threads, elements - first if elements - first < threads else None)
        for first in range(0, elements, threads)
    ]


def _vector(values: int, vector: int) -> int:
    """Elements of a load of which a thread's values are a multiple."""
    return vector if values % vector == 0 else 1


def _multiply(tile: ProductTile, block: Block, vector: int) -> list[str]:
    """Adds a slice's terms, a few at a time in a straight line.

    A thread's values are vectors that lie a whole row of threads apart, so that neighbours read neighbouring vectors.
    """
    lines = []
    for j in range(AT_ONCE):
        lines += _values("p", f"(j + {j}) * {tile.height + PADDING}", "down", tile.down, tile.rows, vector)
        place = f"{tile.start_of_b} + (j + {j}) * {tile.width + PADDING}"
        lines += _values("q", place, "right", tile.across, tile.columns, vector)
        lines += [f"sum_{r}_{c} += p_{r} * q_{c}" for r in range(tile.rows) for c in range(tile.columns)]
    loop = [f"for j in range(0, {tile.depth}, {AT_ONCE}):", *indented(lines)]
    return _by_those_who_multiply(tile, block, loop)


def _values(name: str, row: str, thread: str, threads: int, values: int, vector: int) -> list[str]:
    """A thread's values of one row of an operand in shared memory."""
    width = _vector(values, vector)
    lines = []
    for first in range(0, values, width):
        names = ", ".join(f"{name}_{first + place}" for place in range(width))
        at = f"at({row} + {thread} * {width} + {first * threads})"
        lines.append(f"{names} = S[{at}]" if width == 1 else f"{names} = vector(S, {at})")
    return lines


def _offset(threads: int, values: int, vector: int, value: int) -> int:
    """How far a thread's value is from its first one, in rows or columns of the tile."""
    width = _vector(values, vector)
    return value // width * width * threads + value % width


def _store(tile: ProductTile, vector: int) -> list[str]:
    """From one place at constant distances: a place of its own for each value would wait in a register for the end."""
    lines = [
        f"i = first_row + down * {_vector(tile.rows, vector)}",
        f"j = first_column + right * {_vector(tile.columns, vector)}",
        "place = c_at + i * c_row + j",
    ]
    for r in range(tile.rows):
        down = _offset(tile.down, tile.rows, vector, r)
        for c in range(tile.columns):
            right = _offset(tile.across, tile.columns, vector, c)
            place = f"at(place + {down} * c_row + {right})"
            inside = f"(i + {down} < rows) & (j + {right} < columns)"
            lines.append(f"store(c, {place}, sum_{r}_{c}, {inside}, adds)")
    return lines


# ---------------------------------------------------------------- inside a dynamic program's kernel


def _input_stages(places: Places) -> list[StageLayout]:
    return [s for s in places.layout.stages if s.stage.takes_input]


def project(places: Places) -> str:
    """`project_<layer>`: the input's share of the gates of `count` steps from t on."""
    layout, lines = places.layout, []
    batch, inputs = layout.batch, layout.spec.input_size
    for s in _input_stages(places):
        operands = f"m, {places.x()}, {inputs}, 1, w, {places.field(f'W_x_{s.index}')}, {s.width}, 1"
        lines.append(
            f"product_forward(m, {places.gates(s)}, {s.width}, {operands}, count * {batch}, {s.width}, {inputs}, False)"
        )
    return function(f"project_{layout.index}", STEP_ARGUMENTS, lines)


def d_inputs(places: Places) -> str:
    """`d_inputs_<layer>`: the gradient of the input of `count` steps from t on.

    Several stages add up on the same tiles, each element by the thread that wrote it: no barrier lies between them.
    """
    layout, lines = places.layout, []
    batch, inputs = layout.batch, layout.spec.input_size
    for number, s in enumerate(_input_stages(places)):
        operands = f"m, {places.gates(s)}, {s.width}, 1, w, {places.field(f'W_x_{s.index}')}, 1, {s.width}"
        sizes = f"count * {batch}, {inputs}, {s.width}, {number > 0}"
        lines.append(f"product_backward(m, {places.d_x()}, {inputs}, {operands}, {sizes})")
    return function(f"d_inputs_{layout.index}", STEP_ARGUMENTS, lines)

"""Text of a whole matrix product by tiles: the input's share of a window's gates, and the gradients of inputs.

    c[i, j] = sum over k of a[i, k] * b[k, j]     or += with `adds`

a and b have any strides, so that a transpose is one too; a row of c is contiguous. Each tile is made by one block, and
each element by one thread from the first k to the last, so that the result does not depend on the grid.
"""

from __future__ import annotations

from unrollbench.kernels.cuda.layout import StageLayout
from unrollbench.kernels.cuda.text import ARGUMENTS as STEP_ARGUMENTS
from unrollbench.kernels.cuda.text import Places
from unrollbench.kernels.cuda.tile import indented
from unrollbench.kernels.cuda.tiling import Block, ProductTile
from unrollbench.kernels.source import function

ARGUMENTS = "c, c_at, c_row, a, a_at, a_row, a_column, b, b_at, b_row, b_column, rows, columns, depth, adds"
"""Arrays, their first elements, their strides in elements, sizes, and whether the result is added."""


def product(name: str, tile: ProductTile, block: Block) -> str:
    """The function of that name. Reads each tile of a and b once per tile of c; 2 x rows x columns x depth flops."""
    body = [
        "first_row = number // across * HEIGHT",
        "first_column = number % across * WIDTH",
        *_sums(tile, "{} = ZERO"),
        "for k in range(0, depth, DEPTH):",
        *indented([*_load("a", "HEIGHT"), *_load("b", "WIDTH"), "cuda.syncthreads()", *_multiply(tile)]),
        "    cuda.syncthreads()",
        f"if thread < {tile.down * tile.across}:",
        *indented(_store(tile)),
    ]
    lines = [
        "S = cuda.shared.array(0, DTYPE)",
        f"thread = (cuda.threadIdx.z * {block.units} + cuda.threadIdx.y) * {block.lanes} + cuda.threadIdx.x",
        f"place_row, place_column = thread // {tile.across} * {tile.rows}, thread % {tile.across} * {tile.columns}",
        "across = (columns + WIDTH - 1) // WIDTH",
        "tiles = (rows + HEIGHT - 1) // HEIGHT * across",
        "block = cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x",
        "for number in range(block, tiles, cuda.gridDim.x * cuda.gridDim.y):",
        *indented(body),
    ]
    sizes = {"HEIGHT": tile.height, "WIDTH": tile.width, "DEPTH": tile.depth, "THREADS": block.threads}
    sizes["B_TILE"] = tile.depth * (tile.height + 1)
    text = function(name, ARGUMENTS, lines)
    for constant, size in sizes.items():
        text = text.replace(constant, str(size))
    return text


def _sums(tile: ProductTile, form: str) -> list[str]:
    return [form.format(f"sum_{r}_{c}") for r in range(tile.rows) for c in range(tile.columns)]


def _load(matrix: str, size: str) -> list[str]:
    """Copies a tile to shared memory, depth x size, zero beyond the matrix; neighbours read neighbours."""
    start, row, total = ("0", "first_row", "rows") if matrix == "a" else ("B_TILE", "first_column", "columns")
    along, deep = ("a_row", "a_column") if matrix == "a" else ("b_column", "b_row")
    return [
        f"for e in range(thread, DEPTH * {size}, THREADS):",
        f"    if {deep} == 1:",
        "        i, j = e // DEPTH, e % DEPTH",
        "    else:",
        f"        i, j = e % {size}, e // {size}",
        "    value = ZERO",
        f"    if {row} + i < {total} and k + j < depth:",
        f"        value = {matrix}[at({matrix}_at + ({row} + i) * {along} + (k + j) * {deep})]",
        f"    S[at({start} + j * ({size} + 1) + i)] = value",
    ]


def _multiply(tile: ProductTile) -> list[str]:
    lines = [f"if thread < {tile.down * tile.across}:", "    for j in range(DEPTH):"]
    lines += [f"        b_{c} = S[at(B_TILE + j * (WIDTH + 1) + place_column + {c})]" for c in range(tile.columns)]
    for r in range(tile.rows):
        lines.append(f"        value = S[at(j * (HEIGHT + 1) + place_row + {r})]")
        lines += [f"        sum_{r}_{c} += value * b_{c}" for c in range(tile.columns)]
    return lines


def _store(tile: ProductTile) -> list[str]:
    lines = []
    for r in range(tile.rows):
        lines.append(f"i = first_row + place_row + {r}")
        for c in range(tile.columns):
            lines += [
                f"j = first_column + place_column + {c}",
                "if i < rows and j < columns:",
                "    place = c_at + i * c_row + j",
                "    if adds:",
                f"        c[at(place)] += sum_{r}_{c}",
                "    else:",
                f"        c[at(place)] = sum_{r}_{c}",
            ]
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

"""Instructions of a matrix unit, x86's AMX: its registers are tiles of 16 rows of 64 bytes.

The first half of its eight registers holds sums in float32, the other half operands in bfloat16. A thread configures
the unit before it uses it, and releases it at the end of a program (Intel, "Architecture Instruction Set Extensions
Programming Reference", chapter on AMX).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from unrollbench.kernels.words import I64

ROWS = 16
"""Rows of a tile at most."""
WIDTH, TILE_BYTES = 64, 1024
"""Bytes of a row of a tile, and of a whole one."""
SUMS = 4
"""Tiles of sums that are held at once: of two tiles of rows by two columns, or of one by four."""
REGISTERS = 2 * SUMS
CONFIGURATIONS = "unrollbench.configurations"


def tiles(rows: int) -> int:
    """Tiles that so many rows take."""
    return -(-rows // ROWS)


def most_columns(rows: int) -> int:
    """Columns that are multiplied at once beside so many rows, of one tile or two."""
    return SUMS if rows <= ROWS else SUMS // 2


def configure(builder: Any, rows: Any) -> None:
    """Tells the unit that sums have so many rows, of two tiles if that is more than ROWS. All registers are zero then.

    rows: 1 to 2 * ROWS, an int64. Registers of sums and of the first operand have a tile's rows, the others ROWS.
    """
    table = builder.module.globals.get(CONFIGURATIONS)
    if table is None:
        data = bytes(chain.from_iterable(_configuration(count) for count in range(1, 2 * ROWS + 1)))
        table = cgutils.global_constant(builder, CONFIGURATIONS, cgutils.make_bytearray(data))
        table.align = WIDTH
    offset = builder.mul(builder.sub(rows, ir.Constant(I64, 1)), ir.Constant(I64, WIDTH))
    _instruction(builder, "ldtilecfg", builder.gep(table, [offset], source_etype=ir.IntType(8)))


def _configuration(rows: int) -> Iterator[int]:
    """The 64 bytes of one: palette 1, bytes per row of 16 registers, rows of 16 registers; only 8 exist."""
    counts = [rows] if rows <= ROWS else [ROWS, rows - ROWS]
    sums = [count for count in counts for _ in range(SUMS // len(counts))]
    operands = [*counts, *[ROWS] * (SUMS - len(counts))]
    yield from [1, *[0] * 15, *[WIDTH, 0] * REGISTERS, *[0] * 16, *sums, *operands, *[0] * 8]


def release(builder: Any) -> None:
    """Gives the unit back, so that nothing of it need be saved any more."""
    _instruction(builder, "tilerelease")


def load(builder: Any, register: int, place: Any, stride: Any) -> None:
    """Fills a register with rows that are `stride` bytes apart: with one row again and again, if that is 0."""
    _instruction(builder, "tileloadd64", _number(register), place, stride)


def store(builder: Any, register: int, place: Any, stride: Any) -> None:
    """Writes the rows of a register, `stride` bytes apart."""
    _instruction(builder, "tilestored64", _number(register), place, stride)


def multiply_add(builder: Any, sums: int, a: int, w: int) -> None:
    """sums[r, c] += sum over k of a[r, k] * w[k, c], 32 steps of k in bfloat16 (TDPBF16PS); all three are registers.

    A word of a's row r holds steps 2 j (its lower half) and 2 j + 1, and so does the word of column c in w's row j.
    """
    _instruction(builder, "tdpbf16ps", _number(sums), _number(a), _number(w))


def _instruction(builder: Any, name: str, *values: Any) -> None:
    """Emits one of LLVM's intrinsics of x86, which returns nothing."""
    function = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.{name}"), values)


def _number(register: int) -> Any:
    return ir.Constant(ir.IntType(8), register)

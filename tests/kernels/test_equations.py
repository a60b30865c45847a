"""What is asked for before a tile is computed: the lines of its rows, and for writing what it writes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from llvmlite import ir

from unrollbench.kernels import host
from unrollbench.kernels.equations import Lanes, Place, Touched, arguments, ask_for_tile
from unrollbench.kernels.words import LINE_BYTES

I64 = ir.IntType(64)
WIDTH = host.vector_unit().width_bytes
PER_LINE = max(1, LINE_BYTES // WIDTH)


def asked(rows: int, blocks: int, touched: Sequence[Touched]) -> Counter[tuple[int, bool]]:
    """(bytes past the address, for writing) of each line that is asked for, where all addresses are the same."""
    names = arguments(each.place for each in touched)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(names)), "asks")
    builder = ir.IRBuilder(function.append_basic_block())
    ask_for_tile("float32", rows, blocks, touched, 1)(builder, *function.args)
    builder.ret_void()
    text = str(module)
    offsets = dict(re.findall(r"(%\S+) = getelementptr i8, ptr \S+ i64 (-?\d+)", text))
    calls = re.findall(r"call void \S+\(ptr (%\S+), i32 (\d), i32 3, i32 1\)", text)
    assert text.count("llvm.prefetch") == len(calls) + 1  # all calls were found; one declares it
    return Counter((int(offsets[place]), bool(int(writes))) for place, writes in calls)


@pytest.mark.parametrize("blocks", [1, 2, 5, 8])
def test_a_tile_asks_for_every_line_of_its_rows_once(blocks: int) -> None:
    read, written = Place("a", 0, 4096), Place("b", 1 << 20, 8192)
    lines = range(0, blocks * WIDTH, PER_LINE * WIDTH)
    expected = [(row * 4096 + line, False) for row in range(3) for line in lines]
    expected += [((1 << 20) + row * 8192 + line, True) for row in range(3) for line in lines]
    assert asked(3, blocks, [Touched(read, False), Touched(written, True)]) == Counter(expected)


def test_a_line_that_is_read_and_written_is_asked_for_once_and_for_writing() -> None:
    place = Place("a", 0, 4096)
    for touched in ([Touched(place, False), Touched(place, True)], [Touched(place, True), Touched(place, False)]):
        assert asked(1, 1, touched) == Counter([(0, True)])


def test_values_that_are_packed_are_asked_for_by_the_vectors_that_hold_them() -> None:
    lanes = host.lanes("float32")
    ends_in_the_second = Place("a", 0, 4096, Lanes(lanes - 1, 2))
    alone_in_the_third = Place("a", 0, 4096, Lanes(2 * lanes, 1))
    found = asked(1, 1, [Touched(ends_in_the_second, True), Touched(alone_in_the_third, True)])
    vectors = {0, *([WIDTH] if PER_LINE == 1 else []), 2 * WIDTH}
    assert found == Counter((vector, True) for vector in vectors)

"""Equations read off as expressions, and the instructions that are made of them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

from tests.adversarial import stages
from tests.kernels.vectors import applied, call
from unrollbench.cells import Stage, functions
from unrollbench.kernels import host, pack
from unrollbench.kernels.build import Kernel
from unrollbench.kernels.equations import Equations, Lanes, Place, on_tile
from unrollbench.kernels.expression import Expression, uses

RNG = np.random.default_rng(0)


def drawn(count: int) -> list[np.ndarray[Any, np.dtype[Any]]]:
    return [RNG.standard_normal(100) for _ in range(count)]


@pytest.mark.parametrize("stage", stages())
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("registers", [1, 2])
def test_compiled_equations_compute_what_python_computes(stage: Stage, direction: str, registers: int) -> None:
    count = len(stage.gates) + len(stage.reads) + len(stage.diagonals)
    if direction == "backward":
        count += 2 * len(stage.writes) + len(stage.exposed)
    equation, arguments = getattr(stage, direction), drawn(count)
    for index, wanted in enumerate(equation(*arguments)):

        def result(*operands: Any, index: int = index) -> Any:
            return equation(*operands)[index]

        np.testing.assert_allclose(applied(result, *arguments, registers=registers), wanted, rtol=1e-13, atol=1e-13)


def test_numbers_may_stand_on_either_side_of_an_expression() -> None:
    two = np.float64(2)

    def equation(x: Any) -> Any:
        return (two - x) * two + (x - two) * 3.0 - (two * x + x * 1) + (-x) * 4 + (1 + x)

    (x,) = drawn(1)
    np.testing.assert_allclose(applied(equation, x), equation(x), rtol=1e-14, atol=1e-14)


def test_a_helper_and_a_function_by_its_modules_name_are_read_off_too() -> None:
    def half(x: Any) -> Any:
        return functions.tanh(x) * 0.5

    def equation(x: Any) -> Any:
        return half(x) + functions.clip(x, 1.0)

    (x,) = drawn(1)
    np.testing.assert_allclose(applied(equation, x), equation(x), rtol=1e-14, atol=1e-14)


def test_a_result_that_is_used_twice_is_counted_twice() -> None:
    x = Expression()
    doubled = x * 2
    total = doubled + doubled
    assert uses([total, doubled, 0]) == {total: 1, doubled: 3, x: 1}


def test_a_product_of_sigmoid_and_tanh_that_is_also_needed_apart_stays_apart() -> None:
    def apart(x: Any, y: Any) -> Any:
        i, j = functions.sigmoid(x), functions.tanh(y)
        return i * j + i * i + j

    x, y = drawn(2)
    np.testing.assert_allclose(applied(apart, x, y), apart(x, y), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul])
def test_infinities_and_nan_pass_through_arithmetic(function: Any) -> None:
    ends = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
    x, y = (grid.ravel() for grid in np.meshgrid(ends, ends))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(applied(function, x, y), function(x, y))
        np.testing.assert_array_equal(applied(lambda a, b: a * b + a, x, y), x * y + x)


def test_an_operation_that_is_no_equations_is_an_error_when_it_is_read_off() -> None:
    with pytest.raises(TypeError):
        Expression() / 2  # type: ignore[operator]
    with pytest.raises(TypeError):
        np.exp(Expression())  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gates", [2, 3, 4])
def test_values_packed_one_after_the_other_are_computed_as_those_with_vectors_of_their_own(
    dtype: str, gates: int
) -> None:
    """Each value is doubled in place; whatever lies before and after the sequence's vectors stays."""
    lanes = host.lanes(dtype)
    for count in range(1, lanes):
        columns = -(-gates * count // lanes)
        loads = tuple((Expression(), Place("at", lanes=Lanes(gate * count, count))) for gate in range(gates))
        stores = tuple((value + value, place) for value, place in loads)
        compiled = Kernel("packed", on_tile(dtype, 1, 1, Equations(loads, stores)), 1)
        memory = pack.aligned(((columns + 2) * lanes,), dtype)
        memory[...] = np.arange(1, memory.size + 1)
        wanted = memory.copy()
        wanted[lanes : lanes + gates * count] *= 2
        wanted[lanes + gates * count : lanes * (columns + 1)] = 0
        call(compiled, memory.ctypes.data + lanes * memory.itemsize)
        np.testing.assert_array_equal(memory, wanted)


def test_lanes_that_a_packed_value_does_not_fill_are_zero_in_what_is_made_of_it() -> None:
    lanes = host.lanes("float64")
    loaded = Expression()
    equations = Equations(((loaded, Place("at", lanes=Lanes(1, 1))),), ((loaded + 1, Place("out")),))
    memory, out = pack.aligned((lanes,), "float64"), pack.aligned((lanes,), "float64")
    memory[...] = 7
    call(Kernel("packed", on_tile("float64", 1, 1, equations), 2), memory.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out, [8, *[1] * (lanes - 1)])

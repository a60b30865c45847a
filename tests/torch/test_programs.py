"""The programs that PyTorch builds are the ones that the execution names."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from unrollbench import backends
from unrollbench.backends import CountsCompilations
from unrollbench.case import Case
from unrollbench.tensors import draw

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's compiler, about itself

STEPS = 4
SMALL: dict[str, Any] = {
    "backend": "torch",
    "sequence_length": STEPS,
    "batch_size": 4,
    "input_size": 8,
    "num_units": 16,
}


def test_static_is_compiled_with_a_product_for_every_step_in_one_graph() -> None:
    case = Case(execution="static", **SMALL)
    with closing(backends.load("torch").build(case, draw(case))) as program:
        assert isinstance(program, CountsCompilations)
        assert program.compilations() == 1
        assert program.listing().source.count("addmm(") == STEPS
        assert list(program.build_phases_s) == ["inputs", "import_compiler", "trace", "compile"]


@pytest.mark.parametrize("execution", ["stepwise", "library"])
def test_the_eager_loop_and_the_library_compile_nothing(execution: str) -> None:
    case = Case(**{**SMALL, "execution": execution})
    with closing(backends.load("torch").build(case, draw(case))) as program:
        program.run()
        assert isinstance(program, CountsCompilations)
        assert program.compilations() == 0


def test_library_is_one_module_for_equal_layers_and_a_chain_for_unequal_ones() -> None:
    equal = Case(execution="library", num_layers=3, **SMALL)
    unequal = Case(execution="library", num_layers=2, **{**SMALL, "num_units": (8, 12)})
    for case, modules in ((equal, 1), (unequal, 2)):
        with closing(backends.load("torch").build(case, draw(case))) as program:
            assert program.listing().source.count("LSTM(") == modules

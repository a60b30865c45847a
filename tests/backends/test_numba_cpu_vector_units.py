"""Programs for other vector units than this host's, narrower and wider ones, which LLVM makes do with what there is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from contextlib import closing
from unrollbench.kernels import host

unit = host.VectorUnit(*map(int, sys.argv[1:]), False) if sys.argv[1:] else host.vector_unit()
host.vector_unit, host.matrix_unit = lambda: unit, lambda: False

from tests.backends.numba_programs import check, run
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case, CellOptions
from unrollbench.kernels import division
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import draw

EVERYTHING = CellOptions(use_peepholes=True, num_proj=21, cell_clip=0.5, proj_clip=0.3, forget_bias=0.5)
for axes in (
    dict(cell="lstm", batch_size=13, num_units=37, num_layers=2),
    dict(cell="lstm", batch_size=13, num_units=37, parallel_iterations=1),
    dict(cell="lstm", batch_size=2, num_units=40, parallel_iterations=1),
    dict(cell="lstm", batch_size=1, num_units=100, sequence_length=40, parallel_iterations=32),
    dict(cell="lstm", batch_size=5, cell_options=EVERYTHING, lengths="uniform"),
    dict(cell="gru", batch_size=17, num_units=70, threads=2, dtype="float64"),
    dict(cell="gru", batch_size=3, num_units=150, threads=2, lengths="uniform"),
    dict(cell="basic_rnn", batch_size=4, num_units=65),
    dict(cell="lstm", batch_size=7, num_units=100, threads=2),
):
    case = Case(**dict(mode="train", sequence_length=6, input_size=9, num_units=33, parallel_iterations=4) | axes)
    tensors, shared = draw(case), case.threads > 1 and case.batch_size < 8
    division._saves_by_units = lambda *_, shared=shared: shared
    for kept in (1 << 20, 0):
        host.second_level_cache_bytes = lambda: kept
        with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
            assert program.listing().multiplied_by == f"vectors of {8 * unit.width_bytes} bits"
            assert all(layout.streams == (kept == 0) for layout in program.network.layouts)
            assert {layout.split for layout in program.network.layouts} == {"units" if shared else "rows"}
            check(case, tensors, run(program, case, tensors))
        print("as the reference:", axes)
"""


UNITS = [(16, 16), (16, 32), (32, 16), (64, 32)]
OTHERS = [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_ENABLE_AVX": "0"}]


@pytest.mark.parametrize(("unit", "told"), [*((unit, {}) for unit in UNITS), *(((), told) for told in OTHERS)])
def test_results_are_the_references_whatever_the_vector_unit(unit: tuple[int, ...], told: dict[str, str]) -> None:
    root, command = Path(__file__).parents[2], [sys.executable, "-c", _PROGRAM, *map(str, unit)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | told, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as the reference") == 2 * 9

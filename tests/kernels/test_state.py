"""What a pass begins with, as kernels write it into every thread's rows."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from tests.adversarial import CELLS, SMALL
from tests.backends.numba_programs import EXECUTIONS, check, run, small
from tests.kernels.stacks import sharing_rows
from tests.kernels.vectors import call
from unrollbench.backends.numba_cpu import NetworkProgram
from unrollbench.case import Case
from unrollbench.kernels import cpu
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import draw

GARBAGE = 777.0


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(("batch", "units", "split"), [(9, 20, "rows"), (3, 40, "units"), (1, 40, "units")])
def test_threads_write_the_state_of_all_rows_between_them_and_each_only_its_own(
    monkeypatch: pytest.MonkeyPatch, batch: int, units: int, split: str, given: bool
) -> None:
    if split == "units":
        sharing_rows(monkeypatch)
    case = Case(**{**SMALL, **CELLS["lstm"], "batch_size": batch, "num_units": units, "threads": 2})
    tensors = draw(case)
    state = tuple(np.full((batch, units), value, np.float32) for value in (3, 5))
    wanted = dict(zip(("c", "h"), state if given else np.zeros((2, batch, units)), strict=True))
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        run(program, case, tensors)
        (layout,), (buffers,) = program.network.layouts, program._buffers.layers
        assert layout.split == split
        begin, begin_backward = cpu.forward_kernels((layout,), 0), cpu.backward_kernels((layout,), 0)
        program._buffers.point_state("", (state,) if given else None)
        program._buffers.point_state("d_", (state,) if given else None)
        frames = program._buffers.frames
        for kernel, prefix in ((begin["begin"], ""), (begin_backward["begin_backward"], "d_")):
            for name, values in wanted.items():
                for part, _ in buffers.parts(f"{prefix}{name}"):
                    part[...] = GARBAGE
                written = []
                for thread in range(2):
                    call(kernel, frames[thread, 0].ctypes.data)
                    found = buffers.rows(f"{prefix}{name}", np.zeros(batch, np.int64), layout.padded(units))
                    written.append(np.any(found != GARBAGE, axis=1).sum())
                np.testing.assert_array_equal(found[:, :units], values)
                assert np.all(found[:, units:] == 0)
                assert written == [batch // 2 if split == "units" else -(-batch // 2), batch]


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ["gru", "lstm with everything"])
def test_where_there_is_no_step_the_state_and_its_gradient_are_the_given_ones(name: str, execution: str) -> None:
    case, tensors, program = small(name, execution=execution, lengths=(0, 0, 0))
    results = run(program, case, tensors)
    check(case, tensors, results)
    assert results.gradients is not None
    for found, given in ((results.state, tensors.initial_state), (results.gradients.initial_state, tensors.d_state)):
        assert given is not None
        for layer, arrays in zip(found, given, strict=True):
            for array, wanted in zip(layer, arrays, strict=True):
                np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["gru", "lstm with everything"])
def test_what_is_added_up_in_begins_at_zero(name: str, threads: int) -> None:
    """Gradients of temporaries, of gates that later stages read, and of diagonals."""
    case = Case(**{**SMALL, **CELLS[name], "batch_size": 9, "threads": threads})
    with closing(NetworkProgram(spec_of(case), of_case(case))) as program:
        run(program, case, draw(case))
        (layout,), (buffers,) = program.network.layouts, program._buffers.layers
        names = {*layout.cell.temporaries, *(n for s in layout.stages for n in (*s.stage.exposed, *s.stage.diagonals))}
        assert names
        for each in names:
            buffers[f"d_{each}"][...] = GARBAGE
        for thread in range(threads):
            begin = cpu.backward_kernels((layout,), 0)["begin_backward"]
            call(begin, program._buffers.frames[thread, 0].ctypes.data)
        diagonals = {n for s in layout.stages for n in s.stage.diagonals}
        for each in names:
            parts = [buffers[f"d_{each}"]] if each in diagonals else [part for part, _ in buffers.parts(f"d_{each}")]
            assert not any(part.any() for part in parts), each


@pytest.mark.parametrize(("prefix", "what"), [("", "initial state"), ("d_", "gradient of the final state")])
def test_a_state_of_another_shape_is_an_error_that_says_which(prefix: str, what: str) -> None:
    case, tensors, program = small("lstm", num_layers=2, num_units=4)
    run(program, case, tensors)
    good = np.zeros((case.batch_size, 4), np.float32)
    with pytest.raises(ValueError, match=rf"{what}, layer 1, h: shape \(1, 4\), expected \({case.batch_size}, 4\)"):
        program._buffers.point_state(prefix, ((good, good), (good, good[:1])))
    check(case, tensors, run(program, case, tensors))


def test_a_state_in_another_order_or_precision_is_read_as_its_numbers() -> None:
    case, tensors, program = small("gru")
    first = run(program, case, tensors)
    outputs, _ = program.forward(
        tensors.inputs,
        tensors.lengths,
        tuple(tuple(np.asfortranarray(a, "float64") for a in s) for s in tensors.initial_state),
    )
    np.testing.assert_array_equal(outputs, first.outputs)

"""What a program is made of: launches in a straight line, a loop on the device, or launches from a loop."""

from __future__ import annotations

import ast
from contextlib import closing
from typing import Any

import pytest

from tests.cuda.programs import small
from unrollbench.backends import Listing
from unrollbench.backends.numba_cuda import CaseProgram, NumbaCuda
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.kernels.cuda.network import Plan, plan_of
from unrollbench.kernels.cuda.simulator import LIMITS, SimulatedDevice
from unrollbench.tensors import draw


def plan(name: str = "lstm", **axes: Any) -> Plan:
    return plan_of(small(name, **axes), LIMITS)


def listing(case: Case) -> Listing:
    with closing(CaseProgram(case, draw(case), SimulatedDevice())) as program:
        return program.listing()


def calls(text: str, prefix: str) -> int:
    """Calls of functions whose names begin so, as they stand in the text."""
    found = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return sum(isinstance(called, ast.Name) and called.id.startswith(prefix) for called in found)


@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize(("name", "stages"), [("lstm", 1), ("gru", 2), ("lstm with projection", 2)])
def test_static_has_a_launch_per_layer_step_and_stage(name: str, stages: int, steps: int) -> None:
    texts = plan(name, execution="static", num_layers=2, sequence_length=steps).host_texts()
    assert calls(texts["run_forward"], "forward_") == 2 * steps * stages
    assert calls(texts["run_backward"], "backward_") == 2 * steps * stages
    assert "for " not in texts["run_forward"] + texts["run_backward"]


def test_the_recorded_launches_grow_by_one_per_layer_and_step() -> None:
    nodes = [
        listing(small(execution="static", mode="forward", num_layers=2, sequence_length=steps)).graph_nodes or 0
        for steps in (3, 4, 10)
    ]
    assert nodes[1] - nodes[0] == 2
    assert nodes[2] - nodes[1] == 12


@pytest.mark.parametrize(("unroll", "copies"), [(1, 1), (3, 4), (5, 6)])
def test_a_loops_body_has_unroll_copies_and_the_remainder_one(unroll: int, copies: int) -> None:
    texts = plan("lstm", unroll=unroll, parallel_iterations=3).kernel_texts()
    for direction in ("forward", "backward"):
        text = texts[f"loop_{direction}"]
        assert calls(text, f"{direction}_0_0") == copies
        assert text.count("while ") >= 2
        assert text.count("grid.sync()") >= copies


def test_a_loops_text_does_not_depend_on_the_steps() -> None:
    short, long = (plan("gru", sequence_length=steps, unroll=2).kernel_texts() for steps in (4, 400))
    assert short == long


def test_no_thread_leaves_a_loop_before_its_last_barrier() -> None:
    texts = plan("gru", num_layers=2).kernel_texts()
    assert "return" not in texts["loop_forward"] + texts["loop_backward"]


def test_stepwise_launches_from_a_loop_on_the_host() -> None:
    texts = plan("gru", execution="stepwise", num_layers=2).host_texts()
    assert "for t in range(limit):" in texts["run_forward"]
    assert calls(texts["run_forward"], "forward_") == 4


def test_the_listing_says_what_the_texts_do_not_show() -> None:
    dynamic, static = (listing(small(execution=execution)) for execution in ("dynamic", "static"))
    assert "large products: the tiled kernel of unrollbench" in dynamic.source
    assert "recurrent weights of layer 0, stage 0: in shared memory" in dynamic.source
    assert "launched in order, not captured" in static.source
    assert "def loop_forward(" in dynamic.source
    assert "def run_forward(" in static.source
    assert (dynamic.registers, dynamic.cubin_bytes) == (None, None)


def test_the_listing_says_where_weights_do_not_fit() -> None:
    case = small(num_units=64, input_size=2, mode="forward", sequence_length=1, batch_size=1)
    assert "there is no room for them" in listing(case).source


def test_a_program_builds_in_phases() -> None:
    case = small(execution="static")
    with closing(CaseProgram(case, draw(case), SimulatedDevice())) as program:
        assert {"schedule", "compile", "load", "allocate", "pack"} <= set(program.build_phases_s)


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"device": "cpu"}, "device 'cuda'"),
        ({"execution": "library"}, "no fused operator"),
        ({"threads": 2}, "one thread of the host"),
        ({"matmul_precision": "tf32"}, "the simulator's products are in float32"),
        ({"swap_memory": True, "unroll": 4, "parallel_iterations": 3}, "a loop's body cannot be longer"),
    ],
)
def test_a_case_is_declined_with_its_reason(axes: dict[str, Any], reason: str) -> None:
    assert reason in (NumbaCuda().why_not(small(**axes)) or "")


def test_every_other_case_is_taken() -> None:
    assert NumbaCuda().why_not(small(swap_memory=True, unroll=3, parallel_iterations=3, dtype="float64")) is None


def test_the_simulator_is_never_timed() -> None:
    backend, case = NumbaCuda(), small(mode="forward")
    assert backend.simulated
    with closing(backend.build(case, draw(case))) as program, pytest.raises(BackendUnavailable, match="simulator"):
        program.event_s(3, cold=False)

"""A case says what is wrong with its axes, and equal programs are equal cases."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrollbench.case import CELLS, DEVICE_AXES, DEVICES, VARIANT_AXES, Case, CellOptions, from_json, to_json
from unrollbench.errors import CaseError

FULL: st.SearchStrategy[Literal["full"]] = st.just("full")
UNIFORM: st.SearchStrategy[Literal["uniform"]] = st.just("uniform")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any valid case of small sizes."""
    steps, batch = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    layers = draw(st.integers(1, 3))
    cell = draw(st.sampled_from(tuple(CELLS)))
    num_proj = draw(st.none() | st.integers(1, 5))
    options = CellOptions(
        forget_bias=draw(st.sampled_from([0.0, 1.0])),
        use_peepholes=draw(st.booleans()),
        cell_clip=draw(st.none() | st.sampled_from([0.5, 3.0])),
        num_proj=num_proj,
        proj_clip=draw(st.none() | st.just(0.5)) if num_proj else None,
    )
    sizes = st.integers(1, 9)
    return Case(
        cell=cell,
        cell_options=options if cell == "lstm" else CellOptions(),
        mode=draw(st.sampled_from(["forward", "train"])),
        execution=draw(st.sampled_from(["static", "dynamic", "stepwise", "library"])),
        unroll=draw(st.one_of(st.none(), FULL, sizes)),
        parallel_iterations=draw(st.none() | sizes),
        swap_memory=draw(st.none() | st.booleans()),
        time_major=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        sequence_length=steps,
        lengths=draw(st.one_of(FULL, UNIFORM, st.tuples(*[st.integers(0, steps)] * batch))),
        batch_size=batch,
        input_size=draw(sizes),
        num_units=draw(sizes | st.tuples(*[sizes] * layers)),
        num_layers=layers,
        threads=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 3)),
        device=draw(st.sampled_from(DEVICES)),
        matmul_precision=draw(st.sampled_from([None, "float32", "tf32"])),
        device_memory_limit=draw(st.sampled_from([None, 1.0, 0.5, 2, 2**40])),
        allow_growth=draw(st.none() | st.booleans()),
        l2_cache=draw(st.sampled_from([None, "hot", "cold"])),
    )


@given(cases())
def test_canonical_is_idempotent_and_keeps_the_key(case: Case) -> None:
    canonical = case.canonical()
    assert canonical.canonical() == canonical
    assert case.key == canonical.key


@given(cases())
def test_a_case_survives_json(case: Case) -> None:
    assert from_json(json.loads(json.dumps(to_json(case)))) == case


@given(cases())
def test_a_canonical_case_survives_json(case: Case) -> None:
    assert from_json(json.loads(json.dumps(to_json(case.canonical())))) == case.canonical()


@given(cases())
def test_axes_of_an_accelerator_mean_nothing_on_the_processor(case: Case) -> None:
    plain: dict[str, Any] = dict.fromkeys(DEVICE_AXES)
    on_cpu = replace(case, device="cpu")
    assert on_cpu.canonical() == replace(on_cpu, **plain).canonical()
    assert not set(DEVICE_AXES) & set(to_json(on_cpu.canonical()))


def test_a_case_on_the_processor_has_the_key_that_it_had_before_there_were_accelerators() -> None:
    before = {name: value for name, value in asdict(Case().canonical()).items() if name not in DEVICE_AXES}
    assert Case().key == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]
    assert from_json(before) == Case().canonical()


def test_an_accelerators_axes_have_defaults_where_they_mean_something() -> None:
    case = Case(device="cuda", matmul_precision=None, allow_growth=None, l2_cache=None).canonical()
    assert (case.matmul_precision, case.allow_growth, case.l2_cache) == ("float32", True, "hot")
    assert Case(device="cuda", dtype="float64", matmul_precision="tf32").canonical().matmul_precision is None


def test_tf32_is_held_against_float32_and_a_cold_cache_is_not_held_against_a_hot_one() -> None:
    case = Case(device="cuda")
    assert replace(case, matmul_precision="tf32", allow_growth=False).network == case.network
    assert replace(case, l2_cache="cold").network != case.network
    assert replace(case, device_memory_limit=0.5).network != case.network


@given(cases())
def test_a_network_is_shared_by_every_way_to_run_it(case: Case) -> None:
    other = replace(case, execution="static", swap_memory=None, parallel_iterations=None)
    assert other.network == case.network
    default = Case()
    assert all(getattr(case.network, axis) == getattr(default, axis) for axis in VARIANT_AXES)


@given(cases())
def test_training_costs_three_times_the_flops_and_keeps_activations(case: Case) -> None:
    forward, train = replace(case, mode="forward"), replace(case, mode="train")
    assert train.flops == 3 * forward.flops
    assert forward.activation_bytes == 0 < train.activation_bytes


@pytest.mark.parametrize("execution", ["static", "stepwise", "library"])
def test_axes_of_the_loop_mean_nothing_for_other_executions(execution: Any) -> None:
    one = Case(execution=execution, unroll=4, parallel_iterations=8, swap_memory=True, mode="train")
    assert one.canonical() == Case(execution=execution, unroll=1, mode="train").canonical()
    assert one.canonical().unroll is None


def test_unroll_full_is_the_sequence_length() -> None:
    assert Case(unroll="full", sequence_length=7).canonical().unroll == 7


def test_swapping_means_nothing_without_gradients() -> None:
    assert Case(swap_memory=True).canonical() == Case(swap_memory=False).canonical()
    assert Case(swap_memory=True, mode="train").canonical().swap_memory is True


def test_equal_layer_sizes_and_full_lengths_are_written_shortly() -> None:
    case = Case(num_units=(8, 8), num_layers=2, lengths=(5, 5), batch_size=2, sequence_length=5).canonical()
    assert (case.num_units, case.lengths) == (8, "full")


def test_flops_and_bytes_of_a_known_lstm() -> None:
    case = Case(cell="lstm", sequence_length=3, batch_size=2, input_size=5, num_units=4)
    assert case.flops == 2 * 4 * 4 * (5 + 4) * 3 * 2
    assert case.weight_bytes == 4 * (4 * 4 * (5 + 4) + 4 * 4)


def test_a_projection_changes_what_the_next_layer_reads() -> None:
    case = Case(cell_options=CellOptions(num_proj=3), input_size=5, num_units=(4, 6), num_layers=2)
    assert case.layer_shapes == ((5, 4, 3), (3, 6, 3))


@pytest.mark.parametrize(
    ("axes", "finding"),
    [
        ({"unroll": 0}, 'unroll = 0: expected an integer >= 1 or "full"'),
        ({"unroll": True}, 'unroll = True: expected an integer >= 1 or "full"'),
        ({"unroll": "half"}, "unroll = 'half'"),
        ({"cell": "rnn"}, "cell = 'rnn': expected one of 'basic_rnn', 'gru', 'lstm'"),
        ({"cell": {}}, "cell = {}: expected one of"),
        ({"mode": None}, "mode = None: expected one of"),
        ({"time_major": 1}, "time_major = 1: expected true or false"),
        ({"swap_memory": "yes"}, "swap_memory = 'yes': expected true or false"),
        ({"parallel_iterations": 0}, "parallel_iterations = 0"),
        ({"matmul_precision": "bf16"}, "matmul_precision = 'bf16': expected one of 'float32', 'tf32'"),
        ({"l2_cache": "warm"}, "l2_cache = 'warm': expected one of 'hot', 'cold'"),
        ({"allow_growth": 1}, "allow_growth = 1: expected true or false"),
        ({"device_memory_limit": 1}, "device_memory_limit = 1: expected an integer >= 2 of bytes, or a fraction of"),
        ({"device_memory_limit": 0.0}, "device_memory_limit = 0.0: expected"),
        ({"device_memory_limit": 1.5}, "device_memory_limit = 1.5: expected"),
        ({"device_memory_limit": float("nan")}, "device_memory_limit = nan: expected"),
        ({"device_memory_limit": True}, "device_memory_limit = True: expected"),
        ({"device_memory_limit": "half"}, "device_memory_limit = 'half': expected"),
        ({"sequence_length": 0}, "sequence_length = 0: expected an integer >= 1"),
        ({"batch_size": 2.0}, "batch_size = 2.0: expected an integer >= 1"),
        ({"seed": -1}, "seed = -1: expected an integer >= 0"),
        ({"num_units": ()}, "num_units = []: expected integers >= 1, one per layer"),
        ({"num_units": (4, 4)}, "num_units = [4, 4]: expected 1 values, one per layer (num_layers)"),
        ({"lengths": "half"}, 'lengths = \'half\': expected "full", "uniform" or a list of integers'),
        ({"lengths": (1,)}, "lengths: 1 values: expected one per batch row, batch_size = 16"),
        ({"lengths": (33,) * 16}, "lengths: 33: expected at most sequence_length = 32"),
        ({"lengths": (-1,) * 16}, "expected integers >= 0"),
        ({"backend": ""}, "backend = '': expected the name of a backend"),
        ({"cell_options": {}}, "cell_options = {}: expected a table of cell options"),
        ({"cell": "gru", "cell_options": CellOptions(num_proj=3)}, "cell 'gru' has no such option"),
        ({"cell_options": CellOptions(forget_bias=float("nan"))}, "forget_bias = nan: expected a finite number"),
        ({"cell_options": CellOptions(cell_clip=float("inf"))}, "cell_clip = inf: expected a finite number > 0"),
        ({"cell_options": CellOptions(cell_clip=0.0)}, "cell_clip = 0.0: expected a finite number > 0"),
        ({"cell_options": CellOptions(num_proj=0)}, "num_proj = 0: expected an integer >= 1"),
        ({"cell_options": CellOptions(proj_clip=1.0)}, "proj_clip = 1.0: has no effect without num_proj"),
    ],
)
def test_what_cannot_be_is_a_finding(axes: dict[str, Any], finding: str) -> None:
    with pytest.raises(CaseError) as caught:
        Case(**axes)
    assert finding in str(caught.value)


def test_all_findings_come_at_once() -> None:
    with pytest.raises(CaseError) as caught:
        Case(cell="rnn", unroll=0, batch_size=0, seed=-1)
    assert len(caught.value.findings) == 4


def test_json_with_an_unknown_axis_is_refused() -> None:
    with pytest.raises(CaseError, match="unknown axis 'sequence'"):
        from_json({"sequence": 3})

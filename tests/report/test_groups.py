"""Only what may be compared is compared, and always against the plain loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.runs import failed, measured, run_of, three_ways
from unrollbench.case import Case
from unrollbench.records import Sample
from unrollbench.report.groups import (
    Variant,
    baseline,
    contrast,
    groups,
    memory_bytes,
    processor_share,
    questions,
    run_memory_bytes,
)

LOOP = Case(execution="dynamic", mode="train")


def variant(case: Case) -> Variant:
    return Variant(case.canonical(), (measured(case),))


def test_cases_that_differ_only_in_how_they_are_run_are_one_group() -> None:
    ways = [
        LOOP,
        replace(LOOP, unroll=4),
        replace(LOOP, parallel_iterations=1),
        replace(LOOP, swap_memory=True),
        replace(LOOP, execution="static"),
        replace(LOOP, backend="jax"),
    ]
    (group,) = groups(run_of(*map(measured, ways)))
    assert len(group.variants) == 6
    assert group.varying == {"backend", "execution", "unroll", "parallel_iterations", "swap_memory"}


@pytest.mark.parametrize("axis", ["mode", "sequence_length", "batch_size", "threads", "dtype", "seed", "time_major"])
def test_cases_that_differ_in_the_network_or_its_data_are_not(axis: str) -> None:
    values: dict[str, Any] = {"mode": "forward", "dtype": "float64", "time_major": False}
    other = replace(LOOP, **{axis: values.get(axis, 7)})
    assert len(groups(run_of(measured(LOOP), measured(other)))) == 2


def test_the_processes_of_one_case_are_one_variant() -> None:
    (group,) = groups(run_of(*(measured(LOOP, repeat=repeat) for repeat in (2, 0, 1))))
    (only,) = group.variants
    assert [m.repeat for m in only.measurements] == [0, 1, 2]
    assert len(only.run_s) == 3
    assert group.baseline is None


def test_the_baseline_is_the_plain_loop() -> None:
    ways = [
        replace(LOOP, execution="static"),
        replace(LOOP, unroll=4),
        replace(LOOP, parallel_iterations=1),
        replace(LOOP, swap_memory=True),
        replace(LOOP, backend="jax"),
        LOOP,
    ]
    found = baseline(map(variant, ways))
    assert found is not None
    assert found.case == LOOP.canonical()


def test_a_loop_without_figures_is_no_baseline() -> None:
    static = replace(LOOP, execution="static")
    stepwise = replace(LOOP, execution="stepwise")
    (group,) = groups(run_of(failed(LOOP, "crashed"), measured(static), measured(stepwise)))
    assert group.baseline is not None
    assert group.baseline.case.execution == "static"
    assert questions(group) == ()


def test_a_contrast_is_the_first_in_units_of_the_second() -> None:
    (group,) = groups(run_of(*three_ways()))
    loop, static, _ = group.variants
    found = contrast(static, loop)
    assert found.run is not None
    assert found.build is not None
    assert found.memory is not None
    assert found.run.estimate == pytest.approx(0.5)
    assert found.build.estimate == pytest.approx(10.0)
    assert found.memory.estimate == pytest.approx(4.0)


def test_bounds_allow_for_a_process_that_shared_its_processor() -> None:
    loop, static, _ = three_ways()
    (quiet,) = groups(run_of(loop, static))
    (busy,) = groups(run_of(replace(loop, metrics=replace(loop.metrics, cpu_s=0.4e-3)), static))
    before, after = contrast(quiet.variants[1], quiet.variants[0]).run, contrast(busy.variants[1], busy.variants[0]).run
    assert before is not None
    assert after is not None
    assert (before.shown, after.shown) == (True, False)  # 0.5 ms against 1 ms, of which it had the processor for 0.4 ms
    assert after.estimate == before.estimate
    assert after.low == before.low
    assert after.high == pytest.approx(before.high / 0.4, rel=0.01)


@pytest.mark.parametrize(("axis", "value"), [("threads", 2), ("device", "cuda")])
def test_waiting_is_no_disturbance_where_it_may_be_right(axis: str, value: Any) -> None:
    m = measured(replace(LOOP, **{axis: value}), 1e-3)
    assert processor_share(replace(m, metrics=replace(m.metrics, cpu_s=0.4e-3))) is None


def test_questions_are_static_and_the_fastest_each_against_its_own_backends_loop() -> None:
    ways = [
        measured(LOOP, 1.0),
        measured(replace(LOOP, execution="static"), 0.9),
        measured(replace(LOOP, unroll=4), 0.5),
        measured(replace(LOOP, unroll=8), 0.7),
        measured(replace(LOOP, backend="jax"), 3.0),
        measured(replace(LOOP, backend="jax", execution="static"), 2.0),
    ]
    (group,) = groups(run_of(*ways))
    asked = [(c.variant.case.backend, c.variant.case.execution, c.variant.case.unroll) for c in questions(group)]
    assert asked == [("jax", "static", None), ("numba_cpu", "static", None), ("numba_cpu", "dynamic", 4)]
    assert {c.against.case.backend for c in questions(group)} == {"jax", "numba_cpu"}


def test_memory_is_unknown_if_either_end_is() -> None:
    assert run_memory_bytes(measured(LOOP, memory_bytes=None).metrics) is None
    assert run_memory_bytes(measured(LOOP, memory_bytes=5).metrics) == 5


def test_memory_of_a_case_on_a_device_is_the_device_s_and_never_the_processor_s() -> None:
    case = Case(device="cuda")
    found = measured(case, memory_bytes=5)
    assert memory_bytes(found) is None
    assert memory_bytes(replace(found, metrics=replace(found.metrics, device_peak_bytes=9))) == 9
    assert memory_bytes(measured(Case(), memory_bytes=5)) == 5


def test_tf32_is_a_variant_of_the_same_network_and_float32_its_baseline() -> None:
    case = Case(device="cuda")
    (group,) = groups(run_of(measured(replace(case, matmul_precision="tf32")), measured(case)))
    assert [v.case.matmul_precision for v in group.variants] == ["float32", "tf32"]
    assert group.baseline is group.variants[0]
    assert group.varying == {"matmul_precision"}


def test_a_variant_by_events_is_held_against_one_by_the_wall_by_the_wall() -> None:
    loop = Case(device="cuda", backend="numba_cuda")
    by_events = replace(measured(loop), samples=tuple(Sample(2, 2e-3, 8e-3) for _ in range(10)))
    by_wall = measured(replace(loop, backend="jax"), 8e-3)
    also = replace(measured(replace(loop, execution="static")), samples=tuple(Sample(1, 3e-3, 4e-3) for _ in range(10)))
    ours, static, jax = groups(run_of(by_events, by_wall, also))[0].variants
    mixed, pure = contrast(jax, ours).run, contrast(static, ours).run
    assert mixed is not None
    assert pure is not None
    assert mixed.estimate == pytest.approx(2.0)
    assert pure.estimate == pytest.approx(3.0)


def test_our_own_kernels_are_the_baseline_on_any_device() -> None:
    for device, backend in (("cpu", "numba_cpu"), ("cuda", "numba_cuda")):
        ours = Case(device=device, backend=backend)
        (group,) = groups(run_of(measured(replace(ours, backend="jax")), measured(ours)))
        assert group.baseline is group.variants[0]
        assert group.variants[0].case.backend == backend


def test_static_is_held_against_the_loop_of_its_own_precision() -> None:
    loop = Case(device="cuda", backend="numba_cuda")
    cases = [
        replace(loop, matmul_precision=precision, execution=execution)
        for precision in ("float32", "tf32")
        for execution in ("dynamic", "static")
    ]
    asked = questions(groups(run_of(*map(measured, cases)))[0])
    assert [(c.variant.case.matmul_precision, c.against.case.matmul_precision) for c in asked] == [
        ("float32", "float32"),
        ("tf32", "tf32"),
    ]

"""A row holds every axis and every figure, enough to build its case again, and nothing that was not known."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest

from tests.runs import adversarial, failed, measured, run_of, three_ways
from unrollbench.case import Case, CellOptions, from_json
from unrollbench.records import Ceiling, Measurement, Metrics, Run, Sample
from unrollbench.report import frames

ODD = Case(
    execution="static",
    cell_options=CellOptions(forget_bias=0.5, use_peepholes=True, num_proj=3),
    num_units=(8, 4),
    num_layers=2,
    batch_size=2,
    sequence_length=5,
    lengths=(0, 5),
    time_major=False,
).canonical()


ON_DEVICE = Case(device="cuda", device_memory_limit=2**30, matmul_precision="tf32", l2_cache="cold").canonical()


def rebuilt(row: dict[str, Any]) -> Case:
    """The case of a row of results, from its columns alone."""

    def value(name: str) -> Any:
        found = row[name]
        if pd.isna(found):
            return None
        if name in ("lengths", "num_units") and str(found).startswith("["):
            return json.loads(found)
        return found.item() if hasattr(found, "item") else found

    axes = {f.name: value(f.name) for f in fields(Case) if f.name != "cell_options"}
    return from_json({**axes, "cell_options": {f.name: value(f.name) for f in fields(CellOptions)}})


def test_every_axis_and_every_field_of_the_records_is_a_column() -> None:
    columns = set(frames.results(run_of()).columns)
    axes = {f.name for f in fields(Case)} - {"cell_options"} | {f.name for f in fields(CellOptions)}
    figures = {f.name for f in fields(Metrics)} - {"build_phases_s"}
    outcome = {f.name for f in fields(Measurement)} - {"case", "metrics", "samples"}
    assert axes | figures | outcome <= columns


def test_no_name_is_used_twice() -> None:
    names = [f.name for kind in (Case, CellOptions, Metrics, Measurement) for f in fields(kind)]
    assert len(names) == len(set(names))


def test_what_has_a_unit_says_so_in_its_name() -> None:
    frame = frames.results(run_of(*three_ways()))
    without = {"forget_bias", "cell_clip", "proj_clip", "steal_fraction", "error", "tolerance", "ceiling_share"}
    real = {name for name, dtype in frame.dtypes.items() if str(dtype) == "Float64"} - without
    assert {name for name in real if not str(name).endswith(("_s", "_bytes"))} == set()


@pytest.mark.parametrize(
    "case", [ODD, Case().canonical(), Case(mode="train", swap_memory=True, unroll=4).canonical(), ON_DEVICE]
)
def test_a_row_of_the_csv_is_enough_to_build_its_case_again(case: Case) -> None:
    text = frames.results(run_of(measured(case))).to_csv(index=False)
    frame = pd.read_csv(io.StringIO(text), dtype_backend="numpy_nullable")
    (row,) = frame.to_dict("records")
    assert rebuilt({str(name): value for name, value in row.items()}) == case
    assert row["case_key"] == case.key


def test_bytes_and_fractions_of_one_table_are_told_apart() -> None:
    limits: tuple[int | float, ...] = (2**30, 0.5, 1.0)
    cases = [replace(ON_DEVICE, device_memory_limit=limit) for limit in limits]
    text = frames.results(run_of(*map(measured, cases))).to_csv(index=False)
    rows = pd.read_csv(io.StringIO(text), dtype_backend="numpy_nullable").to_dict("records")
    assert [rebuilt({str(name): value for name, value in row.items()}) for row in rows] == cases


def test_the_wall_s_time_stands_beside_that_of_the_events() -> None:
    by_events = replace(measured(ON_DEVICE), samples=(Sample(2, 2e-3, 8e-3), Sample(2, 2e-3, 6e-3)))
    run = run_of(by_events, measured(Case(seed=1)))
    assert frames.results(run)["run_median_s"].iloc[0] == pytest.approx(1e-3)
    assert frames.results(run)["run_host_median_s"].iloc[0] == pytest.approx(3.5e-3)
    assert frames.results(run)["run_host_median_s"].isna().tolist() == [False, True]
    assert frames.samples(run)["host_s"].iloc[0] == 8e-3
    assert frames.samples(run)["host_s"].isna().sum() == len(run.measurements[1].samples)


def test_figures_follow_from_the_samples() -> None:
    case = Case(sequence_length=8).canonical()
    (row,) = frames.results(run_of(measured(case, 2e-3, samples=(1.0, 3.0, 2.0)))).to_dict("records")
    assert row["run_median_s"] == pytest.approx(4e-3)
    assert row["run_min_s"] == pytest.approx(2e-3)
    assert row["run_iqr_s"] == pytest.approx(2e-3)
    assert row["samples_count"] == 3
    assert row["gflops_per_s"] == pytest.approx(case.flops / 4e-3 / 1e9)
    assert row["build_llvm_s"] == pytest.approx(0.45)


def test_operations_past_a_row_s_length_do_not_count_and_drawn_lengths_are_unknown() -> None:
    full = Case(batch_size=2, sequence_length=8).canonical()
    half = replace(full, lengths=(8, 0))
    run = run_of(*(measured(case, 2e-3) for case in (full, half, replace(full, lengths="uniform"))))
    rates = frames.results(run)["gflops_per_s"]
    assert rates[1] == pytest.approx(rates[0] / 2)
    assert rates.isna().tolist() == [False, False, True]


def test_the_share_of_the_ceiling_that_binds_is_a_column_and_where_it_is_unknown_the_reason_is_told() -> None:
    case = Case(batch_size=64, num_units=128)
    ceilings = (
        Ceiling("multiply-add", "float32", 1, 200.0, "GFLOP/s"),
        Ceiling("read", "float32", 1, 100.0, "GB/s", 4 * 128 * 128 * 4),
    )
    run = replace(run_of(measured(case, 2 * case.flops / 200e9), measured(replace(case, threads=2))), ceilings=ceilings)
    known, unknown = frames.results(run).to_dict("records")
    assert known["ceiling"] == "multiply-add"
    assert known["ceiling_share"] == pytest.approx(0.5)
    assert (known["ceiling_gflops_per_s"], known["ceiling_recurrent_weights_gb_per_s"]) == (200.0, pytest.approx(100.0))
    assert frames.results(run)["ceiling_share"].isna().tolist() == [False, True]
    assert "no ceilings for this device" in json.loads(unknown["unknown"])["ceiling_share"]


def test_a_case_on_a_gpu_is_held_against_the_gpu_s_ceilings_where_tensor_cores_made_no_products() -> None:
    case = Case(backend="numba_cuda", device="cuda", batch_size=64, num_units=128)
    ceilings = (
        Ceiling("multiply-add", "float32", 1, 200.0, "GFLOP/s"),
        Ceiling("read", "float32", 1, 100.0, "GB/s", 4 * 128 * 128 * 4),
        Ceiling("multiply-add", "float32", None, 60e3, "GFLOP/s", device="cuda", throttling="none"),
        Ceiling("read", "float32", None, 1e3, "GB/s", 4 * 128 * 128 * 4, device="cuda", place="shared memory"),
    )
    least_s = case.sequence_length * 4 * 128 * 128 * 4 / 1e12
    rounded = replace(case, matmul_precision="tf32", execution="static")
    run = replace(run_of(measured(case, 4 * least_s), measured(rounded, 2 * least_s)), ceilings=ceilings)
    known, tf32 = frames.results(run).to_dict("records")
    assert (known["ceiling"], known["ceiling_share"]) == ("read", pytest.approx(0.25))
    assert (known["ceiling_gflops_per_s"], known["ceiling_recurrent_weights_gb_per_s"]) == (60e3, pytest.approx(1e3))
    assert pd.isna(tf32["ceiling_share"])
    assert tf32["gflops_per_s"] > 0
    assert "tensor cores" in json.loads(tf32["unknown"])["ceiling_share"]


def test_unknown_is_empty_with_its_reason() -> None:
    frame = frames.results(run_of(measured(Case(), samples=()), failed(Case(seed=1), "crashed", "SIGSEGV")))
    for name in ("run_median_s", "run_min_s", "run_iqr_s", "gflops_per_s", "device_bytes", "code_bytes"):
        assert frame[name].isna().all()
    assert json.loads(str(frame["unknown"][0])) == {"device_bytes": "no accelerator"}
    assert frame["reason"][1] == "SIGSEGV"
    assert frame["build_s"].isna().tolist() == [False, True]


def test_whole_numbers_stay_whole_beside_empty_ones() -> None:
    text = frames.results(run_of(measured(Case()), failed(Case(seed=1), "skipped"))).to_csv(index=False)
    assert ",17," in text
    assert ",17.0," not in text


def test_samples_have_a_row_each_with_the_key_of_their_case() -> None:
    run = run_of(*three_ways(), measured(Case(sequence_length=8).canonical(), samples=(1.0, 2.0), repeat=1))
    frame = frames.samples(run)
    assert len(frame) == 32
    last = frame.iloc[-1]
    assert (last["case_key"], last["repeat"], last["sample"]) == (run.measurements[-1].case.key, 1, 1)
    assert last["run_s"] == pytest.approx(Sample(int(last["loops"]), float(last["elapsed_s"])).run_s)


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_every_run_has_frames_with_a_row_per_measurement(run: Run) -> None:
    frame = frames.results(run)
    assert len(frame) == len(run.measurements)
    assert len(frames.samples(run)) == sum(len(m.samples) for m in run.measurements)
    assert list(frame["status"]) == [m.status for m in run.measurements]

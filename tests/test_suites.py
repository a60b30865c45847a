"""Every suite that is shipped loads and asks a question; a mangled one is an error or a suite, never a crash."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unrollbench import plan, suite
from unrollbench.backends import limits
from unrollbench.case import Case
from unrollbench.errors import SuiteError

CASES = {
    "asr": 24,
    "cuda": 105,
    "cuda_memory": 11,
    "cuda_peers": 230,
    "layers": 48,
    "memory": 16,
    "odd_sizes": 288,
    "parallel_iterations": 36,
    "seeds": 33,
    "smoke": 18,
    "tensorflow_benchmark": 37,
    "unroll": 36,
}


def test_these_suites_are_shipped() -> None:
    assert set(CASES) <= set(suite.names())


@pytest.mark.parametrize("name", suite.names())
def test_a_shipped_suite_asks_questions_and_can_be_planned(name: str) -> None:
    loaded = suite.load(name)
    assert loaded.title
    assert loaded.question.endswith("?")
    assert all(group.question.endswith("?") for group in loaded.groups)
    planned = plan.make(loaded)
    assert plan.estimate(planned).seconds > 0
    assert len({plan.label(case) for case in planned.cases}) == len(planned.cases)


@pytest.mark.parametrize(("name", "count"), CASES.items())
def test_a_shipped_suite_has_so_many_cases(name: str, count: int) -> None:
    assert len(plan.make(suite.load(name)).cases) == count


def test_smoke_is_expected_to_end_within_a_minute_and_shows_every_execution() -> None:
    smoke = plan.make(suite.load("smoke"))
    assert plan.estimate(smoke).seconds < 45
    assert plan.estimate(smoke).memory_bytes < 2**30
    assert {case.execution for case in smoke.cases} == {"static", "dynamic", "stepwise"}
    assert {case.mode for case in smoke.cases} == {"forward", "train"}


def test_tensorflows_benchmark_has_its_groups_and_its_cells() -> None:
    loaded = suite.load("tensorflow_benchmark")
    assert {group.name: len(group.cases) for group in loaded.groups} == {
        "graph_creation": 6,
        "static_vs_dynamic": 6,
        "half_length_vs_half_unroll": 4,
        "no_swap_vs_swap": 12,
        "long_sequences": 10,
    }
    cases = plan.make(loaded).cases
    assert all(case.cell == "lstm" and case.cell_options.use_peepholes and case.mode == "train" for case in cases)
    assert all(case.input_size == case.num_units for case in cases)


def test_tensorflows_benchmark_can_be_cut_to_five_minutes_and_keeps_every_question() -> None:
    loaded = suite.load("tensorflow_benchmark")
    kept = set(plan.fit(plan.make(loaded), 300.0).cases)
    assert all(kept.intersection(group.cases) for group in loaded.groups)


ROWS = """28x100x28x256x1 28x100x28x100x1 200x32x64x128x1 100x64x123x320x1 50x256x512x512x1 50x256x256x256x1
50x256x128x128x1 100x1x256x256x1 100x1x1024x1024x1 1000x32x123x320x1 100x16x128x128x4 512x8x64x64x2"""
"""T x B x I x H x layers of every network on which our kernels are held against the others."""


@pytest.mark.parametrize("row", ROWS.split())
def test_every_network_of_peers_is_run_by_all_at_one_and_two_threads_and_in_both_modes(row: str) -> None:
    steps, rows, inputs, units, layers = map(int, row.split("x"))
    shape = Case(
        sequence_length=steps, batch_size=rows, input_size=inputs, num_units=units, num_layers=layers
    ).canonical()
    planned = plan.make(suite.load("peers")).cases
    for mode in ("forward", "train"):
        for threads in (1, 2):
            network = replace(shape, mode=mode, threads=threads).network
            runs = [(case.backend, case.execution) for case in planned if case.network == network]
            assert {"numba_cpu", "torch", "onnx", "openvino", "jax", "tensorflow"} == {backend for backend, _ in runs}
            assert {("tensorflow", "static"), ("tensorflow", "dynamic"), ("openvino", "library")} <= set(runs)


def test_peers_has_the_other_cells_and_float64() -> None:
    planned = plan.make(suite.load("peers")).cases
    assert {(case.cell, case.dtype) for case in planned} == {
        ("lstm", "float32"),
        ("gru", "float32"),
        ("basic_rnn", "float32"),
        ("lstm", "float64"),
    }


@pytest.mark.parametrize("name", ["cuda", "cuda_peers", "cuda_memory"])
def test_a_suite_for_gpus_has_cases_of_every_mode_that_any_machine_can_run(name: str) -> None:
    cases = plan.make(suite.load(name)).cases
    anywhere = [case for case in cases if case.device == "cpu"]
    assert {case.backend for case in anywhere} == {"numba_cpu"}
    assert {case.mode for case in anywhere} == {case.mode for case in cases}
    assert plan.estimate(plan.make(suite.load(name), filters=["device=cpu"])).seconds < 60


def test_cuda_peers_has_each_of_flashrnn_s_kernels_in_both_modes_on_networks_that_it_takes() -> None:
    planned = plan.make(suite.load("cuda_peers")).cases
    for name in ("flashrnn", "flashrnn_alternating", "flashrnn_triton"):
        cases = [case for case in planned if case.backend == name]
        assert {case.mode for case in cases} == {"forward", "train"}
        assert all(getattr(limits, name)(case) is None for case in cases)
        others = [case for case in planned if case.backend == "numba_cuda"]
        assert {case.network for case in cases} <= {case.network for case in others}


def test_training_beyond_the_limit_has_room_for_everything_but_its_activations() -> None:
    (group,) = [group for group in suite.load("cuda_memory").groups if group.name == "does_not_fit"]
    assert {case.swap_memory for case in group.cases if case.execution == "dynamic"} == {False, True}
    for case in group.cases:
        limit = case.device_memory_limit
        assert isinstance(limit, int)
        elements = case.sequence_length * case.batch_size * (case.input_size + case.layer_shapes[-1][2])
        ends_bytes = 2 * elements * case.itemsize_bytes  # inputs, outputs and the gradients of both
        assert ends_bytes + 4 * case.weight_bytes < limit / 2 < limit < case.activation_bytes


def findings_of(path: Path) -> tuple[str, ...]:
    """Findings of what a command does with a suite file before it runs anything."""
    try:
        planned = plan.make(suite.load(str(path)))
    except SuiteError as error:
        return error.findings
    plan.estimate(planned)
    for case in planned.cases:
        plan.label(case)
    return ()


NASTY = [
    "",
    "0",
    "-1",
    "1e400",
    "nan",
    "-inf",
    "true",
    '""',
    '"full"',
    "[]",
    "[[]]",
    "{}",
    "[1, [2], {}]",
    "{ a = 1 }",
    "1979-05-27",
    "07:32:00",
    "0x" + "f" * 9000,
    "9" * 6000,
    "2147483648",
    '"\\u0000\\uD7FF"',
    "[" * 3000,
    '"""',
    "[" + "1, " * 9000 + "1]",
]


def _replace_value(text: str, rng: random.Random) -> str:
    found = rng.choice(list(re.finditer(r"= (.+)", text)) or [None])
    if found is None:
        return text
    return text[: found.start(1)] + rng.choice(NASTY) + text[found.end(1) :]


def _replace_characters(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text))
    return (
        text[:at]
        + "".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(4)))
        + text[at + rng.randrange(9) :]
    )


def _shuffle_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    rng.shuffle(lines)
    return "".join(lines)


def _repeat_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines) + 1)
    return "".join(lines[:at] + lines[at : at + 3] * rng.randrange(2, 400) + lines[at:])


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def _rename_key(text: str, rng: random.Random) -> str:
    keys = list(re.finditer(r"(\w+) =", text))
    if not keys:
        return text
    found, other = rng.choice(keys), rng.choice(keys)
    return text[: found.start(1)] + other[1] + text[found.end(1) :]


MANGLINGS: list[Callable[[str, random.Random], str]] = [
    _replace_value,
    _replace_characters,
    _shuffle_lines,
    _repeat_lines,
    _cut,
    _rename_key,
]


@pytest.mark.parametrize("name", suite.names())
def test_a_mangled_suite_is_an_error_with_its_file_or_still_a_suite(name: str, tmp_path: Path) -> None:
    text = (suite.folder() / f"{name}.toml").read_text()
    path = tmp_path / "mangled.toml"
    for seed in range(60):
        rng = random.Random(seed)
        mangled = text
        for _ in range(rng.randrange(1, 4)):
            mangled = rng.choice(MANGLINGS)(mangled or text, rng)
        path.write_bytes(mangled.encode(errors="replace"))
        for finding in findings_of(path):
            assert finding.startswith(f"{path}: ")
            assert len(finding) < 1000

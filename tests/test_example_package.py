"""A package that is installed beside unrollbench brings a backend and a cell; this one is in tests/example_package."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from unrollbench import backends, conformance, definition, reference
from unrollbench.backends import limits
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable, CaseError
from unrollbench.tensors import draw

EXAMPLE = Path(__file__).with_name("example_package")
LEAKY = {"cell": "leaky_rnn", "sequence_length": 5, "batch_size": 3, "input_size": 4, "num_units": 18}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that `pip install` would have filled with the package's metadata, on the path with its code."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
        for group, points in project["entry-points"].items()
    )
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    for folder in (tmp_path, EXAMPLE):
        monkeypatch.syspath_prepend(folder)
    yield tmp_path
    definition.load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("unrollbench_example")]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_its_backend_is_found_by_name_and_is_available() -> None:
    assert "numpy_loop" in backends.names()
    assert set(backends.availability("numpy_loop").versions) == {"numpy"}


def no_driver() -> None:
    raise BackendUnavailable("no NVIDIA driver")


@pytest.mark.usefixtures("installed")
def test_its_backend_passes_the_conformance_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "load_driver", no_driver)
    found = conformance.check("numpy_loop")
    assert [check for check in found if check.status == "failed"] == []
    passed = [check.name for check in found if check.status == "passed"]
    assert passed.pop() == "a GPU is declined where there is none"
    assert {name.split(":")[0] for name in passed} == {"stepwise"}


@pytest.mark.usefixtures("installed")
def test_a_backend_that_takes_a_gpu_where_there_is_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    careless = type(backends.load("numpy_loop"))
    monkeypatch.setattr(conformance, "load_driver", no_driver)
    assert conformance.check("numpy_loop")[-1].status == "passed"
    monkeypatch.setattr(careless, "why_not", lambda self, case: None if case.execution == "stepwise" else "no")
    found = conformance.check("numpy_loop")[-1]
    assert found.status == "failed"
    assert "device = 'cuda'" in (found.reason or "")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_its_cell_runs_on_our_kernels_as_its_reference_says(execution: str, mode: str) -> None:
    case = Case(**LEAKY, execution=execution, mode=mode, num_layers=2, lengths=(5, 0, 3))  # type: ignore[arg-type]
    tensors = draw(case)
    with closing(backends.load("numba_cpu").build(case, tensors)) as program:
        program.run()
        program.synchronize()
        reference.check(case, program.outputs(), reference.expected(case, tensors))


@pytest.mark.usefixtures("installed")
def test_the_gradients_of_its_reference_are_differences_of_its_outputs() -> None:
    case = Case(**LEAKY, mode="train", dtype="float64")  # type: ignore[arg-type]
    tensors = draw(case)
    found = reference.expected(case, tensors)
    assert found.gradients is not None
    assert tensors.d_outputs is not None
    assert tensors.d_state is not None

    def loss(bias: float) -> float:
        weights = {**tensors.weights[0], "bias": tensors.weights[0]["bias"].copy()}
        weights["bias"][2] += bias
        end = reference.expected(replace(case, mode="forward"), replace(tensors, weights=(weights,)))
        assert tensors.d_outputs is not None
        assert tensors.d_state is not None
        return float((end.outputs * tensors.d_outputs).sum() + (end.state[0][0] * tensors.d_state[0][0]).sum())

    difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert found.gradients.weights[0]["bias"][2] == pytest.approx(difference, rel=1e-6)


@pytest.mark.usefixtures("installed")
def test_a_framework_with_its_own_equations_declines_its_cell() -> None:
    for name in ("tensorflow", "keras", "jax", "torch", "onnx", "openvino"):
        reason = getattr(limits, name)(Case(**LEAKY))  # type: ignore[arg-type]
        assert reason is not None
        assert "leaky_rnn" in reason


def test_a_suite_runs_both(installed: Path) -> None:
    suite = installed / "both.toml"
    suite.write_text(
        'title = "Both"\nquestion = "Do they run?"\n'
        "[measure]\nmin_samples = 1\nmin_time_s = 0.001\n"
        '[axes]\nexecution = "stepwise"\nsequence_length = 3\nbatch_size = 2\ninput_size = 3\nnum_units = 4\n'
        '[[include]]\nbackend = "numpy_loop"\n[[include]]\ncell = "leaky_rnn"\n'
    )
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (installed, EXAMPLE, root)))}
    command = [sys.executable, "-m", "unrollbench", "run", str(suite), "--yes", "--quiet"]
    command += ["--db", str(installed / "runs.db"), "--out", str(installed / "report")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = (installed / "report" / "results.csv").read_text()
    assert "numpy_loop" in rows
    assert "leaky_rnn" in rows


def test_without_the_package_its_cell_is_unknown() -> None:
    with pytest.raises(CaseError, match="cell = 'leaky_rnn': expected one of 'basic_rnn', 'gru', 'lstm'"):
        Case(**LEAKY)  # type: ignore[arg-type]


def test_a_cell_that_does_not_load_is_told_with_its_entry_point(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = installed / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text(f"[{definition.GROUP}]\nabsent = no_such_module:cell\nnumber = math:pi\n")
    monkeypatch.syspath_prepend(installed)
    with pytest.raises(CaseError, match=r"cell 'absent' \(no_such_module:cell\): No module named 'no_such_module'"):
        definition.load("absent")
    with pytest.raises(CaseError, match=r"cell 'number' \(math:pi\): a float; expected a CellDefinition"):
        definition.load("number")

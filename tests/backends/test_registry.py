"""Backends are found by name, loaded when asked for, and say what is missing and what installs it."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from unrollbench import backends
from unrollbench.errors import BackendUnavailable

FRAMEWORKS: tuple[str, ...] = ("numba_cuda", "tensorflow", "keras", "jax", "torch", "onnx", "openvino")
FRAMEWORKS += ("flashrnn", "flashrnn_alternating", "flashrnn_triton")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a framework fails as it does where it is not installed, whether or not it is."""
    absent = {
        "tensorflow",
        "tf_keras",
        "keras",
        "jax",
        "jaxlib",
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "flashrnn",
    }
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        # numba-cuda takes the place of numba.cuda, and brings the part of it that is wanted.
        if name.partition(".")[0] in absent or name.startswith("numba.cuda.core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    for name in FRAMEWORKS:
        monkeypatch.delitem(sys.modules, backends.BUILT_IN[name].partition(":")[0], raising=False)


def test_every_built_in_backend_can_be_named() -> None:
    assert set(FRAMEWORKS) | {"numba_cpu"} <= set(backends.names())


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_told_with_the_command_that_installs_it(name: str) -> None:
    with pytest.raises(BackendUnavailable) as raised:
        backends.load(name)
    message = str(raised.value)
    assert message.startswith(f"backend {name!r}: No module named ")
    assert f"pip install 'unrollbench[{backends.EXTRAS[name]}]'" in message


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_availability_has_the_reason_and_does_not_raise(name: str) -> None:
    found = backends.availability(name)
    assert found.versions == {}
    assert found.reason is not None
    assert "pip install" in found.reason


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BackendUnavailable, match=r"unknown; expected one of .*numba_cpu"):
        backends.load("no_such_backend")

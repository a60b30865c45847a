"""Which device a program runs on: what is missing is told, and no device stands in for another."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from unrollbench import backends, rnn
from unrollbench.errors import ArgumentError, BackendUnavailable, OrderError
from unrollbench.rnn import devices


def compiled(device: Any, **arguments: Any) -> rnn.Program:
    return rnn.compile(rnn.GRUCell(2), **{"batch_size": 2, "input_size": 3, "device": device, **arguments})


@pytest.fixture
def no_cuda_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba-cuda is missing, whether it is installed or not; numba's own part of it is there."""
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("numba.cuda.core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    monkeypatch.delitem(sys.modules, "unrollbench.backends.numba_cuda", raising=False)


@pytest.mark.parametrize("device", ["gpu", "CUDA", None, 0])
def test_an_unknown_device_is_named_with_those_that_there_are(device: Any) -> None:
    with pytest.raises(ArgumentError, match=f"device: got {device!r}, wanted one of 'cpu', 'cuda'"):
        compiled(device)


@pytest.mark.usefixtures("no_cuda_package")
@pytest.mark.parametrize("batch_size", [2, 0])
def test_without_the_extra_cuda_is_refused_with_what_installs_it(batch_size: int) -> None:
    cell = rnn.GRUCell(2)
    with pytest.raises(BackendUnavailable, match=r"backend 'numba_cuda': .*pip install 'unrollbench\[cuda\]'"):
        rnn.compile(cell, batch_size=batch_size, input_size=3, device="cuda")
    assert not cell.built


def test_what_a_backend_says_is_missing_is_what_compile_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise BackendUnavailable(f"backend {name!r}: no driver here")

    monkeypatch.setattr(backends, "load", load)
    with pytest.raises(BackendUnavailable, match="backend 'numba_cuda': no driver here"):
        compiled("cuda")


@pytest.mark.parametrize("threads", [2, 64])
def test_threads_beside_a_gpu_are_refused_with_the_reason(threads: int) -> None:
    with pytest.raises(ArgumentError, match=f'threads: got {threads} with device="cuda", wanted None or 1: one thread'):
        compiled("cuda", threads=threads)


def test_threads_are_one_on_cuda_and_what_was_asked_or_all_on_the_processor() -> None:
    asked: list[tuple[str, int | None]] = [("cuda", None), ("cuda", 1), ("cpu", None), ("cpu", 3)]
    assert [devices.host_threads(device, threads, 7) for device, threads in asked] == [1, 1, 7, 3]


def test_the_processor_is_the_default_and_every_device_has_a_backend() -> None:
    with compiled("cpu", threads=1) as given, rnn.compile(rnn.GRUCell(2), batch_size=2, input_size=3, threads=1) as own:
        assert (given.settings, own.settings.device) == (own.settings, "cpu")
    assert set(devices.BACKENDS.values()) <= set(backends.BUILT_IN)


def test_importing_the_face_loads_nothing_of_cuda() -> None:
    code = "import sys; from unrollbench import rnn; print(*[name for name in sys.modules if 'cuda' in name])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # numba-cuda's .pth file loads this one when Python starts; it has no part of CUDA in it.
    assert set(done.stdout.split()) <= {"_numba_cuda_redirector"}


def test_a_call_that_fails_leaves_no_gradients_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the call before it would be taken for its own."""
    inputs = np.ones((2, 4, 3), np.float32)
    with compiled("cpu", mode="train", threads=1) as program:
        program(inputs)

        def full(*arguments: Any) -> Any:
            raise MemoryError("no room")

        with monkeypatch.context() as patched:
            patched.setattr(program._network, "forward", full)
            with pytest.raises(MemoryError, match="no room"):
                program(inputs)
        with pytest.raises(OrderError, match="that call failed"):
            program.backward()
        program(inputs)
        assert program.backward().inputs.shape == inputs.shape

"""What is known of the GPUs, and the exact reason where nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.measure.fake_nvml import FakeNvml, nvml
from unrollbench.errors import BackendUnavailable
from unrollbench.measure.gpu import gpu_facts, load_driver, open_nvml


def absent(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_a_machine_s_gpus_are_told_with_their_driver() -> None:
    facts, reason = gpu_facts(lambda: nvml(FakeNvml(devices=2)))
    assert facts is not None
    assert reason == ""
    assert (facts["driver"], facts["cuda"], set(facts)) == ("580.65.06", "13.0", {"driver", "cuda", "0", "1"})
    assert facts["0"] == {
        "name": "Some GPU",
        "memory_bytes": 80 << 30,
        "compute_capability": "9.0",
        "sm_mhz_max": 2000,
        "memory_mhz_max": 4000,
        "power_limit_w": 700.0,
        "ecc": True,
        "mig": False,
    }


def test_what_a_device_does_not_tell_is_none() -> None:
    silent = ("nvmlDeviceGetEccMode", "nvmlDeviceGetMemoryInfo", "nvmlSystemGetCudaDriverVersion")
    facts, _ = gpu_facts(lambda: nvml(FakeNvml(silent)))
    assert facts is not None
    assert facts["cuda"] is None
    assert (facts["0"]["ecc"], facts["0"]["memory_bytes"], facts["0"]["name"]) == (None, None, "Some GPU")


def test_without_a_driver_the_missing_library_is_named() -> None:
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA driver: libno_such_driver\.so\.1: .*; install the driver"):
        load_driver("libno_such_driver.so.1")


def test_without_the_package_the_command_is_told() -> None:
    with pytest.raises(BackendUnavailable, match=r"nvidia-ml-py is not installed .*pip install 'unrollbench\[cuda\]'"):
        open_nvml(driver=lambda: None, load=absent)


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (FakeNvml(devices=0), "the NVIDIA driver sees no device"),
        (FakeNvml(("nvmlInit",)), "the NVIDIA driver does not answer: Not Supported"),
    ],
)
def test_a_driver_without_a_device_is_told_apart_from_one_that_fails(library: FakeNvml, reason: str) -> None:
    facts, told = gpu_facts(lambda: open_nvml(driver=lambda: None, load=lambda name: library))
    assert (facts, told) == (None, reason)

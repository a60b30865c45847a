from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unrollbench.measure.environment import FINGERPRINTED, environment, fingerprint, fingerprinted, steal_ticks

CPUINFO = (
    "processor: 0\nmodel name\t: Some CPU\ncpu MHz : 2100.5\nflags : avx2 fma hypervisor avx512f\n\nprocessor: 1\n"
)


def machine(root: Path) -> Path:
    """A root folder that describes a virtual machine with a governor and turbo."""
    files = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n",
        "proc/stat": "cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1\n",
        "proc/loadavg": "0.50 0.4 0.3 1/2 3\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
        "sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
        "sys/devices/system/cpu/cpu0/cache/index0/type": "Data\n",
        "sys/devices/system/cpu/cpu0/cache/index0/size": "48K\n",
        "sys/class/dmi/id/sys_vendor": "Vendor\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def one_gpu() -> tuple[Any, str]:
    return {"driver": "580.65.06", "cuda": "13.0", "0": {"name": "Some GPU", "memory_bytes": 80 << 30}}, ""


def no_gpu() -> tuple[Any, str]:
    return None, "no NVIDIA driver: libcuda.so.1"


def test_the_machine_is_read_from_the_system_s_files(tmp_path: Path) -> None:
    variables = {"OMP_NUM_THREADS": "2", "HOME": "/home", "CUDA_VISIBLE_DEVICES": "0"}
    facts = environment(machine(tmp_path), variables, find_gpus=one_gpu).facts
    expected = {
        "cpu_model": "Some CPU",
        "cpu_vectors": ["avx2", "fma", "avx512f"],
        "cpu_mhz": 2100.5,
        "caches": {"L1d": "48K"},
        "governor": "performance",
        "turbo": True,
        "hypervisor": "Vendor",
        "memory_bytes": 2 << 30,
        "huge_pages": "madvise",
        "steal_fraction": 0.1,
        "load_1m": 0.5,
        "settings": {"OMP_NUM_THREADS": "2"},
        "cuda_settings": {"CUDA_VISIBLE_DEVICES": "0"},
        "gpu": one_gpu()[0],
        "unknown": {},
    }
    assert {name: facts[name] for name in expected} == expected
    assert {"numba", "llvmlite", "numpy"} <= set(facts["versions"])


def test_what_cannot_be_read_is_unknown_with_its_reason(tmp_path: Path) -> None:
    facts = environment(tmp_path, {}).facts
    assert facts["governor"] is None
    assert facts["steal_fraction"] is None
    assert {"governor", "turbo", "caches", "memory_bytes", "steal_fraction"} <= set(facts["unknown"])
    assert all(facts["unknown"].values())


def test_a_machine_without_a_gpu_says_why(tmp_path: Path) -> None:
    facts = environment(machine(tmp_path), {}, find_gpus=no_gpu).facts
    assert facts["gpu"] is None
    assert facts["unknown"] == {"gpu": "no NVIDIA driver: libcuda.so.1"}


def test_a_gpu_is_part_of_the_fingerprint_only_where_cases_run_on_it(tmp_path: Path) -> None:
    def of(find_gpus: Any, *devices: str, **variables: str) -> str:
        return environment(machine(tmp_path), variables, devices=devices, find_gpus=find_gpus).fingerprint

    assert of(one_gpu, "cpu") == of(no_gpu, "cpu") == of(one_gpu, "cpu", CUDA_LAUNCH_BLOCKING="1")
    with_cuda = of(one_gpu, "cpu", "cuda"), of(no_gpu, "cuda"), of(one_gpu, "cuda", CUDA_LAUNCH_BLOCKING="1")
    assert len({of(one_gpu, "cpu"), *with_cuda}) == 4


def test_the_facts_are_plain_json(tmp_path: Path) -> None:
    facts = environment(machine(tmp_path), {}).facts
    assert json.loads(json.dumps(facts)) == facts


def test_the_fingerprint_changes_with_what_changes_results_and_with_nothing_else(tmp_path: Path) -> None:
    here = environment(machine(tmp_path), {})
    facts = dict(here.facts)
    assert fingerprint(facts | {"load_1m": 9.0, "hostname": "other", "unrollbench": "9.9"}) == here.fingerprint
    changed = [fingerprint(facts | {name: "changed"}) for name in FINGERPRINTED]
    changed.append(fingerprint(facts | {"memory_bytes": 4 << 30}))
    assert len({here.fingerprint, *changed}) == len(FINGERPRINTED) + 2


def test_everything_in_the_fingerprint_is_a_fact(tmp_path: Path) -> None:
    assert set(fingerprinted(("cpu", "cuda"))) <= set(environment(machine(tmp_path), {}).facts)


def test_steal_time_is_told_apart_from_guests(tmp_path: Path) -> None:
    assert steal_ticks(machine(tmp_path)) == (10, 100)
    assert steal_ticks(tmp_path / "nowhere") is None

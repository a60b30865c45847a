"""The machine and its software: everything that can change a measurement, and a fingerprint of what must not differ."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unrollbench.measure.affinity import usable_cpus
from unrollbench.measure.gpu import gpu_facts
from unrollbench.measure.memory import ROOT, kilobytes
from unrollbench.records import Environment

PACKAGES: tuple[str, ...] = ("numba", "llvmlite", "numpy", "tensorflow-cpu", "tensorflow", "tf_keras", "jax", "jaxlib")
PACKAGES += ("torch", "onnx", "onnxruntime", "openvino")
"""Distributions that compute something that is measured; those that are not installed are left out."""

CUDA_PACKAGES: tuple[str, ...] = ("numba-cuda", "nvmath-python", "cuda-bindings", "nvidia-cublas", "nvidia-cublas-cu12")
CUDA_PACKAGES += ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "jax-cuda12-plugin", "jax-cuda13-plugin", "triton")
CUDA_PACKAGES += ("flashrnn",)
"""The same, of what computes on a GPU only."""

SETTINGS: tuple[str, ...] = ("OMP_", "MKL_", "OPENBLAS_", "NUMBA_", "KMP_", "GOMP_", "XLA_", "JAX_", "MALLOC_")
SETTINGS += ("LD_PRELOAD", "TF_ENABLE_ONEDNN_OPTS", "TF_XLA_FLAGS", "TF_NUM_", "TF_USE_LEGACY_KERAS")
"""Prefixes of environment variables that change how the measured libraries compute or allocate."""

CUDA_SETTINGS: tuple[str, ...] = ("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE")
"""The same of the libraries that measure on a GPU."""

VECTORS: tuple[str, ...] = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_bf16")
VECTORS += ("amx_tile", "asimd", "sve")
"""The processor flags that decide which vector code a compiler may emit."""

FINGERPRINTED: tuple[str, ...] = ("machine", "cpu_model", "cpu_vectors", "cpus_usable", "caches", "hypervisor")
FINGERPRINTED += ("governor", "turbo", "kernel", "libc", "python", "versions", "settings")
"""Facts that must be equal where results are compared. unrollbench's own version is not one: it is what is compared."""

FINGERPRINTED_WITH_CUDA: tuple[str, ...] = ("gpu", "cuda_versions", "cuda_settings")
"""Facts that must be equal as well where cases run on a GPU; a new driver does not part runs on the processor."""


def environment(
    root: Path = ROOT,
    variables: Mapping[str, str] = os.environ,
    *,
    devices: Collection[str] = ("cpu",),
    find_gpus: Callable[[], tuple[Any, str]] = gpu_facts,
) -> Environment:
    """What is known of this machine now. A fact that cannot be read is None, with the reason in facts["unknown"].

    devices: those that cases run on; what they do not run on is no part of the fingerprint.
    """
    facts: dict[str, Any] = dict(_software(variables))
    unknown: dict[str, str] = {}
    for name, (value, reason) in (*_machine(root), ("gpu", find_gpus())):
        facts[name] = value
        if value is None:
            unknown[name] = reason
    facts["unknown"] = unknown
    return Environment(fingerprint(facts, devices), facts)


def fingerprinted(devices: Collection[str] = ("cpu",)) -> tuple[str, ...]:
    """The facts that must be equal where results on these devices are compared."""
    return FINGERPRINTED + FINGERPRINTED_WITH_CUDA if "cuda" in devices else FINGERPRINTED


def fingerprint(facts: Mapping[str, Any], devices: Collection[str] = ("cpu",)) -> str:
    """Twelve hex digits, equal where all of `fingerprinted` and the installed memory (in GiB) are equal."""
    told = {name: facts.get(name) for name in fingerprinted(devices)}
    told["memory_gib"] = round((facts.get("memory_bytes") or 0) / 2**30)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def steal_ticks(root: Path = ROOT) -> tuple[int, int] | None:
    """Ticks that the hypervisor gave to others, and all ticks, of all processors since the start; None if unknown."""
    try:
        fields = [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except (OSError, ValueError):
        return None
    # cpu user nice system idle iowait irq softirq steal guest guest_nice; guest time is already in user.
    return (fields[7], sum(fields[:8])) if len(fields) >= 8 else None


def _software(variables: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    yield "machine", platform.machine()
    yield "hostname", socket.gethostname()
    yield "kernel", f"{platform.system()} {platform.release()}"
    yield "libc", " ".join(platform.libc_ver())
    yield "python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "interpreter", sys.executable
    yield "unrollbench", _version("unrollbench")
    yield "versions", _versions(PACKAGES)
    yield "cuda_versions", _versions(CUDA_PACKAGES)
    yield "settings", {k: v for k, v in sorted(variables.items()) if k.startswith(SETTINGS)}
    yield "cuda_settings", {k: v for k, v in sorted(variables.items()) if k.startswith(CUDA_SETTINGS)}
    yield "cpu_count", os.cpu_count()
    yield "cpus_usable", len(usable_cpus())


def _machine(root: Path) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Fact -> (value or None, what it would be read from)."""
    cpu = _cpu(root)
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    yield "cpu_model", (cpu.get("model name") or platform.processor() or None, "no model name in proc/cpuinfo")
    yield "cpu_vectors", ([flag for flag in VECTORS if flag in flags] or None, "no flags in proc/cpuinfo")
    yield "cpu_mhz", (_number(cpu.get("cpu MHz")), "no cpu MHz in proc/cpuinfo")
    yield "caches", (_caches(root), "no sys/devices/system/cpu/cpu0/cache")
    cpu0 = root / "sys/devices/system/cpu/cpu0"
    yield "governor", (_text(cpu0 / "cpufreq/scaling_governor"), "no cpufreq: a virtual machine hides it")
    yield "turbo", (_turbo(root), "neither intel_pstate/no_turbo nor cpufreq/boost: a virtual machine hides it")
    yield "hypervisor", (_hypervisor(root, flags), "no flags in proc/cpuinfo")
    yield "memory_bytes", (kilobytes(root / "proc/meminfo").get("MemTotal"), "no MemTotal in proc/meminfo")
    yield "memory_available_bytes", (kilobytes(root / "proc/meminfo").get("MemAvailable"), "no proc/meminfo")
    yield "huge_pages", (_chosen(root / "sys/kernel/mm/transparent_hugepage/enabled"), "no transparent_hugepage")
    ticks = steal_ticks(root)
    yield "steal_fraction", (ticks[0] / max(1, ticks[1]) if ticks else None, "no steal time in proc/stat")
    load = (_text(root / "proc/loadavg") or "").split()
    yield "load_1m", (_number(load[0]) if load else None, "no proc/loadavg")


def _cpu(root: Path) -> Mapping[str, str]:
    """The first processor's lines of cpuinfo."""
    first = (_text(root / "proc/cpuinfo") or "").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _caches(root: Path) -> dict[str, str] | None:
    """Level and type -> size of each cache of the first processor, as "L1d": "48K"."""
    caches = {}
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(_text(folder / "type") or "", "")
        caches[f"L{_text(folder / 'level')}{kind}"] = _text(folder / "size") or ""
    return caches or None


def _turbo(root: Path) -> bool | None:
    folder = root / "sys/devices/system/cpu"
    off = _text(folder / "intel_pstate/no_turbo")
    if off is not None:
        return off == "0"
    on = _text(folder / "cpufreq/boost")
    return None if on is None else on == "1"


def _hypervisor(root: Path, flags: list[str]) -> str | None:
    """ "none" on bare metal, else the vendor as far as the firmware names it."""
    if not flags:
        return None
    if "hypervisor" not in flags:
        return "none"
    return _text(root / "sys/class/dmi/id/sys_vendor") or _text(root / "sys/hypervisor/type") or "unnamed"


def _chosen(path: Path) -> str | None:
    """The bracketed word of a sysfs choice such as `always [madvise] never`."""
    text = _text(path)
    return text.partition("[")[2].partition("]")[0] if text else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: found for name in names if (found := _version(name)) is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

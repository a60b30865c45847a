"""What the host's vector unit is, as LLVM detects it, its caches, and whether it has a matrix unit."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llvmlite import binding
from numba.core import config

from unrollbench.case import DTYPES

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18
"""Linux's system call by which a process asks to use the matrix unit, whose registers take 8 KiB per thread."""


@dataclass(frozen=True)
class VectorUnit:
    """width_bytes of one register, how many there are, and whether AVX-512F's own instructions may be used.

    Those are an estimate of 1/x, and one that takes for each lane an element of its choice out of a register.
    """

    width_bytes: int
    registers: int
    avx512: bool


@cache
def vector_unit() -> VectorUnit:
    """The widest unit that LLVM will generate code for on this host.

    Where Numba is told to make code for a processor with other features, that may lack AVX-512F's own instructions.
    """
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return VectorUnit(64, 32, config.CPU_FEATURES is None and bool(config.ENABLE_AVX))
    if features.get("avx"):
        return VectorUnit(32, 16, False)
    return VectorUnit(16, 32 if features.get("neon") else 16, False)


@cache
def second_level_cache_bytes() -> int:
    """Bytes of one core's second-level cache, as Linux tells; where it does not, what most have at least."""
    return _cache_bytes(2, 1024 * 1024)


@cache
def third_level_cache_bytes() -> int:
    """Bytes of the cache that a core shares with others, as Linux tells; where it does not, what most servers have."""
    return _cache_bytes(3, 16 * 1024 * 1024)


def _cache_bytes(level: int, otherwise: int) -> int:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/index{level}/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return otherwise


def lanes(dtype: str) -> int:
    """Elements of dtype in one register."""
    return vector_unit().width_bytes // DTYPES[dtype]


@cache
def matrix_unit() -> bool:
    """Whether there is a unit that multiplies tiles of bfloat16 (x86's AMX), and Linux lets this process use it.

    It asks for that. There is none where Numba is told to make code for another processor.
    """
    features, unit = binding.get_host_cpu_features(), ("amx-bf16", "amx-tile", "avx512f")
    if platform.system() != "Linux" or not is_x86() or not all(features.get(name) for name in unit):
        return False
    if config.CPU_NAME is not None or config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0


@cache
def adds_apart() -> bool:
    """Whether vectors are added by units beside those that multiply, as fast as these, and both can be fed: `pairs`.

    So it is on AMD's Zen 4. Zen 5 has such units too, but was not measured; others add where they multiply.
    """
    unit = vector_unit()
    return binding.get_host_cpu_name() == "znver4" and unit.avx512 and config.CPU_NAME is None


def is_x86() -> bool:
    """Whether this is an x86-64 machine."""
    return platform.machine().lower() in ("x86_64", "amd64")

"""Resident memory of this process by phase, and how much memory the machine has left.

Not `ru_maxrss`: a child inherits it from its parent across exec, and nothing resets it.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/")
RESET_PEAK = "5"
"""What proc(5) says to write into clear_refs to set VmHWM back to the present resident size."""


class PeakMemory:
    """The peak of resident memory since the last `reset`, from VmHWM.

    `why_unknown` is the reason why `bytes` is None, or None while all is well.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._clear_refs = root / "proc/self/clear_refs"
        self._status = root / "proc/self/status"
        self.why_unknown: str | None = "the peak was never reset"

    def reset(self) -> None:
        """The peak starts again from the present resident size; what was freed has gone back to the system."""
        gc.collect()
        _return_freed_memory()
        try:
            self._clear_refs.write_text(RESET_PEAK)
        except OSError as error:
            self.why_unknown = f"VmHWM cannot be reset: {self._clear_refs}: {error.strerror}"
        else:
            self.why_unknown = None

    def bytes(self) -> int | None:
        """The peak since `reset`; None if it could not be reset, as it would be the peak of something else."""
        if self.why_unknown is not None:
            return None
        peak = kilobytes(self._status).get("VmHWM")
        if peak is None:
            self.why_unknown = f"{self._status} has no VmHWM"
        return peak


def kilobytes(path: Path) -> Mapping[str, int]:
    """The `Name: 123 kB` lines of a proc file, in bytes; empty where the file does not exist."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def available_bytes(root: Path = ROOT) -> int | None:
    """Memory that a new process can use: the machine's, or what the control group leaves of it; None where unknown."""
    limits = [kilobytes(root / "proc/meminfo").get("MemAvailable"), _group_bytes(root)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes the system has killed since its start because memory ran out; None where it does not tell."""
    try:
        words = (root / "proc/vmstat").read_text().split()
    except OSError:
        return None
    counters = dict(zip(words[::2], words[1::2], strict=True))
    return int(counters["oom_kill"]) if "oom_kill" in counters else None


def _group_bytes(root: Path) -> int | None:
    """What the control group (version 2, then 1) still allows, or None where it sets no limit."""
    for folder, limit_name, used_name in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit = (root / folder / limit_name).read_text().strip()
            used = (root / folder / used_name).read_text().strip()
        except OSError:
            continue
        if limit != "max":
            return max(0, int(limit) - int(used))
    return None


def _return_freed_memory() -> None:
    """Freed heap pages are back with the system: one phase's garbage is not the next phase's memory (glibc only)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

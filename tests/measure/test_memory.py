from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import unrollbench
from unrollbench.measure.memory import PeakMemory, available_bytes, kilobytes, oom_kills

MIB = 1 << 20


def proc(root: Path, **files: str) -> Path:
    """A root folder with these files in proc/self."""
    folder = root / "proc/self"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return root


def test_the_peak_is_that_of_its_own_phase() -> None:
    memory = PeakMemory()
    memory.reset()
    before = memory.bytes()
    np.ones(64 * MIB, np.uint8)
    large = memory.bytes()
    memory.reset()
    after = memory.bytes()
    assert sys.platform != "linux" or None not in (before, large, after)
    if before is not None and large is not None and after is not None:
        assert large - before >= 63 * MIB
        assert large - after >= 63 * MIB


def test_the_reset_is_a_five_written_to_clear_refs(tmp_path: Path) -> None:
    root = proc(tmp_path, status="Name:\tx\nVmHWM:\t  12 kB\nVmRSS:\t  10 kB\n", clear_refs="")
    memory = PeakMemory(root)
    memory.reset()
    assert (root / "proc/self/clear_refs").read_text() == "5"
    assert (memory.bytes(), memory.why_unknown) == (12 * 1024, None)


def test_without_a_reset_the_peak_is_unknown_and_the_reason_is_told(tmp_path: Path) -> None:
    memory = PeakMemory(tmp_path)
    assert (memory.bytes(), memory.why_unknown) == (None, "the peak was never reset")
    memory.reset()
    assert memory.bytes() is None
    assert "clear_refs: No such file" in (memory.why_unknown or "")


def test_a_status_without_the_peak_is_unknown(tmp_path: Path) -> None:
    memory = PeakMemory(proc(tmp_path, status="Name:\tx\n", clear_refs=""))
    memory.reset()
    assert memory.bytes() is None
    assert "no VmHWM" in (memory.why_unknown or "")


def test_ru_maxrss_is_used_nowhere() -> None:
    sources = Path(unrollbench.__file__).parent.rglob("*.py")
    users = [path.name for path in sources if "getrusage" in path.read_text()]
    assert users == []


def test_available_memory_is_the_machine_s_or_what_the_control_group_leaves(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert available_bytes(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available_bytes(tmp_path) == 8000 * 1024
    (group / "memory.max").write_text("5000\n")
    assert available_bytes(tmp_path) == 4000


def test_kilobyte_lines_are_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("A:  1 kB\nB: 2\nC: 3 kB\n")
    assert kilobytes(tmp_path / "file") == {"A": 1024, "C": 3072}


def test_kills_for_want_of_memory_are_counted_where_the_system_counts_them(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("pgfault 5\noom_kill 2\n")
    assert oom_kills(tmp_path) == 2
    (tmp_path / "proc/vmstat").write_text("pgfault 5\n")
    assert oom_kills(tmp_path) is None

"""Which processors a case may use: as many as it has threads, so that no run migrates and no case takes more."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

from unrollbench.measure.memory import ROOT


def usable_cpus() -> tuple[int, ...]:
    """The processors that this process may run on."""
    if sys.platform == "linux":
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def chosen_cpus(count: int, usable: Collection[int], root: Path = ROOT) -> tuple[int, ...] | None:
    """`count` of the usable processors; None if there are fewer.

    One hardware thread of every core comes before the second of any, and higher numbers first: processor 0 serves most
    interrupts.
    """
    if count > len(usable):
        return None
    seen: dict[str, int] = {}
    order = []
    for cpu in sorted(usable, reverse=True):
        core = _siblings(cpu, root)
        seen[core] = seen.get(core, 0) + 1
        order.append((seen[core], -cpu))
    return tuple(sorted(-cpu for _, cpu in sorted(order)[:count]))


def pin(cpus: Collection[int]) -> str | None:
    """This process and the threads it starts from now on run on those processors only; else the reason why not."""
    if sys.platform != "linux":
        return f"{sys.platform} cannot pin a process to processors"
    os.sched_setaffinity(0, cpus)
    return None


def _siblings(cpu: int, root: Path) -> str:
    """The hardware threads of the processor's core, or its own number where the topology is not told."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)

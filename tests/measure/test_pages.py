"""A fork that takes its parent's pages has the parent's resident memory, and copies nothing later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, resource
from pathlib import Path
import numpy as np
from unrollbench.measure.memory import kilobytes
from unrollbench.measure.pages import present, take

def resident(): return kilobytes(Path("/proc/self/status"))["VmRSS"]

heap = np.ones(64 << 20, np.uint8)
pages = present()
before = resident()
pid = os.fork()
if pid == 0:
    take(pages)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    heap[:] = 2
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(abs(resident() - before) < 4 << 20, faults < 1000, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(int(heap.sum()) == heap.size, sum(one.size_bytes for one in pages) <= before + (4 << 20))
"""


def test_a_fork_has_its_parent_s_pages_and_its_own_copies_of_them() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True True", "True True"]

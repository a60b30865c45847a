"""The conformance checks of one backend in a process of its own: frameworks keep process-wide state and change it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """
import json, sys
from unrollbench.conformance import checks
for check in checks(sys.argv[1]):
    print(json.dumps([check.name, check.status, check.reason, check.case.mode]), flush=True)
"""


@dataclass(frozen=True)
class Records:
    """What came of each statement, by its name: the mode in which it held, or the reason."""

    passed: dict[str, str]
    failed: dict[str, str]
    skipped: dict[str, str]

    def executions(self, mode: str) -> set[str]:
        """The executions of which any statement held in that mode."""
        return {name.split(":")[0] for name, own in self.passed.items() if own == mode and ":" in name}


def records(backend: str, *, warnings: str = "error") -> Records:
    """Every statement about the backend. Warnings are errors unless the framework is known to warn about itself."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": warnings}
    command = [sys.executable, "-c", _PROGRAM, backend]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    result = Records({}, {}, {})
    for line in done.stdout.splitlines():
        name, status, reason, mode = json.loads(line)
        getattr(result, status)[name] = mode if status == "passed" else reason
    return result

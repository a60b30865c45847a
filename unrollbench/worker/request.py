"""What a worker is asked to do, as it travels to its process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unrollbench.case import Case, from_json, to_json

DISMISSED = "null\n"
"""The line in place of a request that ends a fork server in good order."""


@dataclass(frozen=True)
class Request:
    """Measure one case in one process.

    timeout_s bounds the case's own cost: import, build and runs. The check against the reference is the harness's own,
    is not counted and has its own limit.
    """

    case: Case
    repeat: int = 0
    min_samples: int = 5
    min_time_s: float = 0.1
    timeout_s: float = 60.0

    def to_line(self) -> str:
        """One line of JSON, newline included; `from_line` returns an equal request."""
        return json.dumps(asdict(self) | {"case": to_json(self.case)}) + "\n"

    @staticmethod
    def from_line(line: str) -> Request:
        data: Mapping[str, Any] = json.loads(line)
        return Request(**{**data, "case": from_json(data["case"])})

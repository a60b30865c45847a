"""Questions to a backend, answered in a process of its own, so that the asking one stays light and cannot crash.

python -m unrollbench.probe <  {"listing": CASE}, {"availability": NAME} or {"ceilings": THREADS}
                            >  one line of JSON: {"answer": ...} or {"error": REASON}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from unrollbench.backends import Availability, Listing
from unrollbench.case import Case, from_json, to_json
from unrollbench.errors import UnrollbenchError
from unrollbench.records import Ceiling

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from unrollbench.probe import main; main()"
"""Finds the same modules as this process, however it found them."""
LAST_LINES = 15
"""How much of what a dead process printed is told; the end has the cause."""


def listing(case: Case) -> Listing:
    """What is built for the case. Raises UnrollbenchError where the backend is missing, refuses it or fails."""
    return Listing(**_ask({"listing": to_json(case)}))


def availability(name: str) -> Availability:
    """Whether the backend can be loaded here; a crash while loading it is a reason too."""
    try:
        return Availability(**_ask({"availability": name}))
    except UnrollbenchError as error:
        return Availability(name, reason=str(error))


def ceilings(threads: int) -> tuple[Ceiling, ...]:
    """This machine's limits, measured with that many threads, each on a processor of its own."""
    return tuple(Ceiling(**found) for found in _ask({"ceilings": threads})["ceilings"])


def main() -> None:
    """Answers the one question on standard input, on standard output; what libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        try:
            reply: Mapping[str, Any] = {"answer": _answer(json.load(sys.stdin))}
        except (UnrollbenchError, MemoryError) as error:
            reply = {"error": str(error) or "out of memory"}
        replies.write(json.dumps(reply) + "\n")


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    from unrollbench import backends
    from unrollbench.tensors import draw

    if "ceilings" in question:
        from unrollbench.kernels import ceilings as limits

        return {"ceilings": [asdict(found) for found in limits.measure(question["ceilings"])]}
    if "availability" in question:
        found = backends.availability(question["availability"])
        return asdict(found) | {"versions": dict(found.versions)}
    case = from_json(question["listing"])
    backend = backends.load(case.backend)
    reason = backend.why_not(case)
    if reason is not None:
        raise UnrollbenchError(f"{case.backend} cannot run this case: {reason}")
    program = backend.build(case, draw(case))
    try:
        return asdict(program.listing())
    finally:
        program.close()


def _ask(question: Mapping[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", BOOT, json.dumps(sys.path)],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        errors="backslashreplace",
    )
    if done.returncode == 0 and done.stdout:
        reply = json.loads(done.stdout)
        if "error" in reply:
            raise UnrollbenchError(reply["error"])
        answer: dict[str, Any] = reply["answer"]
        return answer
    said = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
    raise UnrollbenchError(f"the backend's process {_end(done.returncode)}; the last that it said:\n{said}")


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


if __name__ == "__main__":
    main()

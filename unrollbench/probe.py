"""Questions to a backend, answered in a process of its own, so that the asking one stays light and cannot crash.

question   {"listing": CASE}, {"availability": NAME}, {"ceilings": WANTED} or
           {"conformance": NAME, "device": DEVICE or null}
answer     lines of JSON: {"answer": ...}, one or, for conformance, one per statement; or {"error": REASON}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from unrollbench.backends import Availability, Listing
from unrollbench.case import Case, from_json, to_json
from unrollbench.errors import UnrollbenchError
from unrollbench.measure.affinity import chosen_cpus, pin, usable_cpus
from unrollbench.measure.gpu import load_driver
from unrollbench.measure.gpu_clocks import ClockWatch
from unrollbench.records import Ceiling, Check, ceiling_from_json
from unrollbench.roofline import Wanted

BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from unrollbench.probe import main; main(sys.argv[2])"
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


def ceilings(wanted: Sequence[Wanted], try_s: float | None = None) -> tuple[Ceiling, ...]:
    """This machine's limits, each thread on a processor of its own; `try_s` is a tenth of the seconds for each.

    Raises UnrollbenchError, those of a GPU with the driver's reason where there is none.
    """
    question = {"ceilings": [asdict(one) for one in wanted], "try_s": try_s}
    return tuple(ceiling_from_json(found) for found in _ask(question)["ceilings"])


def conformance(name: str, device: str | None = None) -> Iterator[Check]:
    """Every statement that a backend must hold, as soon as it is known. Raises UnrollbenchError if it cannot run."""
    for found in _stream({"conformance": name, "device": device}):
        yield Check(**found | {"case": from_json(found["case"])})


def main(question: str) -> None:
    """Answers the question, as JSON, on standard output; what libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        try:
            for answer in _answers(json.loads(question)):
                replies.write(json.dumps({"answer": answer}) + "\n")
                replies.flush()
        except (UnrollbenchError, MemoryError) as error:
            replies.write(json.dumps({"error": str(error) or "out of memory"}) + "\n")


def _answers(question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "conformance" in question:
        from unrollbench import conformance as conforming

        for found in conforming.checks(question["conformance"], question["device"]):
            yield asdict(found) | {"case": to_json(found.case)}
    else:
        yield _answer(question)


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    from unrollbench import backends
    from unrollbench.tensors import draw

    if "ceilings" in question:
        found = (_measured(Wanted(**one), question["try_s"]) for one in question["ceilings"])
        return {"ceilings": [asdict(ceiling) for measured in found for ceiling in measured]}
    if "availability" in question:
        available = backends.availability(question["availability"])
        return asdict(available) | {"versions": dict(available.versions)}
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


def _measured(wanted: Wanted, try_s: float | None) -> tuple[Ceiling, ...]:
    return tuple((_of_gpu if wanted.device == "cuda" else _of_processors)(wanted, try_s))


def _of_processors(wanted: Wanted, try_s: float | None) -> Iterator[Ceiling]:
    """On the processors that a case with as many threads gets: others may share cores, or be slower."""
    from unrollbench.kernels import ceilings as limits

    usable, threads = usable_cpus(), wanted.threads or 1
    pin(chosen_cpus(threads, usable) or usable)
    try:
        yield from limits.measure(threads, wanted.dtype, wanted.sizes_bytes, try_s)
    finally:
        pin(usable)


def _of_gpu(wanted: Wanted, try_s: float | None) -> Iterator[Ceiling]:
    """Each with what held the clocks down right before or after it. Raises BackendUnavailable."""
    from unrollbench import backends

    load_driver()
    ours: Any = backends.load("numba_cuda")
    watch = ClockWatch()
    watch.start()
    for found in ours.ceilings(wanted.dtype, wanted.sizes_bytes, try_s):
        watch.stop()
        yield replace(found, throttling=watch.throttling)
        watch.start()


def _ask(question: Mapping[str, Any]) -> dict[str, Any]:
    """The one answer to the question."""
    (answer,) = _stream(question)
    return answer


def _stream(question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers, as they come. Raises UnrollbenchError on an error, or if the process ends in another way."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as log:
        command = [sys.executable, "-c", BOOT, json.dumps(sys.path), json.dumps(question)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        )
        with process, _ending(process):
            answered = False
            for line in process.stdout or ():
                reply = json.loads(line)
                if "error" in reply:
                    raise UnrollbenchError(reply["error"])
                answered = True
                yield reply["answer"]
            if process.wait() == 0 and answered:
                return
        log.seek(0)
        said = "\n".join(log.read().splitlines()[-LAST_LINES:])
    raise UnrollbenchError(f"the backend's process {_end(process.returncode)}; the last that it said:\n{said}")


@contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """The process does not outlive whoever asks it, whatever ends the asking."""
    try:
        yield
    finally:
        process.kill()


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"

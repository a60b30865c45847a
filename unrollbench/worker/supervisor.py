"""The fork server: a process with the heavy imports done, which forks one worker per case and outlives it.

    runner --- request lines -->  supervisor --- fork --->  worker --- fork --->  checker
           <-- measurement lines             <-- phases, measurement --

It has one thread, so that forking is safe, and handles one request at a time. Whatever happens to a worker becomes a
measurement with a status and a reason. When the runner goes away, the worker is killed and the supervisor ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TextIO

from unrollbench.measure.memory import oom_kills
from unrollbench.measure.pages import present
from unrollbench.records import Measurement, Status, measurement_from_json, measurement_to_json
from unrollbench.worker.process import Legacy, become_worker
from unrollbench.worker.request import DISMISSED, Request

CHECK_FLOPS_PER_S = 5e8
"""The checks may take timeout_s plus the case's flops at this rate: a tenth of what NumPy's float64 products reach."""
EXIT_S = 10.0
"""A worker that has sent its measurement gets so long to end; then it is killed, and the measurement stands."""
LOG_BYTES = 4000
"""The last bytes of what a worker printed, which go into the record when it did not end ok."""
RUNNER_GONE = "the runner is gone"


def main(expected: str, preloads: Sequence[str]) -> None:
    """Serves requests from standard input until the runner dismisses it or is gone.

    expected: the folder in which checkers keep expected results, or "" to keep none; the runner removes it, but if the
    runner is gone this process does. preloads: `module` or `module:function`, loaded once for all workers.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not end up among the replies
    for name in preloads:
        preload(name)
    gc.collect()
    gc.freeze()  # a worker that collects garbage does not go through what was imported here
    _reply(replies, {"threads": _threads()})
    folder = Path(expected) if expected else None
    dismissed = serve(sys.stdin, replies, Legacy(folder, present()))
    if folder is not None and not dismissed:
        shutil.rmtree(folder, ignore_errors=True)


def _threads() -> int:
    """How many threads this process has, those of libraries included where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def preload(name: str) -> None:
    """The module is imported and its function, if one is named, called. A failing import is the worker's to report."""
    module, _, function = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        sys.stderr.write(f"preload {name}: {error}\n")
        return
    if function:
        getattr(loaded, function)()


def serve(requests: TextIO, replies: TextIO, legacy: Legacy) -> bool:
    """Answers each request line with a measurement line; true if DISMISSED ended it, false if the runner is gone."""
    for line in requests:
        if line == DISMISSED:
            return True
        measurement = supervise(Request.from_line(line), requests.fileno(), replies.fileno(), legacy)
        if measurement is None:
            return False
        _reply(replies, measurement_to_json(measurement))
    return False


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


@dataclass(frozen=True)
class Heard:
    """What a worker has told so far.

    known: what was proved right before `phase` began; final: all of it. error: the exception that ended the worker;
    out_of_memory: whether it was one of memory.
    """

    phase: str = "start"
    known: Measurement | None = None
    final: Measurement | None = None
    error: str | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class End:
    """How a worker ended: its exit status (negative: the signal), why the supervisor killed it, if it did, and whether
    the system killed a process for want of memory meanwhile (None: the system does not tell)."""

    status: int
    killed: str | None = None
    oom_killed: bool | None = False


def supervise(request: Request, runner: int, replies: int, legacy: Legacy) -> Measurement | None:
    """What came of the request in a fresh process; None if the runner wants no more, or is gone, as `runner` tells."""
    started_at, start_s = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    kills = oom_kills()
    with tempfile.TemporaryFile() as log:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            os.close(replies)
            become_worker(request, theirs, log.fileno(), legacy)
        os.close(theirs)
        with suppress(OSError):  # the worker does the same; whoever comes second finds it done, or the worker gone
            os.setpgid(pid, pid)
        heard, killed = _listen(request, ours, runner)
        os.close(ours)
        status = _ended(pid, 0.0 if killed else EXIT_S)
        if killed == RUNNER_GONE:
            return None
        kills_after = oom_kills()
        oom_killed = None if kills is None or kills_after is None else kills_after > kills
        measurement = judged(request, heard, End(status, killed, oom_killed), _tail(log))
    return replace(measurement, started_at=started_at, worker_s=time.monotonic() - start_s)


def judged(request: Request, heard: Heard, end: End, log: str) -> Measurement:
    """The measurement of a worker that ended so: its own, or what it proved before its end, with status and reason."""
    if heard.final is not None:
        return heard.final if heard.final.status == "ok" else replace(heard.final, log=log)
    status, reason = _blame(heard, end, log)
    known = heard.known or Measurement(request.case, status, repeat=request.repeat)
    return replace(known, status=status, reason=reason, log=log)


def _blame(heard: Heard, end: End, log: str) -> tuple[Status, str]:
    during = f"in phase {heard.phase!r}"
    if end.killed is not None:
        return "timeout", f"{end.killed} {during}"
    if heard.error is not None:
        return ("out_of_memory" if heard.out_of_memory else "failed"), f"{heard.error} ({during})"
    if end.status >= 0:
        return "crashed", f"the process ended itself with exit status {end.status} {during}"
    name = signal.Signals(-end.status).name
    if end.status == -signal.SIGKILL and end.oom_killed is not False:
        return "out_of_memory", f"killed by the system, which does so when memory runs out, {during} ({name})"
    if end.status == -signal.SIGABRT and any(sign in log for sign in ("bad_alloc", "out of memory", "Out of memory")):
        return "out_of_memory", f"gave up for want of memory {during} ({name})"
    sender = ", sent from outside" if end.status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT) else ""
    return "crashed", f"{name}{sender} {during}"


def _listen(request: Request, pipe: int, runner: int) -> tuple[Heard, str | None]:
    """What the worker told until it closed its end of the pipe, and why it must be killed, if it must."""
    checks_s = request.timeout_s + 2 * request.case.flops / CHECK_FLOPS_PER_S
    left_s = {"own": request.timeout_s, "checks": checks_s}
    reasons = {
        "own": f"more than timeout_s = {request.timeout_s:g}",
        "checks": f"more than {checks_s:.0f} s",
    }
    heard, pending = Heard(), b""
    while heard.final is None:
        purse = "checks" if heard.phase.startswith("check") else "own"
        start_s = time.monotonic()
        ready, _, _ = select.select([pipe, runner], [], [], max(0.0, left_s[purse]))
        left_s[purse] -= time.monotonic() - start_s
        if not ready:
            return heard, reasons[purse]
        if runner in ready:  # it asks nothing while it waits for an answer: it dismisses this process or is gone
            return heard, RUNNER_GONE
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            heard = _after(heard, json.loads(line))
    return heard, None


def _after(heard: Heard, message: dict[str, Any]) -> Heard:
    """What is known after one more of the worker's messages (see `process.become_worker`)."""
    if "error" in message:
        return replace(heard, error=message["error"], out_of_memory=message["out_of_memory"])
    told = message["measurement"]
    measurement = None if told is None else measurement_from_json(told)
    if "phase" in message:
        return replace(heard, phase=message["phase"], known=measurement or heard.known)
    return replace(heard, final=measurement)


def _ended(pid: int, patience_s: float) -> int:
    """The exit status of the worker, which has ended, killed if it took longer, as has every process of its group."""
    deadline_s = time.monotonic() + patience_s
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline_s:
        time.sleep(0.001)
    with suppress(ProcessLookupError, PermissionError):  # macOS reports a group of zombies as not permitted
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LOG_BYTES))
    return log.read().decode("utf-8", "replace").strip()

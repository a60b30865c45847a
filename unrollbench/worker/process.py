"""From a fork of the supervisor to a worker: its own process group, its own output, a limit on its memory.

Messages to the supervisor are lines of JSON: {"phase": name, "measurement": what is proved right by then, or null},
then {"measurement": all of it}, or {"error": the exception, "out_of_memory": whether it was one of memory}.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from unrollbench.measure.memory import ROOT, available_bytes, kilobytes
from unrollbench.measure.pages import Range, take
from unrollbench.records import Measurement, measurement_to_json
from unrollbench.worker.checker import Checker
from unrollbench.worker.measurement import measure
from unrollbench.worker.request import Request

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent ends."""
SPARED_FRACTION = 0.05
"""Of the memory that is available, so much is left to the checker, the runner and the rest of the machine."""
MEMORY_WORDS = (
    *("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory", "can't allocate memory"),
    *("CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "CUBLAS_STATUS_ALLOC_FAILED"),
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""How the frameworks' own exceptions, which are not MemoryError, say that an allocation failed."""


@dataclass(frozen=True)
class Legacy:
    """What every worker of a supervisor gets: the folder of expected results, if any, and the pages loaded ahead."""

    expected: Path | None
    pages: Sequence[Range]


def become_worker(request: Request, pipe: int, log: int, legacy: Legacy) -> NoReturn:
    """Measures the request, tells the supervisor through `pipe` and ends the process; prints go to `log`."""
    messages = os.fdopen(pipe, "w", encoding="utf-8")

    def tell(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    def listen(phase: str, known: Measurement | None) -> None:
        tell({"phase": phase, "measurement": None if known is None else measurement_to_json(known)})

    status = 1
    try:
        _detach(log)
        if request.case.device == "cpu":  # a GPU's driver reserves addresses by far more than it uses
            _limit_memory()
        checker = Checker(request.case, legacy.expected)
        take(legacy.pages)  # after the checker's fork, which makes every page one to be copied again
        tell({"measurement": measurement_to_json(measure(request, checker.check, listen))})
        checker.close()
        status = 0
    except BaseException as error:  # noqa: BLE001 the end of the process: the exception is told, not hidden
        traceback.print_exc()
        tell({"error": _one_line(error), "out_of_memory": _is_of_memory(error)})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _detach(log: int) -> None:
    """The process can be killed with all that it starts, dies with its supervisor, and is the first that the system
    kills when memory runs out."""
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, number)
    faulthandler.enable()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        (ROOT / "proc/self/oom_score_adj").write_text("1000")


def _limit_memory() -> None:
    """Allocations fail once this process has taken what the machine had left, instead of driving it into the ground.

    RLIMIT_DATA counts private writable memory, touched or not; RLIMIT_AS would count reserved addresses and files too.
    """
    available, used = available_bytes(), kilobytes(ROOT / "proc/self/status").get("VmData")
    if available is not None and used is not None:
        limit = used + int((1 - SPARED_FRACTION) * available)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(word in _one_line(error) for word in MEMORY_WORDS)

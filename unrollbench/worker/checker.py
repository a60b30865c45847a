"""A process beside the worker that holds results against the reference, so that its memory is not the worker's.

    worker  --- results -->  checker: draws the same tensors, computes the float64 reference, compares
            <-- verdict ---

It is forked before the worker loads anything that starts threads, waits in a read while anything is timed, and ends
when the worker does. Expected results depend on the network and its tensors only, not on how a case runs them: where a
folder is given, the next worker with the same network finds them there.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Literal, NoReturn

from unrollbench import reference
from unrollbench.case import Case
from unrollbench.errors import WrongResult
from unrollbench.measure.memory import oom_kills
from unrollbench.tensors import Outputs, draw

KEPT_BYTES = 1 << 30
"""Larger expected results are computed anew for each case: they are few, and the disk is somebody else's."""
FOLDER_BYTES = 2 << 30
"""The folder of expected results is emptied of its oldest files beyond this size."""
FREE_FACTOR = 4
"""Nothing is kept on a disk that has not this many times its size free."""


@dataclass(frozen=True)
class Verdict:
    """The checker's answer to one set of results; error and tolerance only where they are right."""

    kind: Literal["right", "wrong", "out_of_memory"]
    error: float = 0.0
    tolerance: float = 0.0
    message: str = ""


class Checker:
    """The parent's end: `check` sends results and returns the verdict, `close` ends the process."""

    def __init__(self, case: Case, folder: Path | None = None) -> None:
        """Forks the process; it computes nothing before the first `check`."""
        self._connection, theirs = Pipe()
        self._oom_kills = oom_kills()
        self._pid = os.fork()
        if self._pid == 0:
            self._connection.close()
            _serve(theirs, case, folder)
        theirs.close()

    def check(self, outputs: Outputs) -> tuple[float, float]:
        """(error, tolerance) of results that are right.

        Raises:
            WrongResult: they are not.
            MemoryError: the reference did not fit into memory.
            ChildProcessError: the checker ended without a verdict; its traceback is in the worker's log.
        """
        try:
            _send(self._connection, outputs)
            verdict: Verdict = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        if verdict.kind == "wrong":
            raise WrongResult(verdict.message)
        if verdict.kind == "out_of_memory":
            raise MemoryError(verdict.message)
        return verdict.error, verdict.tolerance

    def close(self) -> None:
        """The process has ended."""
        self._connection.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _death(self) -> Exception:
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = 0
        kills = oom_kills()
        by_system = kills is None or self._oom_kills is None or kills > self._oom_kills
        if status == -signal.SIGKILL and by_system:
            return MemoryError("the float64 reference was killed, which is what the system does when memory runs out")
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ChildProcessError(f"the check against the reference {how} and gave no verdict")


def _serve(connection: Connection, case: Case, folder: Path | None) -> NoReturn:
    """Answers until the worker closes its end; never returns into the worker's code."""
    status = 1
    try:
        expected: Outputs | None = None
        while True:
            try:
                outputs = _receive(connection)
            except EOFError:
                status = 0
                break
            expected = expected or _expected(case, folder)
            connection.send(_verdict(case, outputs, expected))
    except MemoryError:
        connection.send(Verdict("out_of_memory", message="the float64 reference does not fit into memory"))
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)


def _verdict(case: Case, outputs: Outputs, expected: Outputs) -> Verdict:
    try:
        error, tolerance = reference.check(case, outputs, expected)
    except WrongResult as wrong:
        return Verdict("wrong", message=str(wrong))
    return Verdict("right", float(error), float(tolerance))


def _expected(case: Case, folder: Path | None) -> Outputs:
    """The expected results, from the folder if a worker left them there."""
    if folder is None:
        return reference.expected(case, draw(case))
    # Neither the device nor the threads change what is right; TF32 changes how near to a clip's bound is near.
    near = "-tf32" if case.canonical().matmul_precision == "tf32" else ""
    path = folder / f"{replace(case.network, device='cpu', threads=1).key}{near}.pickle"
    if path.exists():
        with path.open("rb") as file:
            found: Outputs = pickle.load(file)
        return found
    expected = reference.expected(case, draw(case))
    with suppress(OSError):  # a full disk, or a runner that is gone with its folder, costs time and nothing else
        _keep(expected, path)
    return expected


def _keep(expected: Outputs, path: Path) -> None:
    """Written beside and renamed, so that no reader finds half a file; the oldest files make room."""
    head, views = _parts(expected)
    size = len(head) + sum(view.nbytes for view in views)
    if size > min(KEPT_BYTES, shutil.disk_usage(path.parent).free // FREE_FACTOR):
        return
    oldest_first = sorted(path.parent.glob("*.pickle"), key=lambda file: file.stat().st_mtime)
    total = size + sum(file.stat().st_size for file in oldest_first)
    for old in oldest_first:
        if total <= FOLDER_BYTES:
            break
        total -= old.stat().st_size
        old.unlink()
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        pickle.dump(expected, file, protocol=5)
    part.rename(path)


def _parts(outputs: Outputs) -> tuple[bytes, list[memoryview]]:
    """A pickle of the results without the bytes of their contiguous arrays, and those bytes where they are."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(outputs, protocol=5, buffer_callback=buffers.append)
    return head, [buffer.raw() for buffer in buffers]


def _send(connection: Connection, outputs: Outputs) -> None:
    """The arrays' own bytes follow the pickle, so that no copy of them is made here."""
    head, views = _parts(outputs)
    connection.send((head, [view.nbytes for view in views]))
    for view in views:
        if view.nbytes:
            connection.send_bytes(view)


def _receive(connection: Connection) -> Outputs:
    head: bytes
    sizes: Sequence[int]
    head, sizes = connection.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            connection.recv_bytes_into(buffer)
    outputs: Outputs = pickle.loads(head, buffers=buffers)
    return outputs

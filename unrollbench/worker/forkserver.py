"""The runner's end of the fork server: starts it, asks it, and starts it again if it should die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from unrollbench.errors import RunError
from unrollbench.records import Measurement, measurement_from_json
from unrollbench.worker.request import DISMISSED, Request

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from unrollbench.worker.supervisor import main; main(sys.argv[1], sys.argv[2:])"
)
"""Finds the same modules as this process, however it found them."""
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""NumPy's BLAS starts its threads when it is loaded, and a process with threads cannot be forked safely."""
END_S = 5.0
ATTEMPTS = 2
"""A request whose fork server died is tried again in a new one, as the server is not what is measured."""


class ForkServer:
    """Fresh processes for requests, one at a time; a context manager that leaves none behind."""

    def __init__(self, preload: Sequence[str] = (), expected: Path | None = None) -> None:
        """preload: what the server loads once for all workers, `module` or `module:function`.

        expected: a folder in which expected results are kept for the workers of this and other servers. It is the
        caller's to remove; the server does so if the caller is killed.
        """
        self._preload = tuple(preload)
        self._expected = expected
        self._server: _Server | None = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The server's process, if it has one now."""
        return None if self._server is None else self._server.pid

    def measure(self, request: Request) -> Measurement:
        """What came of the request, whatever happened to its process. Raises RunError if no server can be started."""
        end = ""
        for _ in range(ATTEMPTS):
            reply = self._ready().ask(request)
            if reply is not None:
                return measurement_from_json(reply)
            end = self.close()
        reason = f"the fork server died {ATTEMPTS} times with this case: {end}"
        return Measurement(request.case, "crashed", reason=reason, repeat=request.repeat)

    def close(self) -> str:
        """The server and the worker that it may have are gone; how it ended, or "" if there was none."""
        server, self._server = self._server, None
        return "" if server is None else server.end()

    def _ready(self) -> _Server:
        """The server, started if there is none.

        Where loading ahead starts threads, as a package's next version may, the workers load it themselves (import_s).
        """
        if self._server is None:
            self._server = _Server(self._preload, self._expected)
            if self._server.threads > 1:
                self._server.end()
                self._server = _Server((), self._expected)
        return self._server


class _Server:
    """One supervisor process, ready for requests."""

    def __init__(self, preload: Sequence[str], expected: Path | None) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process; see `end`
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(sys.path), str(expected or ""), *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **ONE_THREAD},
            text=True,
            start_new_session=True,  # Ctrl-C is the runner's to handle
        )
        try:
            started = self._read()
        except BaseException:
            self.end()
            raise
        if started is None:
            raise RunError(f"the fork server does not start: {self.end()}")
        self.threads: int = started["threads"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request) -> dict[str, Any] | None:
        """The reply, or None if the server died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.to_line())
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._read()

    def end(self) -> str:
        """The process has ended, killed if need be; how, and the last line that it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(DISMISSED)
            self._process.stdin.close()
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process.stdout.close()
        with self._log as log:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        return f"status {status}" + (f", {lines[-1]}" if lines else "")

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
        return reply

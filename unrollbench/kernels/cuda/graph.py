"""Launches of a stream captured into one CUDA graph, by the driver's own functions.

While a stream is captured nothing may be allocated, loaded or waited for: everything that is captured has run once
before, so that kernels are loaded and the library has chosen its algorithms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cuda.bindings import driver

from unrollbench.kernels.build import Phases


class GraphError(RuntimeError):
    """The driver refused to capture, instantiate or launch a graph; the message names the call and its result."""


def checked(call: str, *arguments: Any) -> tuple[Any, ...]:
    """What the driver's function returns beside its result. Raises MemoryError or GraphError with the result's name."""
    result, *values = getattr(driver, call)(*arguments)
    if result == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MemoryError(f"{call}: {result.name}: the device has no memory left")
    if result != driver.CUresult.CUDA_SUCCESS:
        raise GraphError(f"{call}: {result.name}")
    return tuple(values)


class CapturedGraph:
    """What `issue` launches on a stream, as an executable graph; `nodes` is what the driver counts in it."""

    def __init__(self, stream: int, issue: Callable[[], None], phases: Phases) -> None:
        self._stream = driver.CUstream(stream)
        with phases.measure("capture"):
            graph = self._capture(issue)
        try:
            self.nodes: int | None = int(checked("cuGraphGetNodes", graph)[-1])
            with phases.measure("instantiate"):
                (self._executable,) = checked("cuGraphInstantiate", graph, 0)
        finally:
            checked("cuGraphDestroy", graph)

    def _capture(self, issue: Callable[[], None]) -> Any:
        # Only this thread's calls are refused while it captures: the harness may have others that ask the driver.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked("cuStreamBeginCapture", self._stream, mode)
        try:
            issue()
        except BaseException:
            driver.cuStreamEndCapture(self._stream)  # the error that is on its way says more than this one's result
            raise
        (graph,) = checked("cuStreamEndCapture", self._stream)
        return graph

    def replay(self) -> None:
        """Starts the graph; it runs after what the stream already holds."""
        checked("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Gives the graph's memory back."""
        checked("cuGraphExecDestroy", self._executable)

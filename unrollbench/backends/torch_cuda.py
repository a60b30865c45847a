"""PyTorch on a GPU: whether there is one, its settings for a case, its events and its memory.

Nothing of this has run on a GPU yet; the tests hold it against a GPU that is made up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from unrollbench.backends import Memory
from unrollbench.case import Case

PRECISIONS = {"float32": "ieee", "tf32": "tf32"}
"""Matrix products of a case -> torch's name. torch's own default is neither: cuDNN has TF32 on and cuBLAS off."""
FLUSH_FACTOR = 2
"""So many times the size of its L2 cache is written to flush a device."""


def why_not(case: Case) -> str | None:
    """Why no GPU can run the case here, or None; asking starts CUDA in this process."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        return f"torch {torch.__version__} has no GPU here: {first}"
    if case.execution in ("static", "dynamic") and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on a GPU; it comes with torch's builds for CUDA"
    return None


def configure(case: Case) -> None:
    """Products of float32 round their operands as the case says, and the allocator keeps to the case's limit."""
    precision = PRECISIONS[case.matmul_precision or "float32"]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.rnn.fp32_precision = precision
    else:  # before torch 2.9
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    limit = case.device_memory_limit
    if limit is not None:
        fraction = limit if isinstance(limit, float) else min(1.0, limit / _properties().total_memory)
        torch.cuda.set_per_process_memory_fraction(fraction)
    torch.cuda.reset_peak_memory_stats()


class Meter:
    """Times runs by events on the current stream, and tells the memory that tensors take by torch's own allocator."""

    def __init__(self) -> None:
        self._peak_bytes = 0

    def event_s(self, run: Callable[[], None], runs: int, cold: bool) -> tuple[float, ...]:
        """Seconds of each run between two events; `cold`: L2 is flushed before each."""
        # What is allocated to flush is no memory of the program: the peak until now is that of a run, and counts on.
        self._peak_bytes = max(self._peak_bytes, torch.cuda.max_memory_allocated())
        flush = _flush() if cold else None
        marks = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(runs)]
        for start, end in marks:
            if flush is not None:
                flush()
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        del flush
        torch.cuda.reset_peak_memory_stats()
        return tuple(start.elapsed_time(end) * 1e-3 for start, end in marks)

    def memory(self, weight_bytes: int | None) -> Memory:
        peak_bytes = max(self._peak_bytes, torch.cuda.max_memory_allocated())
        return Memory(
            weight_bytes=weight_bytes, device_bytes=torch.cuda.memory_allocated(), device_peak_bytes=peak_bytes
        )


def _flush() -> Callable[[], Any]:
    """What writes more bytes than the device's L2 cache holds."""
    buffer = torch.empty(FLUSH_FACTOR * _properties().L2_cache_size, dtype=torch.int8, device="cuda")
    return buffer.zero_  # type: ignore[no-any-return]


def _properties() -> Any:
    return torch.cuda.get_device_properties(torch.cuda.current_device())

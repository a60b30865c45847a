"""What a machine's ceilings allow a case: the least time for its products, and for reading its recurrent weights.

    multiply-add   the flops of all matrix products at the peak of multiply-adds in registers
    read           the recurrent weights once per step (training: once more backwards), at the bandwidth of reading as
                   many bytes again and again: a step needs the state of the one before, so no two share a reading

The larger of the two times binds. Both are on the generous side, so that a share is rather too low than too high:
products reach the peak only with nothing beside them, input weights and activations are read for nothing, and each
thread reads its own part of the weights only, each layer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from unrollbench.case import Case
from unrollbench.records import Ceiling, Measurement, Run

MULTIPLY_ADD, READ = "multiply-add", "read"
"""Names of ceilings."""
UNDISTURBED_SHARE = 0.95
"""A ceiling whose threads had less of their processors than this is no ceiling; clocks and interrupts take a little."""
SMALLEST_BYTES = 16 * 1024
"""What fits into any first-level cache; smaller working sets are not told apart."""


@dataclass(frozen=True)
class Wanted:
    """Ceilings to measure with so many threads: the peak in this dtype, the bandwidth for each working set's bytes.

    Without sizes_bytes: for working sets from the first-level cache's size to one beyond all caches.
    """

    threads: int
    dtype: str = "float32"
    sizes_bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Attained:
    """How near one run of a case came to the machine's ceilings; what is None is unknown, and `reason` says why.

    The rates count the matrix products within each row's length, and the recurrent weights once per step. `ceiling` is
    the name of the one that binds, `ceiling_share` the least time that it allows over the time taken, between 0 and 1.
    The ceilings themselves are in the units of the rates; that of reading is a mean over layers, weighted by bytes.
    """

    gflops_per_s: float | None = None
    recurrent_weights_gb_per_s: float | None = None
    ceiling_gflops_per_s: float | None = None
    ceiling_recurrent_weights_gb_per_s: float | None = None
    ceiling: str | None = None
    ceiling_share: float | None = None
    reason: str | None = None


def wanted(cases: Iterable[Case]) -> tuple[Wanted, ...]:
    """The ceilings that bind the cases; cases on other devices than the CPU have none here."""
    sizes: dict[tuple[int, str], set[int]] = {}
    for case in cases:
        if case.device == "cpu":
            sizes.setdefault((case.threads, case.dtype), set()).update(_working_sets(case))
    return tuple(Wanted(threads, dtype, tuple(sorted(found))) for (threads, dtype), found in sorted(sizes.items()))


def of_measurement(measurement: Measurement, run: Run) -> Attained:
    """What the median run of the measurement attained, held against its run's ceilings."""
    return attained(measurement.case, measurement.run_s, run.ceilings, run.ceilings_unknown)


def attained(case: Case, run_s: float | None, ceilings: Sequence[Ceiling], why_none: str | None = None) -> Attained:
    """What a run of `run_s` seconds attained. why_none: why there are no ceilings, where that is known."""
    counted = steps(case)
    if not run_s:
        return Attained(reason="nothing was timed")
    if counted is None:
        return Attained(reason="the rows' lengths were drawn: the case alone does not tell how many steps there are")
    gflop, gb = flops(case, counted[0]) / 1e9, recurrent_bytes(case, counted[1]) / 1e9
    rates = Attained(gflops_per_s=gflop / run_s, recurrent_weights_gb_per_s=gb / run_s)
    peak, per_s = _peak(case, ceilings), _bandwidth(case, ceilings)
    if peak is None or per_s is None:
        return replace(rates, reason=why_none or _missing(case, ceilings))
    name, least_s = max((MULTIPLY_ADD, gflop / peak), (READ, gb / per_s), key=lambda bound: bound[1])
    known = replace(rates, ceiling_gflops_per_s=peak, ceiling_recurrent_weights_gb_per_s=per_s, ceiling=name)
    if least_s > run_s:
        beyond = f"the run was {least_s / run_s:.2f} times as fast as the ceiling, so that was measured too low"
        return replace(known, reason=beyond)
    return replace(known, ceiling_share=least_s / run_s)


def steps(case: Case) -> tuple[int, int] | None:
    """(steps of all rows together, steps of the longest row); None where lengths are drawn."""
    if case.lengths == "uniform":
        return None
    if isinstance(case.lengths, tuple):
        return sum(case.lengths), max(case.lengths)
    return case.sequence_length * case.batch_size, case.sequence_length


def flops(case: Case, row_steps: int) -> float:
    """Floating-point operations of the matrix products in so many steps of one row; see `Case.flops`."""
    return case.flops * row_steps / (case.sequence_length * case.batch_size)


def recurrent_bytes(case: Case, steps: int) -> int:
    """Bytes of recurrent weights that so many steps read: once per step, in training once more on the way back."""
    return (2 if case.mode == "train" else 1) * steps * sum(_recurrent(case))


def _recurrent(case: Case) -> list[int]:
    """Bytes of each layer's recurrent weights, the projection's included."""
    return [
        case.itemsize_bytes * (case.gates * units * outputs + (units * outputs if case.cell_options.num_proj else 0))
        for _, units, outputs in case.layer_shapes
    ]


def _working_sets(case: Case) -> list[int]:
    """Bytes of each layer's recurrent weights that one thread reads, where the threads share them."""
    return [max(SMALLEST_BYTES, size // case.threads) for size in _recurrent(case)]


def _peak(case: Case, ceilings: Sequence[Ceiling]) -> float | None:
    return next((c.value for c in _of(case, ceilings) if c.name == MULTIPLY_ADD), None)


def _bandwidth(case: Case, ceilings: Sequence[Ceiling]) -> float | None:
    """GB/s of reading all layers one after the other, each at the bandwidth for its size; None if one is missing."""
    by_size = {c.bytes_per_thread: c.value for c in _of(case, ceilings) if c.name == READ}
    seconds = 0.0
    for size, working_set in zip(_recurrent(case), _working_sets(case), strict=True):
        if working_set not in by_size:
            return None
        seconds += size / by_size[working_set]
    return sum(_recurrent(case)) / seconds


def _missing(case: Case, ceilings: Sequence[Ceiling]) -> str:
    """Why there is no peak, or no bandwidth, for the case."""
    if any((c.dtype, c.threads) == (case.dtype, case.threads) for c in ceilings if disturbed(c)):
        return "something else used the processors while the ceilings were measured"
    return "this run has no ceilings for this device, dtype and number of threads"


def disturbed(ceiling: Ceiling) -> bool:
    """Whether something else used the processors, so that the ceiling says too little."""
    return ceiling.processor_share < UNDISTURBED_SHARE


def _of(case: Case, ceilings: Sequence[Ceiling]) -> list[Ceiling]:
    """The undisturbed ceilings that were measured in the case's dtype with its threads."""
    if case.device != "cpu":
        return []
    return [c for c in ceilings if (c.dtype, c.threads) == (case.dtype, case.threads) and not disturbed(c)]

"""What a machine's ceilings allow a case: the least time for its products, and for reading its recurrent weights.

    multiply-add         the flops of all matrix products at the peak of multiply-adds in registers
    paired multiply-add  the same at the peak of multiplying in pairs, with a third fewer multiplications, where a
                         processor adds with units of their own (`kernels/pairs.py`)
    matrix unit          the same at the peak of a processor's matrix unit, where it has one: in float32, which our
                         kernels cut into parts for it (`kernels/matrix.py`)
    read                 the recurrent weights once per step (training: once more backwards), at the bandwidth of
                         reading as many bytes again and again: a step needs the state of the one before, so no two
                         share a reading

Products are held against the highest of the first three, whoever makes them and how: our own gradients are not made in
pairs, nor are the products of others. The larger of the two times, of products and of reading, binds. Both are on the
generous side, so that a share is rather too low than too high: products reach the peak only with nothing beside them,
input weights and activations are read for nothing, and each thread reads its own part of the weights only, each layer
by itself.

On a GPU the whole device does both. The peak is not that of its tensor cores, so there is no share where products may
be theirs. Weights lie in shared memory, if they fit into that of all multiprocessors together, or in global memory: a
program that keeps some of its weights in registers has less to read, and one with only some of them in shared memory
reads those faster. The share of reading of such a program is too high, and it may be faster than that ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from unrollbench.case import Case
from unrollbench.records import Ceiling, Measurement, Run

MULTIPLY_ADD, PAIRED, MATRIX_UNIT, READ, BARRIER = (
    "multiply-add",
    "paired multiply-add",
    "matrix unit",
    "read",
    "barrier",
)
"""Names of ceilings; that of barriers binds no case, but tells how far the cores are from each other."""
UNDISTURBED_SHARE = 0.95
"""A ceiling whose threads had less of their processors than this is no ceiling; clocks and interrupts take a little."""
SMALLEST_BYTES = 16 * 1024
"""What fits into any first-level cache; smaller working sets are not told apart."""
KEPT_CLOCKS = frozenset({"none", "application clocks", "sync boost", "display clocks"})
"""What `Ceiling.throttling` says of clocks that are set so: for the cases as for the ceilings."""


@dataclass(frozen=True)
class Wanted:
    """Ceilings to measure with so many threads: the peak in this dtype, the bandwidth for each working set's bytes.

    Without sizes_bytes: for working sets from the nearest memory's size to one beyond all caches. threads is None on a
    GPU, all of which is measured.
    """

    threads: int | None
    dtype: str = "float32"
    sizes_bytes: tuple[int, ...] | None = None
    device: Literal["cpu", "cuda"] = "cpu"


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
    """The ceilings that bind the cases, those of the CPU first."""
    sizes: dict[Wanted, set[int]] = {}
    for case in cases:
        if _beyond(case) is None:
            sizes.setdefault(_measured_with(case), set()).update(_working_sets(case))
    first = sorted(sizes, key=lambda one: (one.device, one.threads or 0, one.dtype))
    return tuple(replace(one, sizes_bytes=tuple(sorted(sizes[one]))) for one in first)


def of_measurement(measurement: Measurement, run: Run) -> Attained:
    """What the median run of the measurement attained, held against its run's ceilings."""
    return attained(measurement.case, measurement.run_s, run.ceilings, run.ceilings_unknown)


def attained(
    case: Case, run_s: float | None, ceilings: Sequence[Ceiling], why_none: Mapping[str, str] | None = None
) -> Attained:
    """What a run of `run_s` seconds attained. why_none: device -> why it has no ceilings, where that is known."""
    counted = steps(case)
    if not run_s:
        return Attained(reason="nothing was timed")
    if counted is None:
        return Attained(reason="the rows' lengths were drawn: the case alone does not tell how many steps there are")
    gflop, gb = flops(case, counted[0]) / 1e9, recurrent_bytes(case, counted[1]) / 1e9
    rates = Attained(gflops_per_s=gflop / run_s, recurrent_weights_gb_per_s=gb / run_s)
    beyond, peak, per_s = _beyond(case), _peak(case, ceilings), _bandwidth(case, ceilings)
    if beyond is not None:
        return replace(rates, reason=beyond)
    if peak is None or per_s is None:
        return replace(rates, reason=(why_none or {}).get(case.device) or _missing(case, ceilings))
    name, least_s = max((peak.name, gflop / peak.value), (READ, gb / per_s), key=lambda bound: bound[1])
    known = replace(rates, ceiling_gflops_per_s=peak.value, ceiling_recurrent_weights_gb_per_s=per_s, ceiling=name)
    if least_s > run_s:
        reason = f"the run was {least_s / run_s:.2f} times as fast as the ceiling, so that was measured too low"
        in_registers = (
            ", or the recurrent weights stayed in registers" if case.device == "cuda" and name == READ else ""
        )
        return replace(known, reason=reason + in_registers)
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
    """Bytes of each layer's recurrent weights: on the CPU those of one thread, where the threads share them."""
    return [max(SMALLEST_BYTES, size // (_threads(case) or 1)) for size in _recurrent(case)]


def _threads(case: Case) -> int | None:
    """Threads that share the work; None on a GPU, where the host's only start it."""
    return case.threads if case.device == "cpu" else None


def _measured_with(case: Case) -> Wanted:
    """What the case's ceilings are measured with, without their working sets."""
    return Wanted(_threads(case), case.dtype, device="cpu" if case.device == "cpu" else "cuda")


def _beyond(case: Case) -> str | None:
    """Why the case's products may go beyond the peak of multiply-adds, which then is no ceiling; None if they cannot.

    In float64 a library may take tensor cores without being asked. All products of a dynamic forward pass of ours are
    in its own kernel, which takes none.
    """
    if case.device == "cpu":
        return None
    if case.dtype == "float32":
        tf32 = "matmul_precision = 'tf32': tensor cores make such products, beyond the peak that is measured here"
        return tf32 if case.matmul_precision == "tf32" else None
    if (case.backend, case.execution, case.mode) == ("numba_cuda", "dynamic", "forward"):
        return None
    return "tensor cores may make a library's products in float64, beyond the peak that is measured here"


def _peak(case: Case, ceilings: Sequence[Ceiling]) -> Ceiling | None:
    """The ceiling of products: of whatever makes them fastest; None if one was disturbed, or none is known."""
    found = [c for c in _fitting(case, ceilings) if c.name in (MULTIPLY_ADD, PAIRED, MATRIX_UNIT)]
    if MULTIPLY_ADD not in (c.name for c in found) or any(disturbance(c) for c in found):
        return None
    return max(found, key=lambda c: c.value)


def _bandwidth(case: Case, ceilings: Sequence[Ceiling]) -> float | None:
    """GB/s of reading all layers one after the other, each at the bandwidth for its size; None if one is missing."""
    by_size = {c.working_set_bytes: c.value for c in _of(case, ceilings) if c.name == READ}
    seconds = 0.0
    for size, working_set in zip(_recurrent(case), _working_sets(case), strict=True):
        if working_set not in by_size:
            return None
        seconds += size / by_size[working_set]
    return sum(_recurrent(case)) / seconds


def _missing(case: Case, ceilings: Sequence[Ceiling]) -> str:
    """Why there is no peak, or no bandwidth, for the case."""
    why = next((why for c in _fitting(case, ceilings) if (why := disturbance(c)) is not None), None)
    if why is not None:
        return f"{why} while the ceilings were measured"
    kinds = "device and dtype" if _threads(case) is None else "device, dtype and number of threads"
    return f"this run has no ceilings for this {kinds}, or for weights of this size"


def disturbance(ceiling: Ceiling) -> str | None:
    """What came between while the ceiling was measured, so that it says too little; None if nothing did."""
    if ceiling.processor_share < UNDISTURBED_SHARE:
        return "something else used the processors"
    held = [reason for reason in (ceiling.throttling or "none").split(", ") if reason not in KEPT_CLOCKS]
    return f"the GPU's clocks were held down ({', '.join(held)})" if held else None


def _fitting(case: Case, ceilings: Sequence[Ceiling]) -> list[Ceiling]:
    """The ceilings that were measured on the case's device, in its dtype, with its threads."""
    own = (case.device, case.dtype, _threads(case))
    return [c for c in ceilings if (c.device, c.dtype, c.threads) == own]


def _of(case: Case, ceilings: Sequence[Ceiling]) -> list[Ceiling]:
    """Those of them that nothing disturbed."""
    return [c for c in _fitting(case, ceilings) if disturbance(c) is None]

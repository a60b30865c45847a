"""What every backend must hold: the statements that `unrollbench check-backend` checks, one record for each.

Small networks, each built, run and held against the float64 reference in this process. A statement that the backend
declines, by `why_not`, is skipped with its reason; one that it cannot show, because a program does not tell, as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

from unrollbench import backends, reference
from unrollbench.backends import Backend, CountsCompilations, Program
from unrollbench.case import DEVICES, EXECUTIONS, Case, CellOptions
from unrollbench.errors import BackendUnavailable, UnrollbenchError, WrongResult
from unrollbench.measure.gpu import load_driver
from unrollbench.records import Check
from unrollbench.tensors import draw

_SMALL = Case(sequence_length=5, batch_size=3, input_size=4, num_units=6)

NETWORKS: dict[str, dict[str, Any]] = {
    "an LSTM": {},
    "a GRU": {"cell": "gru"},
    "a basic RNN": {"cell": "basic_rnn"},
    "an LSTM in float64": {"dtype": "float64"},
    "two unequal layers": {"num_layers": 2, "num_units": (5, 7), "cell_options": CellOptions(forget_bias=0.25)},
    "batch-major input": {"time_major": False},
    "rows with lengths of their own": {"lengths": (5, 1, 3)},
    "a row of length 0": {"lengths": (3, 0, 4)},
    "peepholes": {"cell_options": CellOptions(use_peepholes=True)},
    "a clipped cell": {"cell_options": CellOptions(cell_clip=0.25)},
    "a projection": {"num_layers": 2, "cell_options": CellOptions(num_proj=3)},
    "a clipped projection": {"cell_options": CellOptions(num_proj=3, proj_clip=0.05)},
    "one step of one row into one unit": {"sequence_length": 1, "batch_size": 1, "input_size": 1, "num_units": 1},
    "a gate that saturates": {"cell_options": CellOptions(forget_bias=200.0)},
}
"""What is computed, in words -> the axes that make it so."""

DYNAMIC: dict[str, dict[str, Any]] = {
    "unroll = 2": {"unroll": 2},
    "unroll = 4": {"unroll": 4},
    "unroll = full": {"unroll": "full"},
    "unroll beyond the sequence": {"unroll": 7},
    "parallel_iterations = 1": {"parallel_iterations": 1},
    "parallel_iterations = 2": {"parallel_iterations": 2},
    "swap_memory": {"swap_memory": True},
}
"""Settings of a dynamic loop that must not change its results."""


ON_CUDA: dict[str, dict[str, Any]] = {
    "matmul_precision = tf32": {"matmul_precision": "tf32"},
    "a limit on the device's memory": {"device_memory_limit": 0.5},
    "allow_growth = false": {"allow_growth": False, "device_memory_limit": 2**28},
}
"""Settings of a GPU that change its results no further than the tolerance of the case."""


class _UnknownError(UnrollbenchError):
    """The backend or its program does not tell what the statement is about."""


def check(name: str, device: str | None = None) -> tuple[Check, ...]:
    """Every statement about the backend of that name. Raises BackendUnavailable if it cannot be loaded."""
    return tuple(checks(name, device))


def checks(name: str, device: str | None = None) -> Iterator[Check]:
    """The same, each as soon as it is known: a backend that compiles for long can be watched.

    Without a device, it is the first of DEVICES on which the backend runs anything.
    """
    backend = backends.load(name)
    small = replace(_SMALL, backend=name)
    small = replace(small, device=device or _first_device(backend, small))
    for execution in EXECUTIONS:
        given: dict[str, Any] = {"execution": execution}
        base = replace(small, **given)
        declined = _declined(backend, base)
        if declined is not None:
            yield Check(f"{execution}: everything", "skipped", declined, base)
            continue
        for network, axes in NETWORKS.items():
            yield _stated(
                f"{execution}: {network}: results equal the reference", _variants(base, axes), backend, _right
            )
        forward = replace(base, mode="forward")
        yield _stated(f"{execution}: forward mode returns no gradients", _layouts(forward), backend, _right)
        lengths = _variants(base, {"num_layers": 2})
        yield _stated(f"{execution}: a second run is the first, and compiles nothing", lengths, backend, _repeats)
        other = _variants(base, {"seed": 1})
        # The same shapes as those of the first network above: a result that was folded or kept would come again.
        yield _stated(f"{execution}: other inputs give other results, and right ones", other, backend, _right)
        yield _stated(f"{execution}: {_GROWTH[execution]}", _layouts(forward), backend, _size)
    for setting, axes in (DYNAMIC | ON_CUDA if small.device == "cuda" else DYNAMIC).items():
        cases = _variants(replace(small, execution="dynamic"), {"num_layers": 2, **axes})
        if "swap_memory" in axes:
            cases = cases[:2]  # it means nothing in forward mode
        yield _stated(f"dynamic: {setting}: results equal the reference", cases, backend, _right)
    yield from _gpu_declined(backend, replace(small, device="cuda"))


_TAKEN = "why_not takes a case with device = 'cuda', which nothing here can run as it is written"
_GROWTH = {
    "static": "the program grows with the sequence",
    "dynamic": "the program does not grow with the sequence",
    "stepwise": "the program does not grow with the sequence",
    "library": "the program does not grow with the sequence",
}


def _variants(base: Case, axes: dict[str, Any]) -> tuple[Case, ...]:
    """The statement's cases from the most demanding to the least: the first that the backend takes is checked."""
    train, forward = (replace(base, **{"mode": mode, **axes}) for mode in ("train", "forward"))
    return (*_layouts(train), *_layouts(forward))


def _layouts(case: Case) -> tuple[Case, ...]:
    return (case.canonical(), replace(case, time_major=not case.time_major).canonical())


def _gpu_declined(backend: Backend, small: Case) -> Iterator[Check]:
    """Where there is no GPU, no execution on one is taken: the processor would compute it under a false name.

    Nothing is stated of a simulator, or where a driver is installed.
    """
    if backends.is_simulated(backend):
        return
    try:
        load_driver()
    except BackendUnavailable:
        declined = _declines_all(backend, small)
        status: Literal["passed", "failed"] = "passed" if declined else "failed"
        yield Check("a GPU is declined where there is none", status, None if declined else _TAKEN, small)


def _first_device(backend: Backend, small: Case) -> str:
    runs = (device for device in DEVICES if not _declines_all(backend, replace(small, device=device)))
    return next(runs, DEVICES[0])


def _declines_all(backend: Backend, small: Case) -> bool:
    bases: list[dict[str, Any]] = [{"execution": execution} for execution in EXECUTIONS]
    return all(_declined(backend, replace(small, **base)) is not None for base in bases)


def _declined(backend: Backend, base: Case) -> str | None:
    """The reason if the backend runs no network at all in that execution."""
    reasons = [backend.why_not(case) for axes in NETWORKS.values() for case in _variants(base, axes)]
    return None if None in reasons else reasons[-1]


def _stated(name: str, cases: tuple[Case, ...], backend: Backend, holds: Callable[[Backend, Case], None]) -> Check:
    reasons = [backend.why_not(case) for case in cases]
    try:
        case = cases[reasons.index(None)]
    except ValueError:
        return Check(name, "skipped", reasons[-1], cases[-1])
    try:
        holds(backend, case)
    except (_UnknownError, BackendUnavailable) as error:
        return Check(name, "skipped", str(error), case)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's backend raises is the finding, and is reported
        return Check(name, "failed", f"{type(error).__name__}: {error}", case)
    return Check(name, "passed", None, case)


def _right(backend: Backend, case: Case) -> None:
    tensors = draw(case)
    with closing(backend.build(case, tensors)) as program:
        _run(program)
        reference.check(case, program.outputs(), reference.expected(case, tensors))


def _repeats(backend: Backend, case: Case) -> None:
    """Run after run is right, and the framework's own count of what it compiled stays where it was after the build."""
    tensors = draw(case)
    expected = reference.expected(case, tensors)
    with closing(backend.build(case, tensors)) as program:
        before = program.compilations() if isinstance(program, CountsCompilations) else None
        for _ in range(3):
            _run(program)
            reference.check(case, program.outputs(), expected)
        if not isinstance(program, CountsCompilations):
            raise _UnknownError("three runs were right; the program does not count compilations")
        after = program.compilations()
        if before != after:
            raise WrongResult(f"{after} compilations after three runs, {before} after the build: wanted the same")


def _size(backend: Backend, case: Case) -> None:
    """Nodes of the program at T = 6 and T = 12: an unrolled one has at least half as many again, a loop as many."""
    short, long = (_nodes(backend, replace(case, sequence_length=steps)) for steps in (6, 12))
    if case.execution == "static" and long < 1.5 * short:
        raise WrongResult(f"{short} graph nodes at T = 6 and {long} at T = 12: wanted at least 1.5 times as many")
    if case.execution != "static" and long > 1.1 * short:
        raise WrongResult(f"{short} graph nodes at T = 6 and {long} at T = 12: wanted as many")


def _nodes(backend: Backend, case: Case) -> int:
    with closing(backend.build(case, draw(case))) as program:
        nodes = program.listing().graph_nodes
    if nodes is None:
        raise _UnknownError("the program does not tell its graph nodes")
    return nodes


def _run(program: Program) -> None:
    program.run()
    program.synchronize()

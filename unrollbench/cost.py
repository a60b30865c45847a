"""What a case may be expected to cost, from its axes alone: to warn before a run and to cut it to a budget.

Nothing is measured here and nothing of this gets into results. The rates are those of one ordinary server core and of
the packages as they were measured when this was written; on another machine the truth may be twice or half of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.case import CELLS, Case

HARNESS_S = 0.3
"""Starting the process, drawing the tensors, storing the row."""
FLOPS_PER_S = {"float32": 60e9, "float64": 30e9}
"""Matrix products of one thread."""
REFERENCE_FLOPS_PER_S = 30e9
"""The float64 reference, once per network: NumPy's products with all the step's mathematics beside them."""
GATE_S = 2e-9
"""Sigmoid or tanh of one gate of one row and hidden unit."""
STEP_S = {"stepwise": 20e-6}
"""What one step of one layer costs beside its mathematics; LOOP_STEP_S where the loop is compiled."""
LOOP_STEP_S = 2e-6
PROCESS_BYTES = 250_000_000
"""Python with the packages loaded and the reference's scratch."""


@dataclass(frozen=True)
class Build:
    """Seconds to build: import_s, base_s, and for each copy of the step in the program forward_s or train_s."""

    import_s: float
    base_s: float
    forward_s: float
    train_s: float


BUILDS = {
    "numba_cpu": Build(import_s=0.0, base_s=1.0, forward_s=0.005, train_s=0.012),
    "tensorflow": Build(import_s=3.0, base_s=0.3, forward_s=0.006, train_s=0.035),
    "jax": Build(import_s=1.0, base_s=0.4, forward_s=0.042, train_s=0.250),
    "torch": Build(import_s=2.0, base_s=17.0, forward_s=0.110, train_s=0.400),
    "onnx": Build(import_s=1.0, base_s=0.3, forward_s=0.006, train_s=0.006),
}
"""Backend -> what its builds cost; any other backend is taken for numba_cpu."""


@dataclass(frozen=True)
class Cost:
    """Expected seconds of one process, of them the reference's apart; resident bytes at its peak; bytes on disk."""

    seconds: float
    reference_s: float
    memory_bytes: int
    disk_bytes: int


def expected(case: Case, *, min_samples: int, min_time_s: float, timeout_s: float) -> Cost:
    """What one process of the canonical case may be expected to cost; nothing is expected beyond its `timeout_s`."""
    run_s = expected_run_s(case)
    warm_up_s = min_time_s if run_s < min_time_s else 0.0
    sampling_s = run_s + warm_up_s + max(min_time_s, min_samples * run_s)
    seconds = HARNESS_S + min(timeout_s, expected_build_s(case) + sampling_s)
    disk_bytes = case.activation_bytes if case.swap_memory else 0
    reference_s = case.flops / REFERENCE_FLOPS_PER_S
    return Cost(seconds, reference_s, _memory_bytes(case) - disk_bytes, disk_bytes)


def expected_run_s(case: Case) -> float:
    """Seconds of one run."""
    passes = 3 if case.mode == "train" else 1
    rows = case.sequence_length * case.batch_size
    gates = passes * CELLS[case.cell] * rows * sum(case.units)
    step_s = STEP_S.get(case.execution, LOOP_STEP_S)
    parallel_s = (case.flops / FLOPS_PER_S[case.dtype] + gates * GATE_S) / case.threads
    return _computed(case) * (parallel_s + passes * case.sequence_length * case.num_layers * step_s)


def expected_build_s(case: Case) -> float:
    """Seconds until the first run, import included."""
    build = BUILDS.get(case.backend, BUILDS["numba_cpu"])
    unroll = case.unroll if isinstance(case.unroll, int) else 1
    steps = {"static": case.sequence_length, "dynamic": min(unroll, case.sequence_length)}.get(case.execution, 1)
    step_s = build.train_s if case.mode == "train" else build.forward_s
    return build.import_s + build.base_s + steps * case.num_layers * step_s


def _computed(case: Case) -> float:
    """The part of the T steps that is computed: up to the longest length."""
    return max(case.lengths) / case.sequence_length if isinstance(case.lengths, tuple) else 1.0


def _memory_bytes(case: Case) -> int:
    rows, itemsize = case.sequence_length * case.batch_size, case.itemsize_bytes
    ends = rows * (case.input_size + case.layer_shapes[-1][2])
    tensors = ends * (2 if case.mode == "train" else 1)  # inputs and outputs, and their gradients
    window = {"static": case.sequence_length, "dynamic": case.parallel_iterations or 1}.get(case.execution, 1)
    workspace = min(window, case.sequence_length) * case.batch_size * CELLS[case.cell] * max(case.units)
    program = (tensors + workspace) * itemsize + 4 * case.weight_bytes + case.activation_bytes
    reference = (2 * tensors * itemsize + 4 * case.weight_bytes + 2 * case.activation_bytes) * (8 // itemsize)
    return PROCESS_BYTES + tensors * itemsize + program + reference

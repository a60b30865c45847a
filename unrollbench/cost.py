"""What a case may be expected to cost, from its axes alone: to warn before a run and to cut it to a budget.

Nothing is measured here and nothing of this gets into results. The rates are those of one ordinary server core and of
the packages as they were measured when this was written; on another machine the truth may be twice or half of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.case import Case

HARNESS_S = 0.3
"""Starting the process, drawing the tensors, storing the row."""
FLOPS_PER_S = {"float32": 60e9, "float64": 30e9}
"""Matrix products of one thread."""
WEIGHT_BYTES_PER_S = 20e9
"""The weights, read once per step, from the cache that holds them: what bounds small batches."""
REFERENCE_FLOPS_PER_S = 20e9
"""The float64 reference, once per network: NumPy's products with all the step's mathematics beside them."""
GATE_S = 2e-9
"""Sigmoid or tanh of one gate of one row and hidden unit."""
STEP_S = {"static": 2e-6, "dynamic": 2e-6, "library": 2e-6, "stepwise": 20e-6}
"""What one step of one layer costs beside its mathematics; `stepwise` calls it from Python."""
CUDA_FLOPS_PER_S = {"float32": 20e12, "float64": 10e12}
"""Matrix products of a GPU, as far as a sequence of small ones uses it."""
CUDA_STEP_S = {"static": 5e-6, "dynamic": 5e-6, "library": 5e-6, "stepwise": 50e-6}
"""One step of one layer on a GPU: a kernel's launch from a graph, a barrier, or launches from Python."""
WORKER_BYTES = 150_000_000
"""A worker with Numba loaded that has built a small program."""
CHECKER_BYTES = 50_000_000
"""The process beside the worker that computes the reference."""


@dataclass(frozen=True)
class Build:
    """Seconds to build a program, forward and train: the import, the base, and each copy of the step in it."""

    import_s: float
    base_s: tuple[float, float]
    copy_s: tuple[float, float]


BUILDS = {
    "numba_cpu": Build(import_s=0.0, base_s=(0.3, 0.7), copy_s=(0.0002, 0.0004)),
    "numba_cuda": Build(import_s=2.0, base_s=(8.0, 15.0), copy_s=(0.0001, 0.0003)),
    "tensorflow": Build(import_s=3.0, base_s=(0.2, 0.3), copy_s=(0.006, 0.035)),
    "keras": Build(import_s=4.0, base_s=(0.5, 1.0), copy_s=(0.006, 0.035)),
    "jax": Build(import_s=1.0, base_s=(0.3, 0.6), copy_s=(0.042, 0.250)),
    "torch": Build(import_s=2.0, base_s=(17.0, 20.0), copy_s=(0.110, 0.400)),
    "onnx": Build(import_s=1.0, base_s=(0.3, 0.3), copy_s=(0.006, 0.006)),
    "openvino": Build(import_s=0.5, base_s=(0.1, 0.1), copy_s=(0.0, 0.0)),
    "flashrnn": Build(import_s=3.0, base_s=(120.0, 120.0), copy_s=(0.0, 0.0)),
    "flashrnn_alternating": Build(import_s=3.0, base_s=(80.0, 80.0), copy_s=(0.0, 0.0)),
    "flashrnn_triton": Build(import_s=3.0, base_s=(2.0, 4.0), copy_s=(0.0, 0.0)),
}
"""Backend -> what its builds cost; any other backend is taken for numba_cpu. Those of FlashRNN are guesses."""
COMPILED_LIBRARIES = ("flashrnn", "flashrnn_alternating", "flashrnn_triton")
"""Backends whose library execution is compiled for the case."""
READY_S = 0.2
"""A build that compiles nothing: of a framework's fused operators, and of PyTorch's eager loop."""


@dataclass(frozen=True)
class Cost:
    """What one process may be expected to take, `reference_s` apart; resident and disk bytes at their peak.

    memory_bytes includes the reference's process, which lives beside the worker's.
    """

    seconds: float
    reference_s: float
    memory_bytes: int
    disk_bytes: int


def expected(case: Case, *, min_samples: int, min_time_s: float, timeout_s: float) -> Cost:
    """The expected cost of the canonical case; nothing but the reference is expected beyond `timeout_s`."""
    run_s = expected_run_s(case)
    warm_up_s = min_time_s if run_s < min_time_s else 0.0
    sampling_s = run_s + warm_up_s + max(min_time_s, min_samples * run_s)
    seconds = HARNESS_S + min(timeout_s, expected_build_s(case) + sampling_s)
    # What leaves the processor's memory is on the disk; what leaves a GPU's is in the processor's.
    disk_bytes = case.activation_bytes if case.swap_memory and case.device == "cpu" else 0
    reference_s = _computed(case) * case.flops / REFERENCE_FLOPS_PER_S
    memory_bytes = _worker_bytes(case) - disk_bytes + _checker_bytes(case)
    return Cost(seconds, reference_s, memory_bytes, disk_bytes)


def expected_run_s(case: Case) -> float:
    """Seconds of one run."""
    passes = 3 if case.mode == "train" else 1
    steps = passes * case.sequence_length
    if case.device == "cuda":
        steps_s = steps * case.num_layers * CUDA_STEP_S[case.execution]
        return _computed(case) * (case.flops / CUDA_FLOPS_PER_S[case.dtype] + steps_s)
    gates_s = steps * case.batch_size * case.gates * sum(case.units) * GATE_S
    products_s = max(case.flops / FLOPS_PER_S[case.dtype], steps * case.weight_bytes / WEIGHT_BYTES_PER_S)
    return _computed(case) * ((gates_s + products_s) / case.threads + steps * case.num_layers * STEP_S[case.execution])


def expected_build_s(case: Case) -> float:
    """Seconds until the first run, import included."""
    build = BUILDS.get(case.backend, BUILDS["numba_cpu"])
    ready = case.execution == "library" and case.backend not in COMPILED_LIBRARIES
    if ready or (case.backend, case.execution) == ("torch", "stepwise"):
        return build.import_s + READY_S
    unroll = case.unroll if isinstance(case.unroll, int) else 1
    copies = {"static": case.sequence_length, "dynamic": min(unroll, case.sequence_length)}.get(case.execution, 1)
    train = case.mode == "train"
    return build.import_s + build.base_s[train] + copies * case.num_layers * build.copy_s[train]


def _computed(case: Case) -> float:
    """The part of the T steps that is computed: up to the longest length."""
    return max(case.lengths) / case.sequence_length if isinstance(case.lengths, tuple) else 1.0


def _ends(case: Case) -> int:
    """Elements of inputs and outputs, and of their gradients."""
    elements = case.sequence_length * case.batch_size * (case.input_size + case.layer_shapes[-1][2])
    return 2 * elements if case.mode == "train" else elements


def _worker_bytes(case: Case) -> int:
    """Tensors, results, packed weights, the window over the input projection and what is saved for the gradients."""
    window = {"static": case.sequence_length, "dynamic": case.parallel_iterations or 1}.get(case.execution, 1)
    workspace = 2 * min(window, case.sequence_length) * case.batch_size * case.gates * max(case.units)
    elements = _ends(case) + workspace
    return WORKER_BYTES + elements * case.itemsize_bytes + 4 * case.weight_bytes + case.activation_bytes


def _checker_bytes(case: Case) -> int:
    """The same tensors and results, and in float64 everything that one layer's equations keep of all steps."""
    layer = (case.gates + 2) * case.sequence_length * case.batch_size * max(case.units)
    float64 = 8 * (_ends(case) + layer) + 4 * case.weight_bytes * 8 // case.itemsize_bytes
    return CHECKER_BYTES + 2 * _ends(case) * case.itemsize_bytes + float64

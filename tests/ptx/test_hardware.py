"""What is said to the driver and to cuBLAS, as far as it can be held against something without a GPU."""

from __future__ import annotations

import ctypes
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cuda.bindings import driver as cuda_driver
from numba.cuda import dispatcher
from numba.cuda.cudadrv import devices
from numba.cuda.cudadrv.driver import CudaAPIError
from numba.cuda.cudadrv.error import CudaSupportError
from nvmath.bindings import cublas as nvmath_cublas

from unrollbench import backends, rnn
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda import ceiling_text, cublas, graph, hardware
from unrollbench.kernels.cuda.device import DeviceLimitError, Launch
from unrollbench.kernels.cuda.matmul import Matrix
from unrollbench.kernels.cuda.network import compile_plan, plan_of
from unrollbench.kernels.cuda.tiling import Limits

Flat = npt.NDArray[np.float64]
RESULT = cuda_driver.CUresult


def test_without_a_driver_the_backend_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """With numba-cuda's own error, so that it holds on a machine with a driver too."""

    def no_device() -> None:
        raise CudaSupportError("CUDA driver library cannot be found")

    monkeypatch.setattr(hardware, "CudaDevice", no_device)
    with pytest.raises(BackendUnavailable, match="driver library cannot be found; without a GPU"):
        backends.load("numba_cuda")
    for batch_size in (2, 0):
        cell = rnn.GRUCell(2)
        with pytest.raises(BackendUnavailable, match="driver library cannot be found; without a GPU"):
            rnn.compile(cell, batch_size=batch_size, input_size=3, device="cuda")
        assert not cell.built


# ---------------------------------------------------------------- cuBLAS


class OnHost:
    """A flat array where cuBLAS would find one of the device."""

    def __init__(self, values: Flat) -> None:
        self.values, self.dtype, self.size = values, values.dtype, values.size

    @property
    def device_ctypes_pointer(self) -> Any:
        return SimpleNamespace(value=self.values.ctypes.data)


def columns_of(address: int, rows: int, columns: int, stride: int) -> Flat:
    """The column-major matrix at an address, as a view of the memory itself."""
    memory = (ctypes.c_double * (stride * columns)).from_address(address)
    flat: Flat = np.ctypeslib.as_array(memory)
    return flat.reshape(columns, stride)[:, :rows].T


class Blas:
    """cublasGemmEx as its documentation has it: C = alpha op(A) op(B) + beta C, all of them column-major."""

    Operation, ComputeType = nvmath_cublas.Operation, nvmath_cublas.ComputeType

    def __init__(self) -> None:
        self.computed: list[int] = []
        self.workspace: tuple[int, int] | None = None

    def create(self) -> int:
        return 7

    def destroy(self, handle: int) -> None:
        assert handle == 7

    def set_stream(self, handle: int, stream: int) -> None:
        assert (handle, stream) == (7, 99)

    def set_workspace(self, handle: int, address: int, size: int) -> None:
        self.workspace = address, size

    def get_version(self, handle: int) -> int:
        return 130000

    def gemm_ex(
        self, handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
        b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute: int, algorithm: int,
    ) -> None:  # fmt: skip
        self.computed.append(compute)
        stored = (m if op_a == self.Operation.N else k, k if op_b == self.Operation.N else n, m)
        assert all(stride >= rows for stride, rows in zip((lda, ldb, ldc), stored, strict=True))
        scale, keep = (ctypes.c_double.from_address(address).value for address in (alpha, beta))
        left = columns_of(a, m, k, lda) if op_a == self.Operation.N else columns_of(a, k, m, lda).T
        right = columns_of(b, k, n, ldb) if op_b == self.Operation.N else columns_of(b, n, k, ldb).T
        into = columns_of(c, m, n, ldc)
        into[...] = scale * (left @ right) + keep * into


class Host:
    """An allocator and device of host memory."""

    compute_stream = 99

    def allocate(self, elements: int, dtype: str, what: str) -> OnHost:
        return OnHost(np.zeros(elements, dtype))


def products(monkeypatch: pytest.MonkeyPatch, dtype: str = "float64", tf32: bool = False) -> tuple[Any, Blas]:
    blas = Blas()
    monkeypatch.setattr(cublas, "cublas", blas)
    case = Case(backend="numba_cuda", device="cuda", dtype=dtype)  # type: ignore[arg-type]
    network: Any = SimpleNamespace(plan=plan_of(case, Limits(1)), product=None)
    host: Any = Host()
    return cublas.CublasProducts(host, network, host, tf32), blas


@pytest.mark.parametrize("sizes", [(3, 5, 4), (1, 5, 4), (3, 1, 4), (3, 5, 1), (1, 1, 4), (3, 1, 1)])
@pytest.mark.parametrize(("adds", "a_turned", "b_turned"), list(itertools.product([False, True], repeat=3)))
def test_a_product_by_cublas_is_that_of_rows(
    adds: bool, a_turned: bool, b_turned: bool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way in which the program's operands lie, with more elements before and after each of them."""
    rng = np.random.default_rng(0)
    (rows, columns, depth), before = sizes, 2
    found, _ = products(monkeypatch)
    a, b, c = (rng.standard_normal(before + size + 3) for size in (rows * depth, depth * columns, rows * columns))

    def operand(flat: Flat, shape: tuple[int, int], turned: bool) -> tuple[Matrix, Flat]:
        own = flat[before : before + shape[0] * shape[1]]
        if turned:
            return Matrix(OnHost(flat), before, 1, shape[0]), own.reshape(shape[1], shape[0]).T
        return Matrix(OnHost(flat), before, shape[1]), own.reshape(shape)

    left, a_values = operand(a, (rows, depth), a_turned)
    right, b_values = operand(b, (depth, columns), b_turned)
    outside = c[:before].copy(), c[before + rows * columns :].copy()
    wanted = a_values @ b_values + adds * c[before : before + rows * columns].reshape(rows, columns)
    found.multiply(Matrix(OnHost(c), before, columns), left, right, (rows, columns, depth), adds, False)
    np.testing.assert_allclose(c[before : before + rows * columns].reshape(rows, columns), wanted, rtol=1e-12)
    np.testing.assert_array_equal(np.concatenate(outside), np.concatenate([c[:before], c[before + rows * columns :]]))


def test_only_products_that_may_round_use_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    found, blas = products(monkeypatch, "float32", tf32=True)
    monkeypatch.setattr(blas, "gemm_ex", lambda *arguments: blas.computed.append(arguments[-2]))
    one = Matrix(OnHost(np.ones(1, np.float32)), 0, 1)
    for exact in (False, True):
        found.multiply(one, one, one, (1, 1, 1), False, exact)
    assert blas.computed == [blas.ComputeType.COMPUTE_32F_FAST_TF32, blas.ComputeType.COMPUTE_32F]
    assert "TF32" in found.name


def test_cublas_works_in_memory_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    _, blas = products(monkeypatch)
    assert blas.workspace is not None
    assert blas.workspace[1] == cublas.WORKSPACE_BYTES


def test_a_product_beyond_32_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = products(monkeypatch)
    one = Matrix(OnHost(np.ones(1)), 0, 1)
    with pytest.raises(ValueError, match="at most 2147483647"):
        found.multiply(one, one, one, (2**31, 1, 1), False, False)


# ---------------------------------------------------------------- graphs


class Driver:
    """The driver's graph functions; `fails` names the one that does not succeed."""

    CUresult, CUstreamCaptureMode = RESULT, cuda_driver.CUstreamCaptureMode

    def __init__(self, fails: str = "", result: Any = RESULT.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) -> None:
        self.calls: list[str] = []
        self._fails, self._result = fails, result

    def CUstream(self, handle: int) -> int:  # noqa: N802 - the driver's name
        return handle

    def __getattr__(self, name: str) -> Any:
        values: dict[str, tuple[Any, ...]] = {
            "cuStreamEndCapture": ("a graph",),
            "cuGraphGetNodes": ([], 12),
            "cuGraphInstantiate": ("an executable",),
        }

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == self._fails:
                return (self._result, *(None for _ in values.get(name, ())))
            return (RESULT.CUDA_SUCCESS, *values.get(name, ()))

        return call


def test_a_graph_is_captured_counted_and_instantiated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, phases, issued = Driver(), Phases(), []
    monkeypatch.setattr(graph, "driver", driver)
    captured = graph.CapturedGraph(5, lambda: issued.append(len(driver.calls)), phases)
    captured.replay()
    captured.replay()
    captured.close()
    names = ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphGetNodes", "cuGraphInstantiate", "cuGraphDestroy"]
    assert driver.calls == [*names, "cuGraphLaunch", "cuGraphLaunch", "cuGraphExecDestroy"]
    assert issued == [1]
    assert captured.nodes == 12
    assert set(phases.seconds) == {"capture", "instantiate"}


def test_a_refused_graph_is_told_with_the_drivers_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "driver", Driver("cuStreamEndCapture"))
    with pytest.raises(graph.GraphError, match="cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        graph.CapturedGraph(5, lambda: None, Phases())


def test_no_room_for_a_graph_is_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "driver", Driver("cuGraphInstantiate", RESULT.CUDA_ERROR_OUT_OF_MEMORY))
    with pytest.raises(MemoryError, match="cuGraphInstantiate"):
        graph.CapturedGraph(5, lambda: None, Phases())


def test_a_capture_ends_where_a_launch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(graph, "driver", driver)

    def fail() -> None:
        raise RuntimeError("no launch")

    with pytest.raises(RuntimeError, match="no launch"):
        graph.CapturedGraph(5, fail, Phases())
    assert driver.calls == ["cuStreamBeginCapture", "cuStreamEndCapture"]


# ---------------------------------------------------------------- compiling


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    """numba-cuda compiles and links for an H200, and a module that is loaded is one that says what it was."""
    function = SimpleNamespace(
        attrs=SimpleNamespace(regs=100, local=0, shared=0, maxthreads=256), handle="a handle", module=None
    )
    own = SimpleNamespace(compute_capability=(9, 0), id=0, MULTIPROCESSOR_COUNT=132, COOPERATIVE_LAUNCH=1)
    context = SimpleNamespace(
        device=own,
        create_module_image=lambda *arguments: SimpleNamespace(get_function=lambda name: function),
        get_active_blocks_per_multiprocessor=lambda *arguments: 1,
    )
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: own)
    monkeypatch.setattr(dispatcher, "get_context", lambda: context)
    monkeypatch.setattr(devices, "get_context", lambda: context)
    monkeypatch.setattr(dispatcher._Kernel, "initialize_once", lambda kernel, module: None)
    monkeypatch.setattr(hardware, "numba_driver", SimpleNamespace(cuKernelSetAttribute=lambda *arguments: None))
    made = device()
    made._device = own
    return made


@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_hardware_compiles_links_and_grants_every_kernel(execution: str, without_driver: Any) -> None:
    sizes: dict[str, Any] = {"mode": "train", "num_units": 512, "batch_size": 32, "sequence_length": 3}
    case = Case(backend="numba_cuda", device="cuda", execution=execution, **sizes)  # type: ignore[arg-type]
    plan = plan_of(case, without_driver.limits)
    network = compile_plan(plan, without_driver)
    for name, kernel in network.kernels.items():
        loops = name.startswith("loop_")
        without_driver.prepare(kernel, plan.launch(name), loops)
        (overload,) = kernel.overloads.values()
        assert overload.cooperative == loops
        size = without_driver.kernel_size(kernel)
        assert min(size.ptx_bytes, size.cubin_bytes) > 1000
        assert without_driver.compilations(kernel) == 1


def test_hardware_compiles_links_and_grants_the_kernels_of_its_ceilings(without_driver: Any) -> None:
    shared_bytes = without_driver.limits.shared_bytes
    for kernel, launch in (
        (ceiling_text.multiply_adds(without_driver, "float32"), Launch((8 * 132, 1), (256, 1, 1), 0)),
        (ceiling_text.multiply_adds(without_driver, "float64"), Launch((8 * 132, 1), (256, 1, 1), 0)),
        (ceiling_text.read_shared(without_driver), Launch((132, 1), (256, 1, 1), shared_bytes)),
        (ceiling_text.read_global(without_driver), Launch((4 * 132, 1), (256, 1, 1), 0)),
    ):
        without_driver.prepare(kernel, launch, False)
        assert without_driver.compilations(kernel) == 1


# ---------------------------------------------------------------- what a device does not grant


def device(optin: int = 200_000, cooperative: bool = True) -> Any:
    """A device without a driver behind it."""
    made: Any = object.__new__(hardware.CudaDevice)
    made.name, made.limits = "a GPU", Limits(132, optin)
    made._device = SimpleNamespace(id=0, COOPERATIVE_LAUNCH=int(cooperative))
    made._compute = 0
    return made


class Kernel:
    """A compiled kernel as numba-cuda shows it."""

    def __init__(self, blocks: int = 132, threads: int = 256, cooperative: bool = True) -> None:
        self.attrs = SimpleNamespace(maxthreads=threads, regs=200, shared=0)
        self.handle, self.cooperative = "a handle", cooperative
        self._codelibrary = SimpleNamespace(get_cufunc=lambda: self)
        self.overloads = {(): self}
        self.py_func = SimpleNamespace(__name__="loop_forward")
        self._blocks = blocks

    def max_cooperative_grid_blocks(self, block: Any, shared: int) -> int:
        return self._blocks

    def __getitem__(self, configuration: Any) -> Any:
        return lambda *arguments: None


ASKED = Launch((132, 1), (32, 8, 1), 100_000)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (Kernel(blocks=131), "wants 132 blocks at once.* runs 131"),
        (Kernel(threads=128), "takes 200 registers.* 128 threads; its 256 are too many"),
        (Kernel(cooperative=False), "no grid barrier"),
    ],
)
def test_a_launch_that_would_hang_or_fail_is_refused_at_build(
    kernel: Kernel, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "numba_driver", SimpleNamespace(cuKernelSetAttribute=lambda *arguments: None))
    with pytest.raises(DeviceLimitError, match=reason):
        device().prepare(kernel, ASKED, True)


def test_more_shared_memory_than_the_device_has_is_refused() -> None:
    with pytest.raises(DeviceLimitError, match=r"wants 100000 bytes of shared memory per block.* grants 50000"):
        device(optin=50_000).prepare(Kernel(), ASKED, False)


def test_a_device_without_cooperative_launch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "numba_driver", SimpleNamespace(cuKernelSetAttribute=lambda *arguments: None))
    with pytest.raises(DeviceLimitError, match="no cooperative launch"):
        device(cooperative=False).prepare(Kernel(), ASKED, True)


def test_leave_for_shared_memory_is_asked_only_beyond_what_all_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(hardware, "numba_driver", SimpleNamespace(cuKernelSetAttribute=lambda *own: asked.append(own)))
    device().prepare(Kernel(), ASKED, True)
    device().prepare(Kernel(), Launch((132, 1), (32, 8, 1), 48 * 1024), True)
    assert asked == [(hardware.MAX_DYNAMIC_SHARED, 100_000, "a handle", 0)]


def test_a_cold_run_is_flushed_before_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def __init__(self) -> None:
            self.record = lambda stream: log.append("event")
            self.elapsed_time = lambda other: 4.0

    made = device()
    monkeypatch.setattr(hardware, "cuda", SimpleNamespace(event=Event))
    monkeypatch.setattr(made, "_flush_l2", lambda: log.append("flush"))
    monkeypatch.setattr(made, "synchronize", lambda: log.append("wait"))
    assert made.event_s(lambda: log.append("run"), 2, True) == (0.004, 0.004)
    assert log == ["flush", "event", "run", "event"] * 2 + ["wait"]


def test_the_drivers_lack_of_memory_is_ours() -> None:
    with pytest.raises(MemoryError, match="8 bytes of a test"), hardware._no_memory("8 bytes of a test"):
        raise CudaAPIError(RESULT.CUDA_ERROR_OUT_OF_MEMORY, "no memory")  # type: ignore[no-untyped-call]
    with pytest.raises(CudaAPIError), hardware._no_memory("8 bytes of a test"):
        raise CudaAPIError(RESULT.CUDA_ERROR_INVALID_VALUE, "no value")  # type: ignore[no-untyped-call]

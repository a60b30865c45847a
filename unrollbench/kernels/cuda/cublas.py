"""Large products by cuBLAS, through nvmath-python.

cuBLAS counts in columns: a row-major c = a . b is its column-major c^T = b^T . a^T, so the operands change places.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import nvmath
from nvmath.bindings import cublas

from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.matmul import Matrix
from unrollbench.kernels.cuda.memory import Allocator
from unrollbench.kernels.cuda.network import Network

WORKSPACE_BYTES = 32 * 2**20
"""What cuBLAS recommends for Hopper, more than for what came before. Of our own, since it must not allocate while a
graph is captured. Source: cuBLAS documentation, cublasSetWorkspace."""
LARGEST = 2**31 - 1
"""Sizes and strides are 32-bit integers there."""
TYPES = {"float32": nvmath.CudaDataType.CUDA_R_32F, "float64": nvmath.CudaDataType.CUDA_R_64F}
COMPUTE = {
    ("float32", False): cublas.ComputeType.COMPUTE_32F,
    ("float32", True): cublas.ComputeType.COMPUTE_32F_FAST_TF32,
    ("float64", False): cublas.ComputeType.COMPUTE_64F,
}
"""(dtype, whether products may round their operands to TF32) -> how cuBLAS computes."""
DEFAULT_ALGORITHM = -1
"""CUBLAS_GEMM_DEFAULT: the library's own choice."""


def versions() -> dict[str, str]:
    """The packages' versions; no device is asked."""
    return {"nvmath-python": nvmath.__version__}


class CublasProducts:
    """Products on the device's compute stream. tf32: those that are not `exact` may use it."""

    workspace_bytes = WORKSPACE_BYTES

    def __init__(self, device: Device, network: Network, allocator: Allocator, tf32: bool) -> None:
        self._device, self._network = device, network
        self._dtype, self._tf32 = network.plan.spec.dtype, tf32
        number = np.dtype(self._dtype)
        self._workspace = allocator.allocate(WORKSPACE_BYTES // number.itemsize, self._dtype, "cuBLAS's workspace")
        self._one, self._zero = np.ones(1, number), np.zeros(1, number)
        self._handle = cublas.create()
        cublas.set_stream(self._handle, device.compute_stream)
        cublas.set_workspace(self._handle, _address(self._workspace), WORKSPACE_BYTES)
        version = cublas.get_version(self._handle)
        self.name = f"cuBLAS {version}, {'TF32' if tf32 else self._dtype}"

    def multiply(self, c: Matrix, a: Matrix, b: Matrix, sizes: tuple[int, int, int], adds: bool, exact: bool) -> None:
        rows, columns, depth = sizes
        if depth == 0:
            self._clear(c, a, b, sizes, adds)
            return
        left, left_stride = _operation(b, columns)
        right, right_stride = _operation(a, depth)
        numbers = (*sizes, left_stride, right_stride, c.row)
        if max(numbers) > LARGEST:
            raise ValueError(f"a product of {rows} x {depth} by {depth} x {columns}: cuBLAS takes at most {LARGEST}")
        kind = TYPES[self._dtype]
        cublas.gemm_ex(
            self._handle, left, right, columns, rows, depth, self._one.ctypes.data,
            _address(b.array, b.first), kind, left_stride, _address(a.array, a.first), kind, right_stride,
            (self._one if adds else self._zero).ctypes.data, _address(c.array, c.first), kind, c.row,
            COMPUTE[self._dtype, self._tf32 and not exact], DEFAULT_ALGORITHM,
        )  # fmt: skip

    def _clear(self, c: Matrix, a: Matrix, b: Matrix, sizes: tuple[int, int, int], adds: bool) -> None:
        """A sum of nothing, by our own kernel: it writes zeros, and reads neither operand."""
        plan = self._network.plan
        launch = plan.product_launch(sizes[0], sizes[1])
        operands = (a.array, a.first, a.row, a.column, b.array, b.first, b.row, b.column)
        self._device.bind(self._network.product, launch)(c.array, c.first, c.row, *operands, *sizes, int(adds))

    def close(self) -> None:
        cublas.destroy(self._handle)


def _operation(matrix: Matrix, columns: int) -> tuple[int, int]:
    """How cuBLAS takes a row-major operand, and the stride between its rows: as it is, or transposed.

    Both strides of a transposed column are 1: as it is, its rows would overlap, which cuBLAS refuses.
    """
    if matrix.column == 1 and matrix.row >= columns:
        return int(cublas.Operation.N), matrix.row
    return int(cublas.Operation.T), matrix.column


def _address(array: Any, first: int = 0) -> int:
    return int(array.device_ctypes_pointer.value) + first * array.dtype.itemsize

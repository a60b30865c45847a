"""The seam of the large products: a static or stepwise program's input, and the gradients of inputs and weights.

On hardware they are cuBLAS's (`cublas.CublasProducts`); in the simulator our own tiled kernel's, and the program says
which. The recurrent products, and all products inside a dynamic program's kernels, are never here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.network import Network


@dataclass(frozen=True)
class Matrix:
    """A view of a flat array: element (i, j) is array[first + i * row + j * column]; one of the strides is 1."""

    array: Any
    first: int
    row: int
    column: int = 1

    @property
    def transposed(self) -> Matrix:
        return Matrix(self.array, self.first, self.column, self.row)


class Products(Protocol):
    """c = a . b, or c += a . b with `adds`; c has rows x columns, a has rows x depth. `exact`: not in TF32."""

    name: str
    workspace_bytes: int

    def multiply(self, c: Matrix, a: Matrix, b: Matrix, sizes: tuple[int, int, int], adds: bool, exact: bool) -> None:
        """Starts the product on the compute stream. sizes: rows, columns, depth."""

    def close(self) -> None:
        """Gives everything back."""


class TiledProducts:
    """Products by our own kernel."""

    name = "the tiled kernel of unrollbench"
    workspace_bytes = 0

    def __init__(self, device: Device, network: Network) -> None:
        self._device, self._network = device, network

    def multiply(self, c: Matrix, a: Matrix, b: Matrix, sizes: tuple[int, int, int], adds: bool, exact: bool) -> None:
        rows, columns, depth = sizes
        arguments = (c.array, c.first, c.row, a.array, a.first, a.row, a.column, b.array, b.first, b.row, b.column)
        launch = self._network.plan.product_launch(rows, columns)
        self._device.bind(self._network.product, launch)(*arguments, rows, columns, depth, int(adds))

    def close(self) -> None:
        """Nothing of its own."""

"""What the host's driver text calls: launches, products and swaps, by the names that `specialize` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unrollbench.kernels.cuda.layout import LayerLayout, Slots, StageLayout
from unrollbench.kernels.cuda.matmul import Matrix, Products
from unrollbench.kernels.cuda.storage import Storage
from unrollbench.kernels.cuda.swap import Windows
from unrollbench.kernels.source import define

Scope = dict[str, Callable[..., Any]]


class Driver:
    """The run of a program as calls; `storage` says where everything lies."""

    def __init__(self, storage: Storage, products: Products, windows: Windows | None) -> None:
        self._storage, self._products, self._windows = storage, products, windows
        self._network, self._device = storage.network, storage.device
        scope = self._scope()
        self.texts = self._network.plan.host_texts()
        self._functions = {name: define(text, name, scope) for name, text in self.texts.items()}

    def forward(self, steps: int, limit: int) -> None:
        """Starts a forward pass."""
        if self._windows is not None:
            window = self._network.plan.schedule.window
            self._windows.begin(self._storage.m, -(-limit // window))
        self._functions["run_forward"](steps, limit)

    def backward(self, steps: int, limit: int) -> None:
        """Starts a backward pass."""
        self._functions["run_backward"](steps, limit)

    # ------------------------------------------------------------ names

    def _scope(self) -> Scope:
        scope: Scope = {name: self._kernel(name) for name in self._network.kernels}
        for layout in self._network.plan.layouts:
            scope[f"project_{layout.index}"] = self._of_layer(self._project, layout)
            scope[f"d_inputs_{layout.index}"] = self._of_layer(self._d_inputs, layout)
            scope[f"d_weights_{layout.index}"] = self._of_layer(self._d_weights, layout)
        scope["d_diagonals"] = self._d_diagonals
        if self._windows is not None:
            names = ("base", "place_is_free", "swap_out", "swap_in_ahead", "swap_in", "place_is_done")
            scope |= {name: getattr(self._windows, name) for name in names}
        return scope

    def _kernel(self, name: str) -> Callable[..., None]:
        storage = self._storage
        launch = self._device.bind(self._network.kernels[name], self._network.plan.launch(name))

        def start(t: int, s: int = 0, n: int = 0, base: int = 0, count: int = 0) -> None:
            # Not bound once: another T may have its activations in another array.
            launch(storage.m, storage.w, storage.f, storage.lengths, t, s, n, base, count)

        return start

    @staticmethod
    def _of_layer(call: Callable[..., None], layout: LayerLayout) -> Callable[..., None]:
        def start(*arguments: int) -> None:
            call(layout, *arguments)

        return start

    # ------------------------------------------------------------ products

    def _at(self, layout: LayerLayout, name: str, slots: Slots, width: int, slot: tuple[int, int, int]) -> Matrix:
        """An array's rows from a slot on; slot: (t, s, base)."""
        t, s, base = slot
        rows = {"time": t * layout.batch, "window": s * layout.batch, "single": 0}[slots]
        first = self._storage.first(layout.index, name) + rows * width + (base if slots == "window" else 0)
        return Matrix(self._storage.m, first, width)

    def _x(self, layout: LayerLayout, t: int, n: int, base: int) -> Matrix:
        if layout.index == 0:
            return self._at(layout, "x", "time", layout.spec.input_size, (t, 0, 0))
        below = self._network.plan.layouts[layout.index - 1]
        return self._at(below, "h", below.arrays["h"].slots, layout.spec.input_size, (t + 1, n, base))

    def _gates(self, layout: LayerLayout, s: StageLayout, slot: tuple[int, int, int]) -> Matrix:
        return self._at(layout, f"gates_{s.index}", layout.saved, s.width, slot)

    def _weight(self, layout: LayerLayout, name: str, width: int, skipped_rows: int = 0) -> Matrix:
        return Matrix(self._storage.w, self._storage.first(layout.index, name) + skipped_rows * width, width)

    def _project(self, layout: LayerLayout, t: int, s: int, n: int, base: int, count: int) -> None:
        """The input's share of `count` steps from t on."""
        x = self._x(layout, t, n, base)
        for stage in layout.stages:
            if stage.stage.takes_input and count:
                sizes = (count * layout.batch, stage.width, layout.spec.input_size)
                weights = self._weight(layout, f"W_x_{stage.index}", stage.width)
                self._products.multiply(self._gates(layout, stage, (t, s, base)), x, weights, sizes, False, False)

    def _d_inputs(self, layout: LayerLayout, t: int, s: int, n: int, base: int, count: int) -> None:
        """The gradient of the input of `count` steps from t on."""
        inputs = layout.spec.input_size
        d_x = self._at(layout, "d_x", "window" if layout.index else "time", inputs, (t, s, 0))
        taking = [stage for stage in layout.stages if stage.stage.takes_input]
        for number, stage in enumerate(taking if count else ()):
            weights = self._weight(layout, f"W_x_{stage.index}", stage.width).transposed
            sizes = (count * layout.batch, inputs, stage.width)
            self._products.multiply(d_x, self._gates(layout, stage, (t, s, base)), weights, sizes, number > 0, False)

    def _d_weights(
        self, layout: LayerLayout, t: int, s: int, n: int, base: int, count: int, adds: bool = False
    ) -> None:
        """The gradients of the weights over `count` steps from t on, added to what is there with `adds`."""
        rows, slot = count * layout.batch, (t, s, base)
        for stage in layout.stages:
            d_pre, name = self._gates(layout, stage, slot), f"d_kernel_{stage.index}"
            inputs = 0
            if stage.stage.takes_input:
                inputs = layout.spec.input_size
                x = self._x(layout, t, n, base).transposed
                sizes = (inputs, stage.width, rows)
                self._products.multiply(self._weight(layout, name, stage.width), x, d_pre, sizes, adds, False)
            a = layout.arrays[stage.stage.operand]
            operand = self._at(layout, a.name, a.slots, a.size, slot).transposed
            to = self._weight(layout, name, stage.width, inputs)
            self._products.multiply(to, operand, d_pre, (a.size, stage.width, rows), adds, False)
            if stage.stage.bias is not None:
                to = self._weight(layout, f"d_bias_{stage.index}", stage.width)
                self._sum_rows(to, d_pre, rows, stage.width, adds)

    def _sum_rows(self, to: Matrix, rows: Matrix, count: int, width: int, adds: bool) -> None:
        """The sum of rows, as a product with ones; a sum needs all of its digits, whatever products may round to."""
        ones = Matrix(self._storage.ones, 0, max(count, 1))
        self._products.multiply(to, ones, rows, (1, width, count), adds, True)

    def _d_diagonals(self) -> None:
        for layout in self._network.plan.layouts:
            for stage in layout.stages:
                for name in stage.stage.diagonals:
                    rows = self._at(layout, f"rows_d_{name}", "single", stage.units, (0, 0, 0))
                    to = self._weight(layout, f"d_{name}", stage.units)
                    self._sum_rows(to, rows, layout.batch, stage.units, False)

"""A network on a CUDA device: compiled, with its memory, inputs and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from unrollbench.backends import Listing, Memory
from unrollbench.backends.cuda_listing import listing
from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.driver import Driver
from unrollbench.kernels.cuda.loop import last_slot
from unrollbench.kernels.cuda.matmul import Products
from unrollbench.kernels.cuda.memory import Allocator, Limit
from unrollbench.kernels.cuda.network import Network, Plan, compile_plan
from unrollbench.kernels.cuda.passes import Pass
from unrollbench.kernels.cuda.storage import Storage
from unrollbench.kernels.cuda.swap import Windows
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.schedule import Schedule
from unrollbench.tensors import Array, Gradients, State, Weights

MakeProducts = Callable[[Device, Network, Allocator], Products]


class NetworkProgram:
    """A compiled stack of layers with its memory on the device, laid out at first for inputs of `steps` time steps.

    Inputs are (T,B,I) if time_major, else (B,T,I). T may change from call to call unless the program is static: nothing
    is compiled again, the device's memory is laid out anew, and allocated anew where it has to grow. Results are new
    arrays that the caller owns.

    A static program is a captured graph for given lengths. It is recorded by `ready`, and by `forward` and `backward`
    when the longest length is another than at their last recording; weights, inputs, state and the rows' own lengths
    may change without.
    """

    def __init__(
        self, spec: NetworkSpec, schedule: Schedule, steps: int, device: Device, limit: Limit, products: MakeProducts
    ) -> None:
        self._phases = Phases()
        self.build_phases_s: Mapping[str, float] = self._phases.seconds
        self.device, self.spec, self.schedule = device, spec, schedule
        with self._phases.measure("schedule"):
            plan = Plan(spec, schedule, steps, device.limits)
        with self._phases.measure("compile"):
            self.network = compile_plan(plan, device)
        with self._phases.measure("load"):
            self._prepare()
        self.allocator = Allocator(device, limit, spec.dtype)
        try:
            with self._phases.measure("allocate"):
                self._allocate(steps, products)
        except MemoryError:
            self.allocator.close()
            raise
        records = schedule.execution == "static"
        # The benchmark's run is one recording; the two passes of the rnn face are started one by one.
        self._whole = Pass(device, self._phases, self._issue, records)
        self._forward = Pass(device, self._phases, self._issue_forward, records)
        self._backward = Pass(device, self._phases, self._issue_backward, records)
        self._spent = False

    def _prepare(self) -> None:
        plan = self.network.plan
        for name, kernel in self.network.kernels.items():
            self.device.prepare(kernel, plan.launch(name), name.startswith("loop_"))
        self.device.prepare(self.network.product, plan.product_launch(1, 1), False)

    def _allocate(self, steps: int, products: MakeProducts) -> None:
        # What depends on T comes last, so that it can grow into what is left of a pool.
        self.products = products(self.device, self.network, self.allocator)
        try:
            self.storage = Storage(self.network, self.device, self.allocator, steps)
            self.windows = (
                Windows(self.device, *self._windows(steps), self.spec.dtype) if self.spec.swap_memory else None
            )
        except MemoryError:
            self.products.close()
            raise
        self.driver = Driver(self.storage, self.products, self.windows)
        self.steps: int | None = steps

    def _windows(self, steps: int) -> tuple[int, int, int]:
        """Of the windows that are swapped: the first's first element, the elements of one, how many there are."""
        return self.storage.data.elements, self.storage.window_elements, -(-steps // self.schedule.window)

    def _resize(self, steps: int) -> None:
        """There is room for T = steps, or MemoryError is raised and there is room for nothing until the next call."""
        if steps == self.steps:
            return
        self.steps = None
        if self.windows is not None:
            self.windows.let_go()
        self.storage.resize(steps)
        if self.windows is not None:
            self.windows.resize(*self._windows(steps))
        self.steps = steps

    # ------------------------------------------------------------ what to compute with

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Copies the weights (TensorFlow's names and layouts, one dict per layer) to the device."""
        with self._phases.measure("pack"):
            self.storage.put_weights(weights)

    def set_inputs(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> None:
        """Copies inputs, lengths and state to the device, which is laid out for the inputs' T.

        Raises ValueError where T is not what a static program was built for, or a length is not in 0..T; MemoryError
        where the device has no room for that T: it can still be called with another one.
        """
        steps, built_for = inputs.shape[0 if self.spec.time_major else 1], self.schedule.max_time
        if built_for is not None and steps != built_for:
            raise ValueError(f"inputs: {steps} time steps, but this static program was built for {built_for}")
        if lengths is None:
            lengths = np.full(self.spec.batch_size, steps, np.int64)
        if not 0 <= lengths.min() <= lengths.max() <= steps:
            raise ValueError(
                f"lengths: {lengths.min()} to {lengths.max()}, expected 0 to {steps}, the time steps of inputs"
            )
        self._resize(steps)
        self.lengths, self.limit = lengths, int(lengths.max())
        self.storage.set_lengths(lengths)
        self.storage.put(0, "x" if self.spec.time_major else "batch_x", inputs)
        self.storage.put_states("initial_", initial_state)

    def set_cotangents(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> None:
        """Copies the gradients that the backward pass starts from to the device; None is zero."""
        self.storage.put(len(self.spec.layers) - 1, "d_out" if self.spec.time_major else "batch_d_out", d_outputs)
        self.storage.put_states("given_", d_state)

    # ------------------------------------------------------------ running

    def ready(self) -> None:
        """A static program's run is recorded for the lengths that were set; the others need nothing."""
        self._whole.ready(self.limit)

    def _issue(self) -> None:
        """Starts a forward and, in training, a backward pass."""
        self._issue_forward()
        if self.spec.train:
            self._issue_backward()

    def _issue_forward(self) -> None:
        self.driver.forward(self.storage.steps, self.limit)

    def _issue_backward(self) -> None:
        self.driver.backward(self.storage.steps, self.limit)

    def run(self) -> None:
        """Starts one run."""
        self._whole.start()

    # ------------------------------------------------------------ the rnn face's view

    def forward(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> tuple[Array, tuple[State, ...]]:
        """(outputs, final state per layer) of the inputs."""
        self.set_inputs(inputs, lengths, initial_state)
        self._forward.ready(self.limit)
        self._forward.start()
        self._spent = False
        return self.outputs(), self.final_state()

    def backward(self, d_outputs: Array | None, d_state: Sequence[State] | None) -> Gradients:
        """Gradients of the last `forward`, also again for other cotangents (that runs `forward` again)."""
        self.set_cotangents(d_outputs, d_state)
        if self._backward.ready(self.limit) or self._spent:  # it has run: gradients are where activations were saved
            self._forward.start()
        self._backward.start()
        self._spent = True
        return self.gradients()

    # ------------------------------------------------------------ results

    def outputs(self) -> Array:
        """(T,B,P) or (B,T,P), a copy."""
        top = len(self.spec.layers) - 1
        return self.storage.get(top, "h")[1:] if self.spec.time_major else self.storage.get(top, "batch_out")

    def final_state(self) -> tuple[State, ...]:
        """Per layer the state arrays after each row's last step, copies."""
        return tuple(
            tuple(self._final(layout.index, name) for name in layout.cell.state) for layout in self.network.plan.layouts
        )

    def _final(self, layer: int, name: str) -> Array:
        slots = self.network.plan.layouts[layer].arrays[name].slots
        if slots == "window" and self.spec.swap_memory:
            return self.storage.get(layer, f"final_{name}")
        found = self.storage.get(layer, name)
        rows, last_step = np.arange(self.spec.batch_size), last_slot(self.schedule, self.limit)
        last = {"time": self.lengths, "window": np.full_like(self.lengths, last_step), "single": 0 * rows}
        state: Array = found[last[slots], rows]
        return state

    def gradients(self) -> Gradients:
        """Gradients after a training run, copies in TensorFlow's layouts."""
        get, layouts = self.storage.get, self.network.plan.layouts
        states = tuple(tuple(get(layout.index, f"d_{n}") for n in layout.cell.state) for layout in layouts)
        weights = []
        for layout in layouts:
            found: Weights = {}
            for s in layout.stages:
                found[s.stage.kernel] = get(layout.index, f"d_kernel_{s.index}")
                if s.stage.bias is not None:
                    found[s.stage.bias] = get(layout.index, f"d_bias_{s.index}")
                found |= {name: get(layout.index, f"d_{name}") for name in s.stage.diagonals}
            weights.append(found)
        inputs = get(0, "d_x" if self.spec.time_major else "batch_d_x")
        return Gradients(inputs, tuple(weights), states)

    # ------------------------------------------------------------ what it is

    def listing(self) -> Listing:
        """The host's driver and the kernels as text, and what the compiler and the driver say of the kernels."""
        recorded = [a.nodes for a in (self._whole, self._forward, self._backward) if a.nodes is not None]
        return listing(self.network, self.device, self.driver.texts, self.products.name, recorded)

    def memory(self) -> Memory:
        """The storage's account, the allocator's and the driver's."""
        storage = self.storage
        saved = storage.saved_bytes + (self.windows.host_bytes if self.windows is not None else 0)
        return Memory(
            weight_bytes=storage.weight_bytes,
            workspace_bytes=storage.workspace_bytes + self.products.workspace_bytes,
            saved_bytes=saved,
            device_bytes=self.allocator.now,
            device_peak_bytes=self.allocator.peak,
            driver_bytes=self.device.driver_bytes(),
        )

    def compilations(self) -> int:
        """How often this program's kernels have been compiled."""
        return sum(self.device.compilations(k) for k in (*self.network.kernels.values(), self.network.product))

    def event_s(self, runs: int, cold: bool) -> tuple[float, ...]:
        """Seconds of each run between two events of the compute stream."""
        return self.device.event_s(self.run, runs, cold)

    def close(self) -> None:
        """Gives the device's memory back; the program cannot run afterwards."""
        self.device.synchronize()
        for each in (self._whole, self._forward, self._backward):
            each.close()
        self.products.close()
        del self.driver, self.storage, self.windows, self.products
        self.allocator.close()

"""A network on a CUDA device: compiled, with its memory, inputs and results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from unrollbench import graph
from unrollbench.backends import Listing, Memory
from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.device import Device, Recording
from unrollbench.kernels.cuda.driver import Driver
from unrollbench.kernels.cuda.matmul import Products
from unrollbench.kernels.cuda.memory import Allocator, Limit
from unrollbench.kernels.cuda.network import Network, Plan, compile_plan
from unrollbench.kernels.cuda.storage import Storage
from unrollbench.kernels.cuda.swap import Windows
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.schedule import Schedule
from unrollbench.tensors import Array, Gradients, State, Weights

MakeProducts = Callable[[Device, Network, Allocator], Products]


class NetworkProgram:
    """A compiled stack of layers with its memory on the device, for inputs of `steps` time steps.

    Inputs are (T,B,I) if time_major, else (B,T,I). Results are new arrays that the caller owns. Nothing runs before
    `ready`, which records a static program for the lengths that were set.
    """

    def __init__(
        self, spec: NetworkSpec, schedule: Schedule, steps: int, device: Device, limit: Limit, products: MakeProducts
    ) -> None:
        self._phases = Phases()
        self.build_phases_s: Mapping[str, float] = self._phases.seconds
        self.device, self.spec, self.schedule, self.steps = device, spec, schedule, steps
        with self._phases.measure("schedule"):
            plan = Plan(spec, schedule, steps, device.limits)
        with self._phases.measure("compile"):
            self.network = compile_plan(plan, device)
        with self._phases.measure("load"):
            self._prepare()
        self.allocator = Allocator(device, limit, spec.dtype)
        try:
            with self._phases.measure("allocate"):
                self.storage = Storage(self.network, device, self.allocator, steps)
                self.windows = self._windows() if spec.swap_memory else None
                self.products = products(device, self.network, self.allocator)
                self.driver = Driver(self.storage, self.products, self.windows)
        except MemoryError:
            self.allocator.close()
            raise
        self.recording: Recording | None = None

    def _prepare(self) -> None:
        plan = self.network.plan
        for name, kernel in self.network.kernels.items():
            self.device.prepare(kernel, plan.launch(name), name.startswith("loop_"))
        self.device.prepare(self.network.product, plan.product_launch(1, 1), False)

    def _windows(self) -> Windows:
        storage = self.storage
        count = -(-self.steps // self.schedule.window)
        first = storage.data.elements
        return Windows(self.device, first, storage.window_elements, count, self.spec.dtype)

    # ------------------------------------------------------------ what to compute with

    def set_weights(self, weights: Sequence[Weights]) -> None:
        """Copies the weights (TensorFlow's names and layouts, one dict per layer) to the device."""
        with self._phases.measure("pack"):
            self.storage.put_weights(weights)

    def set_inputs(
        self, inputs: Array, lengths: npt.NDArray[np.int64] | None, initial_state: Sequence[State] | None
    ) -> None:
        """Copies inputs, lengths and state to the device. Raises ValueError where a length is not in 0..T."""
        if lengths is None:
            lengths = np.full(self.spec.batch_size, self.steps, np.int64)
        if not 0 <= lengths.min() <= lengths.max() <= self.steps:
            raise ValueError(f"lengths: {lengths.min()} to {lengths.max()}, expected 0 to {self.steps}")
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
        """A static program is recorded for the lengths that were set; the others need nothing."""
        if self.schedule.execution == "static":
            self.recording = self.device.record(self._issue, self._phases)

    def _issue(self) -> None:
        """Starts a forward and, in training, a backward pass."""
        self.driver.forward(self.steps, self.limit)
        if self.spec.train:
            self.driver.backward(self.steps, self.limit)

    def run(self) -> None:
        """Starts one run."""
        if self.recording is not None:
            self.recording.replay()
        else:
            self._issue()

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
        rows = np.arange(self.spec.batch_size)
        last = {"time": self.lengths, "window": np.full_like(self.lengths, self._last_slot), "single": 0 * rows}
        state: Array = found[last[slots], rows]
        return state

    @property
    def _last_slot(self) -> int:
        """The slot of the last window's last state, 0 if there was no step."""
        if self.schedule.execution == "stepwise":
            return self.limit % 2
        window, rest = self.schedule.window, self.limit
        if self.schedule.unroll > window:  # bodies of several windows, then windows
            bodies = self.limit // self.schedule.unroll
            rest = self.limit - bodies * self.schedule.unroll
            if bodies and not rest:
                rest = self.schedule.unroll
        return (rest - 1) % window + 1 if rest else 0

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
        drawn = graph.draw(self.schedule)
        # The graph's own count where there is one; a loop's nodes are those that it would have in TensorFlow 1.
        nodes = drawn.nodes_count if self.recording is None else self.recording.nodes
        kernels = {name: self.device.kernel_size(kernel) for name, kernel in self.network.kernels.items()}
        texts = [*self.driver.texts.values(), *self.network.texts.values()]
        plan = self.network.plan
        shared = max(plan.launch(name).shared_bytes + (k.static_shared_bytes or 0) for name, k in kernels.items())
        return Listing(
            "\n".join([*self._remarks(), *texts]),
            nodes,
            graph_dot=drawn.dot(),
            ptx_bytes=_of(sum, [k.ptx_bytes for k in kernels.values()]),
            cubin_bytes=_of(sum, [k.cubin_bytes for k in kernels.values()]),
            registers=_of(max, [k.registers for k in kernels.values()]),
            local_bytes=_of(max, [k.local_bytes for k in kernels.values()]),
            shared_bytes=shared,
        )

    def _remarks(self) -> Iterator[str]:
        """What the texts do not show."""
        yield f"# device: {self.device.name}"
        yield f"# large products: {self.products.name}"
        if self.schedule.execution == "static":
            how = "launched in order, not captured" if self.device.simulated else "nodes of one CUDA graph"
            yield f"# static: {self.recording.nodes if self.recording else 0} kernels {how}"
        plan = self.network.plan
        for direction in ("forward", "backward") if self.spec.train else ("forward",):
            for layout, s, _, _ in plan.products(direction) if self.schedule.execution == "dynamic" else ():
                stays = (direction, layout.index, s.index) in plan.residents.places
                where = "in shared memory" if stays else "read from memory at every step: there is no room for them"
                yield f"# {direction}: recurrent weights of layer {layout.index}, stage {s.index}: {where}"

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
        if self.recording is not None:
            self.recording.close()
        self.products.close()
        del self.driver, self.storage, self.windows, self.products, self.recording
        self.allocator.close()


def _of(how: Callable[[Iterable[int]], int], values: Sequence[int | None]) -> int | None:
    """The sum or largest of values, None if one of them is not known."""
    known = [value for value in values if value is not None]
    return how(known) if len(known) == len(values) else None

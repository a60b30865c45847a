"""A stack of layers compiled for one schedule: the code alone, without weights or data."""

from __future__ import annotations

from dataclasses import dataclass

from unrollbench.kernels import amx, cpu, specialize, swap, threads, weight_gradient
from unrollbench.kernels.build import Kernel, Phases
from unrollbench.kernels.division import layouts
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.kernels.words import peek
from unrollbench.schedule import Schedule


@dataclass(frozen=True)
class Network:
    """Compiled entry points by name, the texts they were made of, and the layout that their frames must follow."""

    spec: NetworkSpec
    schedule: Schedule
    layouts: tuple[LayerLayout, ...]
    texts: dict[str, str]
    entries: dict[str, Kernel]

    @property
    def fields_per_layer(self) -> int:
        return _fields_per_layer(self.layouts)

    @property
    def code_bytes(self) -> int | None:
        """Bytes of all machine code that a run can reach."""
        kernels = set().union(*(entry.reachable() for entry in self.entries.values()))
        sizes = [kernel.code_bytes for kernel in kernels]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def compile_network(spec: NetworkSpec, schedule: Schedule, phases: Phases) -> Network:
    """Everything that a run of the network needs, as machine code. `phases` receives what each part cost."""
    with phases.measure("schedule"):
        planned = layouts(spec, schedule)
        shape = specialize.Shape(planned, 8 * _fields_per_layer(planned), spec.swap_memory)
        texts = specialize.forward(schedule, shape)
        texts |= specialize.backward(schedule, shape) if spec.train else {}
        if planned[0].on_matrix_unit:
            texts = {name: f"{text}    release()\n" for name, text in texts.items()}
    with phases.compiling():
        kernels = _kernels(spec, planned)
        namespace = {name: compiled.call for name, compiled in kernels.items()}
        namespace |= {"peek": peek, "release": amx.release, **threads.waiting(spec.threads)}
        uses = [*kernels.values(), *threads.waits(spec.threads)]
        entries = {name: kernel(text, name, namespace, uses) for name, text in texts.items()}
    return Network(spec, schedule, planned, texts, entries)


def _fields_per_layer(planned: tuple[LayerLayout, ...]) -> int:
    return max(len(layout.fields) for layout in planned)


def _kernels(spec: NetworkSpec, planned: tuple[LayerLayout, ...]) -> dict[str, Kernel]:
    """Every kernel that a driver's text may call, by name; those of a layer end in its number."""
    kernels: dict[str, Kernel] = {}
    for index, layout in enumerate(planned):
        of_layer = cpu.forward_kernels(planned, index)
        of_layer |= cpu.backward_kernels(planned, index) if spec.train else {}
        if spec.swap_memory:
            of_layer["release"] = swap.release(layout)
        kernels |= {f"{name}_{index}": compiled for name, compiled in of_layer.items()}
    if planned[0].sums_apart:
        kernels["sum_gradients"] = weight_gradient.sum_gradients(planned[0])
    return kernels

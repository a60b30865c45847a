"""One program called with any number of steps: nothing is compiled again, and memory follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cuda.programs import check_tensors, small
from unrollbench.backends.cuda_program import NetworkProgram
from unrollbench.case import Case
from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.device import Host
from unrollbench.kernels.cuda.matmul import TiledProducts
from unrollbench.kernels.cuda.memory import Limit
from unrollbench.kernels.cuda.simulator import SimulatedDevice
from unrollbench.kernels.spec import spec_of
from unrollbench.schedule import of_case
from unrollbench.tensors import Outputs, Tensors, draw

LENGTHS_OF_CALLS = (5, 3, 9, 1, 5)
LAYERS: dict[str, Any] = {"num_layers": 2, "num_units": (4, 5), "parallel_iterations": 2, "unroll": 1}


class CountingDevice(SimulatedDevice):
    """A device that counts what is compiled, recorded and pinned; a recording runs once first, as on hardware."""

    compiled = recorded = 0

    def __init__(self) -> None:
        super().__init__()
        self.pinned_elements: list[int] = []

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        self.compiled += 1
        return super().kernel(function, signature)

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        self.compiled += 1
        return super().device_function(function, inline)

    def record(self, issue: Callable[[], None], phases: Phases) -> Any:
        self.recorded += 1
        issue()
        return super().record(issue, phases)

    def pinned(self, elements: int, dtype: str) -> Host:
        self.pinned_elements.append(elements)
        return super().pinned(elements, dtype)


@contextmanager
def built(case: Case, limit: Limit | None = None) -> Iterator[tuple[NetworkProgram, CountingDevice]]:
    device = CountingDevice()

    def products(device: Any, network: Any, allocator: Any) -> TiledProducts:
        return TiledProducts(device, network)

    steps = case.sequence_length
    program = NetworkProgram(spec_of(case), of_case(case), steps, device, limit or Limit(), products)
    try:
        yield program, device
    finally:
        program.close()


def call(program: NetworkProgram, tensors: Tensors) -> Outputs:
    """Forward and, in training, backward, started one by one."""
    outputs, state = program.forward(tensors.inputs, tensors.lengths, tensors.initial_state)
    gradients = program.backward(tensors.d_outputs, tensors.d_state) if program.spec.train else None
    return Outputs(outputs, state, gradients)


def lengths(steps: int, given: bool) -> Any:
    return (steps, 0, max(steps - 2, 1)) if given else "full"


@pytest.mark.parametrize("given", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize(
    "axes",
    [
        {"execution": "stepwise"},
        {"execution": "dynamic"},
        {"execution": "dynamic", "time_major": False},
        {"execution": "dynamic", "unroll": 5},
        {"execution": "dynamic", "swap_memory": True},
    ],
    ids=lambda axes: ", ".join(f"{name} {value}" for name, value in axes.items()),
)
def test_a_program_takes_any_number_of_steps(axes: dict[str, Any], mode: str, given: bool) -> None:
    def case(steps: int) -> Case:
        return small(
            "gru", **{**LAYERS, "mode": mode, "sequence_length": steps, "lengths": lengths(steps, given), **axes}
        )

    with built(case(LENGTHS_OF_CALLS[0])) as (program, device):
        program.set_weights(draw(case(5)).weights)
        before = device.compiled, program.compilations()
        for steps in LENGTHS_OF_CALLS:
            tensors = draw(case(steps))
            check_tensors(case(steps), tensors, call(program, tensors))
        assert (device.compiled, program.compilations()) == before

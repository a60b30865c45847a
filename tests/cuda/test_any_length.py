"""One program called with any number of steps: nothing is compiled again, and memory follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.cuda.programs import check_tensors, small
from unrollbench.backends.cuda_program import NetworkProgram
from unrollbench.case import DTYPES, Case
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
    """A device that notes what is compiled, recorded, pinned and uploaded. A recording runs once first, as on a GPU."""

    compiled = recorded = 0

    def __init__(self) -> None:
        super().__init__()
        self.pinned_elements: list[int] = []
        self.uploaded: list[Any] = []

    def kernel(self, function: Callable[..., Any], signature: Any) -> Any:
        self.compiled += 1
        return super().kernel(function, signature)

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        self.compiled += 1
        return super().device_function(function, inline)

    def upload(self, array: Any, first: int, values: Host) -> None:
        self.uploaded.append(array)
        super().upload(array, first, values)

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


# ---------------------------------------------------------------- memory


def lstm(steps: int, **axes: Any) -> Case:
    return small("lstm", **{**LAYERS, "num_units": 4, "num_layers": 1, "sequence_length": steps, **axes})


def account(program: NetworkProgram) -> tuple[int | None, int | None]:
    found = program.memory()
    return found.device_bytes, found.device_peak_bytes


def test_growing_takes_what_a_program_of_that_length_takes_and_nothing_more() -> None:
    """The old memory is given back before the new one is taken, so that the peak is the larger one's alone."""
    with built(lstm(9)) as (long, _), built(lstm(3)) as (program, _):
        short = account(program)
        for steps in (3, 9, 5):
            tensors = draw(lstm(steps))
            program.set_weights(tensors.weights)
            call(program, tensors)
            assert account(program) == (short if steps == 3 else account(long))


def test_saved_bytes_are_those_of_the_last_call() -> None:
    with built(lstm(4)) as (program, _):
        program.set_weights(draw(lstm(4)).weights)
        call(program, draw(lstm(9)))
        grown = program.memory().saved_bytes
        call(program, draw(lstm(4)))
        with built(lstm(9)) as (long, _):
            assert grown == long.memory().saved_bytes
        with built(lstm(4)) as (fresh, _):
            assert program.memory().saved_bytes == fresh.memory().saved_bytes


def test_weights_stay_on_the_device_when_the_length_changes() -> None:
    with built(lstm(3)) as (program, device):
        program.set_weights(draw(lstm(3)).weights)
        device.uploaded.clear()
        for steps in (30, 2):
            tensors = draw(lstm(steps))
            check_tensors(lstm(steps), tensors, call(program, tensors))
        assert device.uploaded
        assert not any(array is program.storage.w for array in device.uploaded)


@pytest.mark.parametrize("growth", [True, False], ids=["growing", "all at once"])
def test_beyond_the_limit_is_an_error_and_the_program_goes_on_at_another_length(growth: bool) -> None:
    with built(lstm(5)) as (program, _):
        needed = account(program)[1]
    assert needed is not None
    with built(lstm(3), Limit(needed + 2048, growth)) as (program, device):
        program.set_weights(draw(lstm(3)).weights)
        compiled, integers = device.compiled, 8 * (program.storage.f.size + program.storage.lengths.size)
        for steps in (5, 40, 5, 40, 3, 5):
            tensors = draw(lstm(steps))
            if steps == 40:
                with pytest.raises(MemoryError, match="more are wanted for activations"):
                    call(program, tensors)
                assert program.memory().saved_bytes == 0
            else:
                check_tensors(lstm(steps), tensors, call(program, tensors))
        assert device.compiled == compiled
        peak = account(program)[1]
        assert peak is not None
        assert peak <= needed + 2048 + (0 if growth else integers)  # which lie beside a pool


def test_the_host_has_a_window_for_each_that_leaves_and_grows_only() -> None:
    swapping = partial(lstm, swap_memory=True, parallel_iterations=2)
    with built(swapping(6)) as (program, device):
        program.set_weights(draw(swapping(6)).weights)
        for steps in (6, 12, 5, 12, 1):
            call(program, draw(swapping(steps)))
        window = program.storage.window_elements
        assert program.windows is not None
        kept = program.windows.host_bytes  # one step is one window, which stays; what 12 steps needed is kept
        sizes = [size for size in device.pinned_elements if size]
        call(program, draw(swapping(12)))
        assert [size for size in device.pinned_elements if size] == sizes
        assert sizes == [1 * program.storage.window_elements, 4 * program.storage.window_elements]
        assert program.windows.host_bytes == kept == DTYPES["float32"] * sizes[-1]
        assert window < program.storage.window_elements


def test_without_host_memory_for_its_windows_a_program_goes_on_at_another_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swapping = partial(lstm, swap_memory=True, parallel_iterations=2)
    with built(swapping(6)) as (program, device):
        program.set_weights(draw(swapping(6)).weights)
        pinned = device.pinned

        def full(elements: int, dtype: str) -> Host:
            if elements > 4 * program.storage.window_elements:
                raise MemoryError("pinned host memory")
            return pinned(elements, dtype)

        monkeypatch.setattr(device, "pinned", full)
        for steps in (20, 20, 6):
            tensors = draw(swapping(steps))
            if steps == 20:
                with pytest.raises(MemoryError, match="pinned"):
                    call(program, tensors)
            else:
                check_tensors(swapping(steps), tensors, call(program, tensors))


# ---------------------------------------------------------------- a static program


def test_a_static_program_refuses_another_length() -> None:
    with built(lstm(4, execution="static")) as (program, _):
        for steps in (3, 5):
            with pytest.raises(ValueError, match=f"{steps} time steps, but this static program was built for 4"):
                program.forward(draw(lstm(steps)).inputs, None, None)


def test_a_static_program_is_recorded_anew_when_the_longest_length_changes_and_not_otherwise() -> None:
    rows = [(4, 4, 4), (4, 0, 1), (2, 1, 0), (0, 2, 2), (4, 1, 1), (0, 0, 0)]
    with built(lstm(4, execution="static")) as (program, device):
        recorded = []
        for seed, own in enumerate(rows):
            case = lstm(4, execution="static", lengths=own, seed=seed)
            tensors = draw(case)
            program.set_weights(tensors.weights)
            check_tensors(case, tensors, call(program, tensors))
            recorded.append(device.recorded)
        assert recorded == [2, 2, 4, 4, 6, 8]  # a forward and a backward pass each time
        assert program.compilations() == 0


@pytest.mark.parametrize("axes", [{"execution": "static"}, {"execution": "stepwise"}, {"swap_memory": True}], ids=str)
def test_gradients_may_be_asked_for_again_with_other_cotangents(axes: dict[str, Any]) -> None:
    case = lstm(5, **axes)
    tensors = draw(case)
    with built(case) as (program, _):
        program.set_weights(tensors.weights)
        program.forward(tensors.inputs, tensors.lengths, tensors.initial_state)
        first = program.backward(tensors.d_outputs, tensors.d_state)
        nothing = program.backward(None, None)
        again = program.backward(tensors.d_outputs, tensors.d_state)
    assert not nothing.inputs.any()
    assert again.inputs.tobytes() == first.inputs.tobytes()
    assert again.weights[0]["kernel"].tobytes() == first.weights[0]["kernel"].tobytes()

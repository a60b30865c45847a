"""What was built for a CUDA device, as text and as the compiler's and the driver's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from unrollbench import graph
from unrollbench.backends import Listing
from unrollbench.kernels.cuda.device import Device
from unrollbench.kernels.cuda.network import Network


def listing(
    network: Network, device: Device, host_texts: Mapping[str, str], products: str, recorded: Sequence[int]
) -> Listing:
    """The listing of a network. recorded: nodes of each recording of it."""
    plan = network.plan
    drawn = graph.draw(plan.schedule)
    kernels = {name: device.kernel_size(kernel) for name, kernel in network.kernels.items()}
    shared = max(plan.launch(name).shared_bytes + (k.static_shared_bytes or 0) for name, k in kernels.items())
    remarks = _remarks(network, device, products, recorded)
    return Listing(
        "\n".join([*remarks, *host_texts.values(), *network.texts.values()]),
        # The graph's own count where there is one; a loop's nodes are those that it would have in TensorFlow 1.
        sum(recorded) if recorded else drawn.nodes_count,
        graph_dot=drawn.dot(),
        ptx_bytes=_of(sum, [k.ptx_bytes for k in kernels.values()]),
        cubin_bytes=_of(sum, [k.cubin_bytes for k in kernels.values()]),
        registers=_of(max, [k.registers for k in kernels.values()]),
        local_bytes=_of(max, [k.local_bytes for k in kernels.values()]),
        shared_bytes=shared,
    )


def _remarks(network: Network, device: Device, products: str, recorded: Sequence[int]) -> Iterator[str]:
    """What the texts do not show."""
    plan = network.plan
    yield f"# device: {device.name}"
    yield f"# large products: {products}"
    if plan.schedule.execution == "static":
        yield f"# static: {_recordings(device, recorded)}"
    for direction in ("forward", "backward") if plan.spec.train else ("forward",):
        for layout, s, _, _ in plan.products(direction) if plan.schedule.execution == "dynamic" else ():
            stays = (direction, layout.index, s.index) in plan.residents.places
            where = "in shared memory" if stays else "read from memory at every step: there is no room for them"
            yield f"# {direction}: recurrent weights of layer {layout.index}, stage {s.index}: {where}"


def _recordings(device: Device, recorded: Sequence[int]) -> str:
    """What was recorded: nothing until a program of the rnn face is called, then a graph for each of its passes."""
    if not recorded:
        return "not recorded until it is called"
    graphs = "one CUDA graph" if len(recorded) == 1 else f"{len(recorded)} CUDA graphs"
    how = "launched in order, not captured" if device.simulated else f"nodes of {graphs}"
    return f"{sum(recorded)} kernels {how}"


def _of(how: Callable[[Iterable[int]], int], values: Sequence[int | None]) -> int | None:
    """The sum or largest of values, None if one of them is not known."""
    known = [value for value in values if value is not None]
    return how(known) if len(known) == len(values) else None

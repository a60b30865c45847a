"""The program as a dataflow graph that can be drawn: what TensorFlow 1 would put into its graph for the same schedule.

static: T copies of each layer's cell that share one set of weights. dynamic: `unroll` copies of each cell inside a
while loop made of Enter, Merge, Switch, LoopCond, NextIteration and Exit. stepwise: one copy, called from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unrollbench.schedule import Schedule


@dataclass(frozen=True)
class Graph:
    """Named nodes with a label each, and directed edges between them."""

    nodes: dict[str, str]
    edges: tuple[tuple[str, str], ...]

    @property
    def nodes_count(self) -> int:
        return len(self.nodes)

    def dot(self) -> str:
        """The graph in Graphviz's language."""
        lines = [f'  "{name}" [label="{label}"];' for name, label in self.nodes.items()]
        lines += [f'  "{tail}" -> "{head}";' for tail, head in self.edges]
        return "\n".join(["digraph program {", "  rankdir=LR; node [shape=box];", *lines, "}"]) + "\n"


def draw(schedule: Schedule) -> Graph:
    """The forward graph of a schedule. Each cell is one node, whatever its equations."""
    nodes: dict[str, str] = {f"weights_{layer}": f"weights {layer}" for layer in range(schedule.num_layers)}
    edges = list(_copies(schedule, nodes))
    if schedule.execution == "dynamic":
        edges += _while_loop(schedule, nodes)
    return Graph(nodes, tuple(edges))


def _copies(schedule: Schedule, nodes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """One cell node per (layer, copy of the step), joined by state edges along time and output edges along layers."""
    for copy in range(schedule.step_copies):
        nodes[f"x_{copy}"] = f"x[{copy}]"
        for layer in range(schedule.num_layers):
            name = f"cell_{layer}_{copy}"
            nodes[name] = f"cell {layer} t={copy}" if schedule.execution == "static" else f"cell {layer} t+{copy}"
            yield f"weights_{layer}", name
            yield (f"cell_{layer - 1}_{copy}" if layer else f"x_{copy}"), name
            if copy:
                yield f"cell_{layer}_{copy - 1}", name
        nodes[f"output_{copy}"] = f"output[{copy}]"
        yield f"cell_{schedule.num_layers - 1}_{copy}", f"output_{copy}"


def _while_loop(schedule: Schedule, nodes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The loop's control nodes: for the step counter and for each layer's state."""
    nodes["LoopCond"] = "LoopCond"
    last = schedule.step_copies - 1
    for variable in ("t", *(f"state_{layer}" for layer in range(schedule.num_layers))):
        for kind in ("Enter", "Merge", "Switch", "NextIteration", "Exit"):
            nodes[f"{variable}/{kind}"] = f"{kind} {variable}"
        yield f"{variable}/Enter", f"{variable}/Merge"
        yield f"{variable}/Merge", f"{variable}/Switch"
        yield "LoopCond", f"{variable}/Switch"
        yield f"{variable}/Switch", f"{variable}/Exit"
        yield f"{variable}/NextIteration", f"{variable}/Merge"
        if variable == "t":
            nodes["less"] = "t < T"
            yield "t/Merge", "less"
            yield "less", "LoopCond"
            yield "t/Switch", "t/NextIteration"
        else:
            layer = variable.removeprefix("state_")
            yield f"{variable}/Switch", f"cell_{layer}_0"
            yield f"cell_{layer}_{last}", f"{variable}/NextIteration"

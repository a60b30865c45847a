"""The dataflow graphs: copies of the cell, shared weights, and TensorFlow's control nodes around a loop."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from unrollbench.graph import Graph, draw
from unrollbench.schedule import schedule


def kinds(graph: Graph) -> Counter[str]:
    """First word of a label -> how many nodes have it."""
    return Counter(label.split()[0].split("[")[0] for label in graph.nodes.values())


@given(st.integers(1, 12), st.integers(1, 3))
def test_static_is_one_copy_of_the_cell_per_layer_and_step_around_shared_weights(T: int, L: int) -> None:
    graph = draw(schedule("static", num_layers=L, max_time=T))
    assert kinds(graph) == {"weights": L, "x": T, "cell": T * L, "output": T}
    assert graph.nodes_count == L + T * (L + 2)
    for layer in range(L):
        readers = [head for tail, head in graph.edges if tail == f"weights_{layer}"]
        assert sorted(readers) == sorted(f"cell_{layer}_{t}" for t in range(T))


@given(st.integers(1, 6), st.integers(1, 3))
def test_dynamic_is_unroll_copies_inside_a_loop_of_control_nodes(unroll: int, L: int) -> None:
    graph = draw(schedule("dynamic", num_layers=L, max_time=99, unroll=unroll))
    found = kinds(graph)
    assert found["cell"] == unroll * L
    for kind in ("Enter", "Merge", "Switch", "NextIteration", "Exit"):
        assert found[kind] == L + 1  # each layer's state and the step counter
    assert found["LoopCond"] == 1
    assert ("less", "LoopCond") in graph.edges
    for layer in range(L):
        state = f"state_{layer}"
        assert (f"{state}/Switch", f"cell_{layer}_0") in graph.edges
        assert (f"cell_{layer}_{unroll - 1}", f"{state}/NextIteration") in graph.edges
        assert (f"{state}/NextIteration", f"{state}/Merge") in graph.edges


def test_the_size_of_a_dynamic_graph_does_not_depend_on_time_and_that_of_a_static_one_does() -> None:
    dynamic = [draw(schedule("dynamic", num_layers=2, max_time=T)).nodes_count for T in (5, 50)]
    static = [draw(schedule("static", num_layers=2, max_time=T)).nodes_count for T in (5, 50)]
    assert dynamic[0] == dynamic[1]
    assert static[1] - static[0] == 45 * 4


def test_stepwise_is_one_copy_without_a_loop() -> None:
    assert kinds(draw(schedule("stepwise", num_layers=2, max_time=9))) == {"weights": 2, "x": 1, "cell": 2, "output": 1}


@given(st.sampled_from(["static", "dynamic", "stepwise"]), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_every_edge_joins_two_nodes_that_exist_and_every_node_has_an_edge(
    execution: str, T: int, L: int, k: int
) -> None:
    graph = draw(schedule(execution, num_layers=L, max_time=T, unroll=k))
    ends = {end for edge in graph.edges for end in edge}
    assert ends == set(graph.nodes)
    assert len(set(graph.edges)) == len(graph.edges)


def test_the_graphviz_text_has_a_line_for_every_node_and_edge() -> None:
    graph = draw(schedule("dynamic", num_layers=1, max_time=1))
    lines = graph.dot().splitlines()
    assert lines[0] == "digraph program {"
    assert lines[-1] == "}"
    assert sum("->" in line for line in lines) == len(graph.edges)
    assert sum("[label=" in line for line in lines) == graph.nodes_count

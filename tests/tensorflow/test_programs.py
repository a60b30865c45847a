"""The graphs that TensorFlow runs are the ones that the execution names, and nothing of them is folded away."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

from unrollbench.backends.tensorflow_rnn import TensorflowRnn, tf1
from unrollbench.case import Case
from unrollbench.tensors import draw

STEPS = 5


def run_operators(execution: str) -> Counter[str]:
    """How often each operator is in the graph that the session runs, after constant folding and its other passes."""
    axes: dict[str, Any] = {"execution": execution, "sequence_length": STEPS, "batch_size": 4}
    case = Case(backend="tensorflow", input_size=8, num_units=16, **axes)
    with closing(TensorflowRnn().build(case, draw(case))) as program:
        session, metadata = program._session._session, tf1.RunMetadata()
        fetches = [operation.outputs[0] for operation in session.graph.get_operations()[-3:]]  # outputs, c, h
        session.run(fetches, options=tf1.RunOptions(output_partition_graphs=True), run_metadata=metadata)
    return Counter(node.op for graph in metadata.partition_graphs for node in graph.node)


def test_static_runs_a_product_for_every_step_and_no_loop() -> None:
    operators = run_operators("static")
    assert products(operators) == STEPS
    assert operators["LoopCond"] == 0


def test_dynamic_runs_one_product_in_a_loop() -> None:
    operators = run_operators("dynamic")
    assert products(operators) == 1
    assert operators["LoopCond"] == 1


def test_library_runs_the_fused_operator() -> None:
    assert run_operators("library")["BlockLSTM"] == 1


def products(operators: Counter[str]) -> int:
    return sum(count for name, count in operators.items() if name.endswith("MatMul"))

"""The drivers' text: what is straight line, what is a loop, and how many copies of the step each holds."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.stacks import stack
from unrollbench.kernels import source, specialize
from unrollbench.kernels.division import layouts
from unrollbench.kernels.weight_gradient import PANEL_ROWS
from unrollbench.schedule import Schedule, schedule


def texts(
    planned: Schedule, *, threads: int = 1, batch: int = 3, units: int = 6, swaps: bool = False
) -> dict[str, ast.Module]:
    """Entry point name -> its text, parsed, forward and backward."""
    spec = stack(layers=planned.num_layers, units=units, threads=threads, batch=batch)
    shape = specialize.Shape(layouts(spec, planned), 1024, swaps)
    found = specialize.forward(planned, shape) | specialize.backward(planned, shape)
    return {name: ast.parse(text) for name, text in found.items()}


def calls(tree: ast.AST) -> Counter[str]:
    """Function name -> how often the text calls it."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return Counter(node.func.id for node in nodes if isinstance(node.func, ast.Name))


def steps(tree: ast.AST, prefix: str = "step_") -> int:
    """How many calls of a layer's step the text holds."""
    return sum(count for name, count in calls(tree).items() if name.startswith(prefix))


def loops(tree: ast.AST) -> list[ast.While]:
    """All loops, the outer ones first."""
    assert not any(isinstance(node, ast.For | ast.comprehension) for node in ast.walk(tree))
    return [node for node in ast.walk(tree) if isinstance(node, ast.While)]


@given(st.integers(1, 40), st.integers(1, 3))
def test_static_text_is_a_straight_line_with_one_step_per_layer_and_time_step(T: int, L: int) -> None:
    found = texts(schedule("static", num_layers=L, max_time=T))
    assert set(found) == {"forward", "backward"}
    for name, prefix in (("forward", "step_"), ("backward", "back_step_")):
        assert loops(found[name]) == []
        assert steps(found[name], prefix) == T * L
        assert all(calls(found[name])[f"{prefix}{layer}"] == T for layer in range(L))
    assert calls(found["forward"])["project_0"] == (T > 1)  # a call for all T; one step does its own
    assert calls(found["backward"])["d_weights_0"] == calls(found["backward"])["d_inputs_0"] == 1


def test_static_text_runs_time_forwards_and_then_backwards() -> None:
    found = texts(schedule("static", num_layers=2, max_time=3))

    def named(tree: ast.AST, prefix: str) -> list[tuple[str, int]]:
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        found = [(node.func.id, node.args[1].value) for node in nodes if node.func.id.startswith(prefix)]  # type: ignore[attr-defined]
        return [(name.removeprefix(prefix), t) for name, t in found]

    assert named(found["forward"], "step_") == [(layer, t) for layer in "01" for t in (0, 1, 2)]
    assert named(found["backward"], "back_step_") == [(layer, t) for layer in "10" for t in (2, 1, 0)]


@given(st.integers(1, 3), st.integers(1, 12), st.integers(12, 40))
def test_dynamic_text_is_one_loop_over_windows_with_unroll_copies_and_a_remainder(
    L: int, unroll: int, window: int
) -> None:
    planned = schedule("dynamic", num_layers=L, max_time=1, unroll=unroll, parallel_iterations=window)
    found = texts(planned)
    assert set(found) == {"forward", "backward"}
    for name, prefix in (("forward", "step_"), ("backward", "back_step_")):
        windows, *inner = loops(found[name])
        assert all(node in list(ast.walk(windows)) for node in inner)
        copies = sorted(steps(node, prefix) for node in inner)
        assert copies == sorted([1] * L + ([unroll] * L if unroll > 1 else []))
        assert steps(found[name], prefix) == sum(copies)


@given(st.integers(1, 3), st.integers(2, 12), st.data())
def test_a_body_longer_than_a_window_is_a_straight_line_of_windows(L: int, unroll: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, unroll - 1))
    planned = schedule("dynamic", num_layers=L, max_time=1, unroll=unroll, parallel_iterations=window)
    found = texts(planned)
    for name, prefix, per_window in (("forward", "step_", "project_0"), ("backward", "back_step_", "d_weights_0")):
        body, remainder, *_ = (node for node in found[name].body[0].body if isinstance(node, ast.While))  # type: ignore[attr-defined]
        assert [node for node in ast.walk(body) if isinstance(node, ast.While)] == [body]
        assert steps(body, prefix) == unroll * L
        fused = name == "forward" and window == 1  # a step multiplies its own inputs where a window has no other
        assert calls(body)[per_window] == (0 if fused else -(-unroll // window))
        assert steps(remainder, prefix) == L


BEGINS = ("begin", "begin_backward")
"""What a pass calls of every layer before all else."""


def walked(planned: Schedule, steps: int) -> dict[str, list[tuple[str, int, int]]]:
    """What a pass of `steps` steps calls, by running its text on functions that only take notes: (name, layer, t)."""
    shape = specialize.Shape(layouts(stack(layers=planned.num_layers), planned), 1024, False)
    found = {}
    for name, text in (specialize.forward(planned, shape) | specialize.backward(planned, shape)).items():
        notes: list[tuple[str, int, int]] = []

        def note(kernel: str, notes: list[tuple[str, int, int]] = notes) -> Callable[..., None]:
            prefix, _, layer = kernel.rpartition("_")
            return lambda f, t, slot, n=1: notes.extend((prefix, int(layer), t + k) for k in range(n))

        kinds = ("project", "step", "back_step", "d_inputs", "d_weights")
        kernels = {f"{kind}_{layer}": note(f"{kind}_{layer}") for kind in kinds for layer in range(planned.num_layers)}
        kernels |= {f"{kind}_{layer}": lambda f: None for kind in BEGINS for layer in range(planned.num_layers)}
        source.define(text, name, kernels | {"peek": lambda f, offset: steps})(0)
        found[name] = notes
    return found


@given(st.integers(1, 3), st.integers(0, 30), st.integers(1, 12), st.integers(1, 12))
def test_every_step_runs_once_and_after_what_it_needs(L: int, T: int, unroll: int, window: int) -> None:
    for execution in ("static", "dynamic"):
        planned = schedule(execution, num_layers=L, max_time=max(T, 1), unroll=unroll, parallel_iterations=window)
        if execution == "static" and T == 0:
            continue
        notes = walked(planned, T)
        grid = {(layer, t) for layer in range(L) for t in range(T)}
        at = {note: position for position, note in enumerate(notes["forward"])}
        fused = planned.window == 1
        assert len(at) == len(notes["forward"]) == (1 if fused else 2) * len(grid)
        for layer, t in grid:
            reads_input = "step" if fused else "project"
            assert fused or at["project", layer, t] < at["step", layer, t]
            assert t == 0 or at["step", layer, t - 1] < at["step", layer, t]
            assert layer == 0 or at["step", layer - 1, t] < at[reads_input, layer, t]
        back = {note: position for position, note in enumerate(notes["backward"])}
        assert len(back) == len(notes["backward"]) == 3 * len(grid)
        for layer, t in grid:
            assert back["back_step", layer, t] < min(back["d_inputs", layer, t], back["d_weights", layer, t])
            assert t == T - 1 or back["back_step", layer, t + 1] < back["back_step", layer, t]
            assert layer == L - 1 or back["d_inputs", layer + 1, t] < back["back_step", layer, t]


def weighted(
    planned: Schedule, batch: int, steps: int, *, threads: int = 1, swaps: bool = False
) -> list[tuple[int, int]]:
    """(start, stop) of the steps of each call that adds to the gradients of weights, which every layer makes."""
    L = planned.num_layers
    shape = specialize.Shape(layouts(stack(layers=L, batch=batch, threads=threads), planned), 1024, swaps)
    parts: list[list[tuple[int, int]]] = [[] for _ in range(L)]
    kinds = ("begin_backward", "back_step", "d_inputs", "release")
    kernels: dict[str, Any] = {f"{kind}_{layer}": lambda *_: None for kind in kinds for layer in range(L)}
    for layer, own in enumerate(parts):
        kernels[f"d_weights_{layer}"] = lambda f, start, slot, count, own=own: own.append((start, start + count))
    kernels |= dict.fromkeys(("barrier", "sum_gradients"), lambda *_: None) | {"peek": lambda f, at: steps}
    text = specialize.backward(planned, shape)["backward"]
    source.define(text, "backward", kernels)(0)
    assert all(own == parts[0] for own in parts)
    return parts[0]


def split(parts: list[tuple[int, int]], T: int) -> bool:
    """Whether the parts, from the last one on, are all T steps."""
    stops, starts = [stop for _, stop in parts], [start for start, _ in parts]
    return [*stops, 0] == [T, *starts] if T else parts == []


@given(
    st.integers(1, 3),
    st.integers(0, 400),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(1, 3),
)
def test_windows_wait_for_each_other_until_no_more_fit_into_a_panel_of_a_threads_rows(
    L: int, T: int, unroll: int, window: int, batch: int, threads: int
) -> None:
    planned = schedule("dynamic", num_layers=L, max_time=T, unroll=unroll, parallel_iterations=window)
    parts, apart = weighted(planned, batch, T, threads=threads), batch % threads == 0 or batch >= 4 * threads
    rows = -(-batch // threads) if apart else batch
    assert split(parts, T)
    assert all((stop - start) * rows <= max(PANEL_ROWS, window * rows) for start, stop in parts)
    assert all((stop - start + window) * rows > PANEL_ROWS for start, stop in parts[:-1])


@given(st.integers(0, 100), st.integers(1, 12), st.integers(1, 12))
def test_windows_whose_activations_leave_memory_wait_for_no_other(T: int, unroll: int, window: int) -> None:
    planned = schedule("dynamic", num_layers=2, max_time=T, unroll=unroll, parallel_iterations=window)
    parts = weighted(planned, 3, T, swaps=True)
    assert split(parts, T)
    assert all(stop - start <= window for start, stop in parts)


@given(st.integers(1, 3), st.integers(1, 30), st.integers(1, 12), st.data())
def test_short_bodies_walk_the_grid_in_the_schedules_order(L: int, T: int, window: int, data: st.DataObject) -> None:
    unroll = data.draw(st.integers(1, window))
    planned = schedule("dynamic", num_layers=L, max_time=T, unroll=unroll, parallel_iterations=window)
    order = [(layer, t) for kind, layer, t in walked(planned, T)["forward"] if kind == "step"]
    assert order == list(planned.order(T))


@given(st.integers(1, 3))
def test_stepwise_text_is_one_step_of_every_layer(L: int) -> None:
    found = texts(schedule("stepwise", num_layers=L, max_time=9))
    assert set(found) == {"begin", "step", "begin_backward", "back_step", "d_weights"}
    assert all(loops(tree) == [] for tree in found.values())
    assert steps(found["step"]) == steps(found["back_step"], "back_step_") == L
    assert calls(found["d_weights"])["d_weights_0"] == 1


def test_threads_with_rows_of_their_own_wait_only_before_the_sum_of_their_gradients_in_a_stepwise_program() -> None:
    found = texts(schedule("stepwise", num_layers=3, max_time=9), threads=2, batch=16)
    assert {name: calls(tree)["barrier"] for name, tree in found.items() if name != "d_weights"} == dict.fromkeys(
        ("begin", "step", "begin_backward", "back_step"), 0
    )
    assert calls(found["d_weights"])["barrier"] == 1
    *_, condition, wait, last = map(str.strip, ast.unparse(found["d_weights"]).splitlines())
    assert condition == "if apart:"
    assert wait.startswith("barrier(")
    assert last == "sum_gradients(f)"


@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
@pytest.mark.parametrize("units", [6, 300])
def test_a_pass_begins_with_the_state_of_every_layer_and_waits_for_it_where_threads_share_rows(
    execution: str, units: int
) -> None:
    planned = schedule(execution, num_layers=2, max_time=4, parallel_iterations=1)
    found = texts(planned, threads=2, units=units)
    for name, begin in zip(("forward", "backward"), BEGINS, strict=True):
        tree = found[begin if execution == "stepwise" else name]
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        first, second, *rest = (node.func.id for node in nodes if node.func.id != "peek")  # type: ignore[attr-defined]
        assert (first, second) == (f"{begin}_0", f"{begin}_1")
        assert rest == [] if execution == "stepwise" else (rest[0] == "barrier") == (units == 300)


@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
def test_only_programs_of_several_threads_wait_for_each_other(execution: str) -> None:
    planned = schedule(execution, num_layers=2, max_time=4)
    assert sum(calls(tree)["barrier"] for tree in texts(planned).values()) == 0
    assert sum(calls(tree)["barrier"] for tree in texts(planned, threads=2, units=300).values()) > 0


def test_a_swapping_loop_releases_every_layer_once_per_window_in_both_directions() -> None:
    found = texts(schedule("dynamic", num_layers=3, max_time=1, parallel_iterations=4), swaps=True)
    for tree in found.values():
        assert all(calls(tree)[f"release_{layer}"] == 1 for layer in range(3))


def test_dynamic_text_does_not_depend_on_the_number_of_time_steps() -> None:
    one, many = (texts(schedule("dynamic", num_layers=2, max_time=T)) for T in (1, 1000))
    assert {name: ast.dump(tree) for name, tree in one.items()} == {name: ast.dump(tree) for name, tree in many.items()}


@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_threads_with_rows_of_their_own_wait_before_gradients_of_few_rows_or_before_their_sum(
    execution: str,
) -> None:
    planned = schedule(execution, num_layers=3, max_time=4)
    found = texts(planned, threads=2, batch=16)
    assert calls(found["forward"])["barrier"] == 0
    assert calls(found["backward"])["barrier"] == 3 + 1
    lines = [line.strip() for line in ast.unparse(found["backward"]).splitlines()]
    before = [lines[index - 2 : index] for index, line in enumerate(lines) if "d_weights_" in line]
    assert len(before) == 3
    assert all(few == "if apart == 0:" and wait.startswith("barrier(") for few, wait in before)
    assert lines[-3] == "if apart:"
    assert lines[-2].startswith("barrier(")
    assert lines[-1] == "sum_gradients(f)"


@pytest.mark.parametrize("execution", ["static", "dynamic"])
def test_threads_that_share_rows_wait_around_every_product_of_a_windows_rows(execution: str) -> None:
    found = texts(schedule(execution, num_layers=3, max_time=4), threads=2, batch=3, units=300)
    forward, backward = ([line.strip() for line in ast.unparse(tree).splitlines()] for tree in found.values())
    projects = [index for index, line in enumerate(forward) if line.startswith("project_")]
    assert len(projects) == 3
    assert all(forward[at].startswith("barrier(") for index in projects for at in (index - 1, index + 1))
    called = [line.partition("_")[0] for line in backward if line.startswith(("barrier(", "back_step_", "d_inputs_"))]
    order = [name.partition("(")[0] for name, before in zip(called, ["", *called], strict=False) if name != before]
    assert order == ["barrier", "back", "barrier", "d"] * 3


def test_threads_with_rows_of_their_own_wait_before_a_windows_activations_leave_memory() -> None:
    planned = schedule("dynamic", num_layers=3, max_time=1, parallel_iterations=4)
    found = texts(planned, threads=2, batch=16, swaps=True)
    assert calls(found["forward"])["barrier"] == 1
    assert calls(found["backward"])["barrier"] == 3 + 1 + 1

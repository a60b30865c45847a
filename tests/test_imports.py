"""Imports go downwards only, and what is known of a run is read without what runs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "unrollbench"

LAYERS = """
    __main__
    cli
    arguments progress
    runner
    worker.forkserver
    worker.supervisor
    worker.process probe
    worker.measurement worker.checker conformance rnn report plan
    store
    cost suite.filters labels suite
    suite.document
    suite.axes
    reference measure worker.request stats
    backends
    kernels graph
    schedule cells roofline
    tensors records
    case
    definition
    errors
    worker __init__
"""
"""The modules and packages of unrollbench, the highest first; each imports from the lines below its own.

A module of a package that has a layer of its own is named with its package, and is no part of the package's layer.
"""

RANKS = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}
FRAMEWORKS = {"numba", "llvmlite", "jax", "jaxlib", "tensorflow", "tf_keras", "keras", "torch", "onnx", "onnxruntime"}
FRAMEWORKS |= {"openvino", "flashrnn", "ninja", "triton", "numba_cuda", "nvmath", "pynvml", "cuda"}
KNOWN_WITHOUT_RUNNING = (
    "report",
    "store",
    "records",
    "stats",
    "labels",
    "plan",
    "suite",
    "cost",
    "cli",
    "runner",
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def top(module: str) -> str:
    """`unrollbench.report.html` -> `report`; `unrollbench` itself -> `__init__`."""
    return module.split(".")[1] if "." in module else "__init__"


def layer(module: str) -> str:
    """`unrollbench.worker.request` -> `worker.request`, which has a layer; `unrollbench.report.html` -> `report`."""
    own = module.partition(".")[2]
    return own if own in RANKS else top(module)


@cache
def imports(module: str, *, when_loaded: bool) -> frozenset[str]:
    """Modules that this one imports: only those at its top level, or those inside functions too."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    nodes = tree.body if when_loaded else list(ast.walk(tree))
    return frozenset(name for node in nodes for name in imported(node))


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in modules() else str(node.module)


def loaded_with(module: str) -> frozenset[str]:
    """Everything that is imported when the module is, other packages by their first name."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in modules():
            waiting.extend(imports(name, when_loaded=True))
            waiting.extend(name.rsplit(".", 1)[:1] if "." in name else [])
    return frozenset(name if name in modules() else name.split(".")[0] for name in seen)


def test_every_module_has_its_layer() -> None:
    assert {layer(module) for module in modules()} == set(RANKS)


@pytest.mark.parametrize("module", modules())
def test_imports_go_downwards_only(module: str) -> None:
    own = RANKS[layer(module)]
    for name in imports(module, when_loaded=False):
        if name.split(".")[0] == "unrollbench" and layer(name) != layer(module):
            assert RANKS[layer(name)] > own, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("name", KNOWN_WITHOUT_RUNNING)
def test_what_is_known_is_read_without_any_framework(name: str) -> None:
    within = [module for module in modules() if top(module) == name]
    assert within
    for module in within:
        assert not FRAMEWORKS & loaded_with(module), module


def test_only_backends_kernels_and_cells_import_frameworks() -> None:
    allowed = {"backends", "kernels", "cells"}
    for module in modules():
        used = {name.split(".")[0] for name in imports(module, when_loaded=False)} & FRAMEWORKS
        assert not used or top(module) in allowed, f"{module} imports {used}"


def test_a_case_needs_only_the_standard_library() -> None:
    assert not loaded_with("unrollbench.case") & {"numpy", "pandas", "psutil", "jinja2"}

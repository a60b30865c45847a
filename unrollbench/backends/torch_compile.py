"""torch.compile from cold: what Inductor compiles is counted, timed and kept, and no cache outlives it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch

from unrollbench.backends.phases import Phases


def import_compiler() -> None:
    """torch.compile's parts are loaded, which torch itself leaves to the first use."""
    importlib.import_module("torch._dynamo")
    importlib.import_module("torch._inductor.compile_fx")


class Compiler:
    """Inductor as torch.compile calls it; counts and times what it compiles, and keeps the code it generates."""

    def __init__(self) -> None:
        self.graphs = 0
        self.graph_nodes = 0
        self.seconds = 0.0
        self.sources: list[str] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        self.graph_nodes += sum(len(m.graph.nodes) for m in graph.modules() if isinstance(m, torch.fx.GraphModule))
        phases = Phases()
        try:
            with phases("compile"):
                return compile_fx(graph, inputs)
        finally:
            self.seconds += phases["compile"]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keeps the source of everything that Inductor generates inside the `with` block."""
        from torch._inductor.graph import GraphLowering

        with mock.patch.object(GraphLowering, "save_output_code", staticmethod(self.sources.append)):
            yield


@contextmanager
def cold_caches(threads: int) -> Iterator[None]:
    """Inductor with an empty cache folder that is gone afterwards, and a compiler process for each thread."""
    import torch._inductor.config as config
    from torch._inductor.utils import fresh_inductor_cache

    torch._dynamo.reset()
    fresh: AbstractContextManager[Any] = fresh_inductor_cache()
    with fresh, config.patch(compile_threads=threads):
        yield

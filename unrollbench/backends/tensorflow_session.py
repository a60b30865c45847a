"""A TensorFlow 1 graph whose variables get given values, and the session that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from unrollbench.backends.phases import Phases
from unrollbench.tensors import Array

tf1 = tf.compat.v1


class Session:
    """Collects variables and their values while a graph is made; `start` then fixes the graph and sets them."""

    def __init__(self, graph: Any, threads: int) -> None:
        self.phases = Phases()
        self._graph, self._threads = graph, threads
        self._given: list[tuple[Any, Any]] = []
        self._session: Any = None

    def variable(self, value: Any) -> Any:
        """A variable of the value's shape and dtype; the value itself is not part of the graph."""
        with tf1.variable_scope("given", use_resource=False):
            initializer = tf1.zeros_initializer()
            name = f"variable_{len(self._given)}"
            variable = tf1.get_variable(name, value.shape, value.dtype, initializer, trainable=False)
        self.give(variable, value)
        return variable

    def give(self, variable: Any, value: Any) -> None:
        """The variable will have the value once the session has started."""
        self._given.append((variable, value))

    def start(self) -> None:
        """The session runs and the variables are set.

        The threads of one operator are the process's: TensorFlow takes them from its first session.
        """
        with self.phases("session"):
            placeholders = [tf1.placeholder(value.dtype, value.shape) for _, value in self._given]
            assign = tf.group(*(v.assign(p) for (v, _), p in zip(self._given, placeholders, strict=True)))
            config = tf1.ConfigProto(
                intra_op_parallelism_threads=self._threads,
                inter_op_parallelism_threads=self._threads,
                use_per_session_threads=True,
                device_count={"GPU": 0},
            )
            self._session = tf1.Session(graph=self._graph, config=config)
            values = (value for _, value in self._given)
            self._session.run(assign, dict(zip(placeholders, values, strict=True)))
        self._given.clear()

    def function(self, feeds: Sequence[Any], fetches: Sequence[Any]) -> Callable[..., list[Array]]:
        """Runs the fetches; the graph is pruned, placed and optimised for them and cannot change afterwards."""
        with self.phases("optimize"):
            copies = [tf.identity(fetch) for fetch in fetches]
            self._graph.finalize()
            names = {"feed": [feed.name for feed in feeds], "fetch": [copy.name for copy in copies]}
            function: Callable[..., list[Array]] = self._session._make_callable_from_options(
                config_pb2.CallableOptions(**names)
            )
            return function

    @property
    def operations(self) -> int:
        """Nodes of the graph."""
        return len(self._graph.get_operations())

    def source(self) -> str:
        """The graph as text, one operation per line."""
        lines = []
        for operation in self._graph.get_operations():
            inputs = ", ".join(tensor.name for tensor in operation.inputs)
            lines.append(f"{operation.name} = {operation.type}({inputs})")
        return "\n".join(lines)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

"""TensorFlow 1 through compat.v1: `static_rnn`, `dynamic_rnn`, a loop over `session.run`, and the fused BlockLSTM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from unrollbench.backends import Listing, Memory, limits
from unrollbench.case import Case
from unrollbench.tensors import Array, Gradients, Outputs, State, Tensors

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # compat.v1's rnn_cell classes live in tf_keras
import tensorflow as tf
import tf_keras

from unrollbench.backends.tensorflow_session import Session

Tensor = Any
tf1 = tf.compat.v1


class TensorflowRnn:
    """static: `static_rnn`; dynamic: `dynamic_rnn`; stepwise: `session.run` per step; library: BlockLSTM."""

    name = "tensorflow"
    versions: Mapping[str, str] = {"tensorflow": tf.__version__, "tf_keras": tf_keras.__version__}

    def why_not(self, case: Case) -> str | None:
        return limits.tensorflow(case)

    def build(self, case: Case, tensors: Tensors) -> TensorflowProgram | TensorflowStepProgram:
        """The graph made, the session started, the variables set, and the graph optimised for what will be run."""
        case = case.canonical()
        program = TensorflowStepProgram if case.execution == "stepwise" else TensorflowProgram
        # TensorFlow 1's while loop; version 2's has no swap_memory, and its gradients go another way.
        tf1.disable_control_flow_v2()
        tf1.logging.set_verbosity(tf1.logging.ERROR)  # it warns, in two ways, that its version 1 is deprecated
        with tf.Graph().as_default() as graph, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program(case, tensors, Session(graph, case.threads))


class _Program:
    """What both kinds of program are: a session, and an account of its graph."""

    def __init__(self, case: Case, tensors: Tensors, session: Session) -> None:
        self._case, self._session = case, session
        self._weight_bytes = sum(array.nbytes for layer in tensors.weights for array in layer.values())
        self.build_phases_s: Mapping[str, float] = session.phases

    def synchronize(self) -> None:
        """Nothing to wait for: session.run returns the fetched arrays."""

    def compilations(self) -> int:
        return self._session.operations

    def memory(self) -> Memory:
        return Memory(weight_bytes=self._weight_bytes)

    def listing(self) -> Listing:
        return Listing(self._session.source(), graph_nodes=self._session.operations)

    def close(self) -> None:
        self._session.close()

    def _states(self, arrays: Iterator[Array]) -> tuple[State, ...]:
        parts = 2 if self._case.cell == "lstm" else 1
        return tuple(tuple(next(arrays) for _ in range(parts)) for _ in range(self._case.num_layers))


class TensorflowProgram(_Program):
    """One session.run for the whole sequence, and in train mode its gradients.

    Weights, inputs, lengths, initial state and cotangents are variables: nothing is folded and nothing is fed.
    """

    def __init__(self, case: Case, tensors: Tensors, session: Session) -> None:
        super().__init__(case, tensors, session)
        self._weight_names = [list(layer) for layer in tensors.weights]
        self._results: list[Array] = []
        with session.phases("trace"):
            inputs = session.variable(tensors.inputs).read_value()
            lengths = None if tensors.lengths is None else session.variable(tensors.lengths).read_value()
            initial = [[session.variable(part).read_value() for part in layer] for layer in tensors.initial_state]
            network = _block_lstm if case.execution == "library" else _rnn
            outputs, state, weights = network(case, tensors, session, inputs, initial, lengths)
            fetches = [outputs, *(part for layer in state for part in layer)]
        if case.mode == "train":
            assert tensors.d_outputs is not None
            assert tensors.d_state is not None
            with session.phases("gradients"):
                cotangents = [tensors.d_outputs, *(part for layer in tensors.d_state for part in layer)]
                wanted = [inputs, *weights, *(part for layer in initial for part in layer)]
                given = [session.variable(array).read_value() for array in cotangents]
                fetches += tf1.gradients(fetches, wanted, given, unconnected_gradients="zero")
        session.start()
        self._call = session.function([], fetches)

    def run(self) -> None:
        self._results = self._call()

    def outputs(self) -> Outputs:
        arrays = iter(self._results)
        outputs, state = next(arrays), self._states(arrays)
        if self._case.mode == "forward":
            return Outputs(outputs, state)
        d_inputs = next(arrays)
        d_weights = tuple({name: next(arrays) for name in names} for names in self._weight_names)
        return Outputs(outputs, state, Gradients(d_inputs, d_weights, self._states(arrays)))


class TensorflowStepProgram(_Program):
    """A Python loop with one session.run per step; inputs and states are fed, outputs and states fetched."""

    def __init__(self, case: Case, tensors: Tensors, session: Session) -> None:
        super().__init__(case, tensors, session)
        time_axis = 0 if case.time_major else 1
        self._steps = [np.ascontiguousarray(x) for x in np.moveaxis(tensors.inputs, time_axis, 0)]
        self._initial = [part for layer in tensors.initial_state for part in layer]
        self._outputs = np.empty((*tensors.inputs.shape[:2], case.layer_shapes[-1][2]), case.dtype)
        self._output_steps = np.moveaxis(self._outputs, time_axis, 0)
        self._state: list[Array] = []
        with session.phases("trace"):
            x = tf1.placeholder(case.dtype, self._steps[0].shape)
            t = tf1.placeholder(tf.int64, [])
            state = [[tf1.placeholder(case.dtype, part.shape) for part in layer] for layer in tensors.initial_state]
            cell = _cell(case)
            output, after = cell(x, _cell_state(case, state))
            new = _state_parts(case, after)
            if tensors.lengths is not None:
                running = (t < session.variable(tensors.lengths).read_value())[:, None]
                output = tf.where(running, output, tf.zeros_like(output))
                new = [
                    [tf.where(running, a, b) for a, b in zip(layer, old, strict=True)]
                    for layer, old in zip(new, state, strict=True)
                ]
            _load(case, tensors, session, cell)
        session.start()
        feeds = [x, t, *(part for layer in state for part in layer)]
        self._call = session.function(feeds, [output, *(part for layer in new for part in layer)])

    def run(self) -> None:
        state = self._initial
        for t, x in enumerate(self._steps):
            self._output_steps[t], *state = self._call(x, np.int64(t), *state)
        self._state = state

    def outputs(self) -> Outputs:
        return Outputs(self._outputs, self._states(iter(self._state)))


def _rnn(
    case: Case, tensors: Tensors, session: Session, inputs: Tensor, initial: list[list[Tensor]], lengths: Tensor | None
) -> tuple[Tensor, list[list[Tensor]], list[Tensor]]:
    """(outputs, state, weights) of `static_rnn` or `dynamic_rnn`; static unstacks its inputs and stacks its outputs."""
    cell, time_axis = _cell(case), 0 if case.time_major else 1
    if case.execution == "static":
        steps = tf.unstack(inputs, axis=time_axis)
        results, state = tf1.nn.static_rnn(cell, steps, _cell_state(case, initial), sequence_length=lengths)
        outputs = tf.stack(results, time_axis)
    else:
        outputs, state = tf1.nn.dynamic_rnn(
            cell,
            inputs,
            sequence_length=lengths,
            initial_state=_cell_state(case, initial),
            parallel_iterations=case.parallel_iterations,
            swap_memory=bool(case.swap_memory),
            time_major=case.time_major,
        )
    return outputs, _state_parts(case, state), _load(case, tensors, session, cell)


def _block_lstm(
    case: Case, tensors: Tensors, session: Session, inputs: Tensor, initial: list[list[Tensor]], lengths: Tensor | None
) -> tuple[Tensor, list[list[Tensor]], list[Tensor]]:
    """(outputs, state, weights) of a chain of BlockLSTM operators, each of which runs its layer's whole sequence."""
    options = case.cell_options
    state: list[list[Tensor]] = []
    weights: list[Tensor] = []
    x = inputs if case.time_major else tf.transpose(inputs, [1, 0, 2])
    for units, layer, (c, h) in zip(case.units, tensors.weights, initial, strict=True):
        given = {name: session.variable(array).read_value() for name, array in layer.items()}
        none = tf.zeros([units], case.dtype)
        block = tf.raw_ops.BlockLSTM(
            seq_len_max=tf.constant(case.sequence_length, tf.int64),
            x=x,
            cs_prev=c,
            h_prev=h,
            w=given["kernel"],
            wci=given.get("w_i_diag", none),
            wcf=given.get("w_f_diag", none),
            wco=given.get("w_o_diag", none),
            b=given["bias"],
            forget_bias=options.forget_bias,
            cell_clip=options.cell_clip or -1.0,  # not positive: no clipping
            use_peephole=options.use_peepholes,
        )
        x = block.h
        state.append([block.cs[-1], block.h[-1]])
        weights += given.values()
    return x if case.time_major else tf.transpose(x, [1, 0, 2]), state, weights


def _cell(case: Case) -> Any:
    """The cell, or the MultiRNNCell, that a TensorFlow 1 program would make."""
    rnn_cell, options = tf1.nn.rnn_cell, case.cell_options

    def one(units: int) -> Any:
        if case.cell == "basic_rnn":
            return rnn_cell.BasicRNNCell(units, dtype=case.dtype)
        if case.cell == "gru":
            return rnn_cell.GRUCell(units, dtype=case.dtype)
        if not options.use_peepholes and options.cell_clip is None and options.num_proj is None:
            return rnn_cell.BasicLSTMCell(units, forget_bias=options.forget_bias, dtype=case.dtype)
        return rnn_cell.LSTMCell(
            units,
            use_peepholes=options.use_peepholes,
            cell_clip=options.cell_clip,
            num_proj=options.num_proj,
            proj_clip=options.proj_clip,
            forget_bias=options.forget_bias,
            dtype=case.dtype,
        )

    cells = [one(units) for units in case.units]
    return cells[0] if len(cells) == 1 else rnn_cell.MultiRNNCell(cells)


def _load(case: Case, tensors: Tensors, session: Session, cell: Any) -> list[Tensor]:
    """The cell's variables in the order of the case's weights, which they will have as their values."""
    cells = [cell] if case.num_layers == 1 else cell._cells
    variables = []
    for layer, one in zip(tensors.weights, cells, strict=True):
        for name, value in layer.items():
            # The shortest: `kernel` also ends `projection/kernel`.
            variable = min((v for v in one.variables if v.name.endswith(f"{name}:0")), key=lambda v: len(v.name))
            session.give(variable, value)
            variables.append(variable)
    return variables


def _cell_state(case: Case, state: list[list[Tensor]]) -> Any:
    """The state as a TensorFlow 1 cell takes it."""
    layers = [tf1.nn.rnn_cell.LSTMStateTuple(*layer) if case.cell == "lstm" else layer[0] for layer in state]
    return layers[0] if case.num_layers == 1 else tuple(layers)


def _state_parts(case: Case, state: Any) -> list[list[Tensor]]:
    layers = [state] if case.num_layers == 1 else state
    return [list(layer) if case.cell == "lstm" else [layer] for layer in layers]

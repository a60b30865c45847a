"""`static_rnn` and `dynamic_rnn`, with the arguments, defaults and results of TensorFlow 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from unrollbench.errors import ArgumentError, ArgumentTypeError
from unrollbench.rnn import arguments
from unrollbench.rnn.cell import RNNCell
from unrollbench.rnn.compilation import built_for, window
from unrollbench.rnn.settings import Settings
from unrollbench.tensors import Array


def dynamic_rnn(  # noqa: PLR0913 - TensorFlow's signature
    cell: RNNCell,
    inputs: Any,
    sequence_length: Any = None,
    initial_state: Any = None,
    dtype: Any = None,
    parallel_iterations: int | None = None,
    swap_memory: bool = False,
    time_major: bool = False,
    scope: str | None = None,
) -> tuple[Array, Any]:
    """Outputs (B,T,P), or (T,B,P) if time_major, and the final state, computed by a loop: new arrays, the caller's.

    inputs: (B,T,I), or (T,B,I) if time_major. sequence_length: each row's own length, integers 0..T; past it the
    output is zero, the state is copied through, and the input may be anything. initial_state: nested as the cell's
    state; None is zeros. dtype: TensorFlow wants it where there is no initial_state; here None takes the cell's, or
    else the inputs'. parallel_iterations (None: 32) trades memory for time; swap_memory matters for gradients only,
    which are those of `compile`. scope named TensorFlow's variables and has nothing to name here.

    The first call builds the cell. The cell keeps the program: calls of the same shape do not compile again. It runs
    on one thread; `compile` offers more.

    Raises:
        ArgumentError: an argument cannot be used; the message names it.
    Source: `tf.compat.v1.nn.dynamic_rnn`.
    """
    arguments.scope(scope)
    inputs, dtype = built_for(cell, "inputs", inputs, dtype, rank=3)
    settings = Settings(
        execution="dynamic",
        mode="forward",
        max_time=1,
        batch_size=inputs.shape[1 if arguments.flag("time_major", time_major) else 0],
        dtype=dtype,
        parallel_iterations=window(parallel_iterations),
        swap_memory=arguments.flag("swap_memory", swap_memory),
        time_major=time_major,
    )
    return cell.programs.get(cell, settings)(inputs, sequence_length, initial_state)


def static_rnn(
    cell: RNNCell,
    inputs: Any,
    initial_state: Any = None,
    dtype: Any = None,
    sequence_length: Any = None,
    scope: str | None = None,
) -> tuple[list[Array], Any]:
    """A list of T outputs (B,P) and the final state, by straight-line code for this T: new arrays, the caller's.

    inputs: a list of T arrays (B,I). The other arguments are those of `dynamic_rnn`. The program is kept by the cell:
    calls with as many steps do not compile again; another number of steps is another program.

    Raises:
        ArgumentError: an argument cannot be used; the message names it.
    Source: `tf.compat.v1.nn.static_rnn`.
    """
    arguments.scope(scope)
    if not isinstance(inputs, list | tuple):
        kind = type(inputs).__name__
        raise ArgumentTypeError(f"inputs: got {kind}, wanted a list of arrays (batch, columns), one per time step")
    if not inputs:
        raise ArgumentError("inputs: got an empty list, wanted one array (batch, columns) per time step")
    first, dtype = built_for(cell, "inputs[0]", inputs[0], dtype, rank=2)
    steps = [arguments.array(f"inputs[{t}]", x, dtype, first.shape, "as inputs[0]") for t, x in enumerate(inputs)]
    settings = Settings("static", "forward", len(steps), first.shape[0], dtype, time_major=True)
    outputs, state = cell.programs.get(cell, settings)(np.stack(steps), sequence_length, initial_state)
    return list(outputs), state

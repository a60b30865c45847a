"""`compile`, and the programs that a cell keeps so that its calls do not compile again."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from unrollbench.case import DEVICES, EXECUTIONS, MODES
from unrollbench.errors import ArgumentError, ArgumentTypeError
from unrollbench.rnn import arguments, devices
from unrollbench.rnn.program import Program
from unrollbench.rnn.settings import Settings
from unrollbench.tensors import Array

if TYPE_CHECKING:
    from unrollbench.rnn.cell import RNNCell

KEPT = 8
"""Programs that a cell keeps for its calls; the one that was not used for longest is closed first."""


class Programs:
    """The programs compiled for one cell's calls, by their settings."""

    def __init__(self) -> None:
        self._programs: OrderedDict[Settings, Program] = OrderedDict()

    def get(self, cell: RNNCell, settings: Settings) -> Program:
        """The program for the settings, compiled now unless it is kept from an earlier call."""
        program = self._programs.pop(settings, None) or Program(cell, settings)
        self._programs[settings] = program
        if len(self._programs) > KEPT:
            self._programs.popitem(last=False)[1].close()
        return program


def compile(  # noqa: PLR0913 - one argument per axis of a case
    cell: RNNCell,
    *,
    execution: str = "dynamic",
    mode: str = "forward",
    max_time: int | None = None,
    batch_size: int,
    input_size: int | None = None,
    dtype: Any = None,
    unroll: int | str = 1,
    parallel_iterations: int | None = 32,
    swap_memory: bool = False,
    time_major: bool = False,
    threads: int | None = None,
    device: str = "cpu",
) -> Program:
    """A program for the cell's network, compiled now; the cell is built if it was not.

    execution: "static" is straight-line code for max_time steps, "dynamic" a loop with `unroll` steps per iteration
    ("full": max_time), "stepwise" a Python loop over one compiled step. mode: "forward", or "train" for `backward`.
    parallel_iterations: how many time steps of independent work a dynamic program does ahead. swap_memory: a dynamic
    program in train mode keeps what it saves outside resident memory. None of these four changes a result; unroll,
    parallel_iterations and swap_memory mean nothing for static and stepwise. threads None: every processor that the
    process may use.

    device: "cpu", or "cuda" for the GPU; the arrays are the host's on both. On the GPU a static program is a captured
    graph of launches for given lengths: it is recorded when it is called, and anew when the longest length is another
    than at the call before, not otherwise; each row's own length may change without. A dynamic or stepwise program
    takes the memory for max_time steps when it is compiled, and keeps that of its longest call. Threads mean nothing
    there: None is 1, another number an error. Nothing that was asked of the GPU runs on the CPU instead.

    Raises:
        ArgumentError: an argument cannot be used; the message names it.
        BackendUnavailable: device "cuda" without a GPU, its driver or the extra "cuda"; the message says which.
        MemoryError: there is no room for max_time steps.
        RuntimeError: a GPU does not grant what a kernel needs; the message says what, how much and what to change.
    """
    check_cell(cell)
    execution = arguments.choice("execution", execution, [name for name in EXECUTIONS if name != "library"])
    if max_time is not None:
        max_time = arguments.integer("max_time", max_time, 1)
    elif execution == "static" or unroll == "full":
        asked = "a static program is straight-line code" if execution == "static" else 'unroll="full" is a body'
        raise ArgumentError(f"max_time: got None, but {asked} for a fixed number of time steps; pass it")
    if input_size is None and not cell.built:
        raise ArgumentError(f"input_size: got None, but {cell!r} is not built yet; pass the columns of the inputs")
    device = arguments.choice("device", device, DEVICES)
    if threads is not None:
        threads = arguments.integer("threads", threads, 1)
    settings = Settings(
        execution=execution,
        mode=arguments.choice("mode", mode, MODES),
        max_time=max_time or 1,
        batch_size=arguments.integer("batch_size", batch_size, 0),
        dtype=arguments.dtype("dtype", dtype) if dtype is not None else cell.dtype or "float32",
        unroll=max_time or 1 if unroll == "full" else arguments.integer("unroll", unroll, 1),
        parallel_iterations=window(parallel_iterations),
        swap_memory=arguments.flag("swap_memory", swap_memory),
        time_major=arguments.flag("time_major", time_major),
        threads=devices.host_threads(device, threads, processors()),
        device=device,
    )
    devices.builder(device)  # whatever is missing is told before the cell is built, and for an empty batch too
    cell.build(cell.input_size or 0 if input_size is None else input_size, settings.dtype)
    return Program(cell, settings)


def one_step(cell: RNNCell, inputs: Any, state: Any) -> tuple[Array, Any]:
    """`cell(inputs, state)`: a stepwise program that is kept by the cell and run for one step."""
    inputs, dtype = built_for(cell, "inputs", inputs, None, rank=2)
    settings = Settings("stepwise", "forward", 1, inputs.shape[0], dtype, time_major=True)
    if state is None:
        raise ArgumentTypeError("state: got None, wanted a state; start with cell.zero_state(batch_size, dtype)")
    arrays = cell.flatten_state("state", state, inputs.shape[0], dtype)
    outputs, final = cell.programs.get(cell, settings)(inputs[None], initial_state=cell.nest(iter(arrays)))
    return outputs[0], final


def built_for(cell: RNNCell, name: str, inputs: Any, dtype: Any, *, rank: int) -> tuple[Array, str]:
    """The inputs as an array of the dtype that a call computes in, and that dtype; the cell is built for both.

    The dtype is the argument `dtype`, or else the cell's, or else the inputs'; nested lists of numbers are float32.
    """
    check_cell(cell)
    if dtype is not None:
        chosen = arguments.dtype("dtype", dtype)
    else:
        chosen = cell.dtype or (
            arguments.dtype(name, np.asarray(inputs).dtype) if hasattr(inputs, "__array__") else "float32"
        )
    legend = "(batch, columns)" if rank == 2 else "(batch, time, columns) or time-major (time, batch, columns)"
    array = arguments.array(name, inputs, chosen, (None,) * (rank - 1) + (cell.input_size,), legend)
    cell.build(array.shape[-1], chosen)
    return array, chosen


def check_cell(cell: Any) -> None:
    """Raises ArgumentTypeError unless it is a cell of ours: told by what it can do, as TensorFlow tells its own."""
    if isinstance(cell, type) or not hasattr(cell, "flatten_state"):
        got = f"the class {cell.__name__}" if isinstance(cell, type) else type(cell).__name__
        raise ArgumentTypeError(f"cell: got {got}, wanted a cell of unrollbench.rnn")


def window(parallel_iterations: int | None) -> int:
    """`parallel_iterations` as an integer >= 1; None is 32, as in TensorFlow."""
    return 32 if parallel_iterations is None else arguments.integer("parallel_iterations", parallel_iterations, 1)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))

"""Backends that compute right results without a kernel, or go wrong each in one way; the workers of tests load them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from unrollbench import backends, reference
from unrollbench.backends import Listing, Memory
from unrollbench.case import Case
from unrollbench.tensors import Gradients, Outputs, Tensors, Weights

SMALL = Case(backend="fake", sequence_length=3, batch_size=2, input_size=3, num_units=4)


def register() -> None:
    """`backends.load` knows the classes of this file by these names in this process."""
    here = "tests.fake_backend"
    backends.BUILT_IN.update(
        fake=f"{here}:Right",
        fake_wrong=f"{here}:Wrong",
        fake_wrong_later=f"{here}:WrongLater",
        fake_segfault=f"{here}:Segfault",
        fake_segfault_later=f"{here}:SegfaultLater",
        fake_killed=f"{here}:Killed",
        fake_exit=f"{here}:Exit",
        fake_hang=f"{here}:Hang",
        fake_slow=f"{here}:Slow",
        fake_large=f"{here}:Large",
        fake_error=f"{here}:Error",
        fake_picky=f"{here}:Picky",
        fake_missing="tests.no_such_module:Missing",
        fake_child=f"{here}:LeavesChild",
        fake_pinned=f"{here}:Pinned",
        fake_simulated=f"{here}:Simulated",
        fake_device_full=f"{here}:DeviceFull",
        fake_patricide=f"{here}:KillsServer",
    )


def start_thread() -> None:
    """This process has a second thread, as some libraries have once they are loaded."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


class FakeProgram:
    """Results computed once, by the reference; a run counts itself."""

    def __init__(self, case: Case, tensors: Tensors) -> None:
        self.build_phases_s: Mapping[str, float] = {"codegen": 0.25, "llvm": 0.5}
        self.result = cast(reference.expected(case, tensors), case.dtype)
        self.runs = 0
        self.closed = False

    def run(self) -> None:
        self.runs += 1

    def synchronize(self) -> None:
        return None

    def outputs(self) -> Outputs:
        return self.result

    def memory(self) -> Memory:
        return Memory(weight_bytes=100, workspace_bytes=0)

    def listing(self) -> Listing:
        return Listing("source", graph_nodes=7)

    def close(self) -> None:
        self.closed = True


class Right:
    name = "fake"
    versions: Mapping[str, str] = {}

    def why_not(self, case: Case) -> str | None:
        return None

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        return FakeProgram(case, tensors)


class Wrong(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        program = super().build(case, tensors)
        program.result = shifted(program.result)
        return program


class WrongLater(Right):
    """Right after one run, wrong after more."""

    class Program(FakeProgram):
        def outputs(self) -> Outputs:
            return self.result if self.runs == 1 else shifted(self.result)

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        return self.Program(case, tensors)


class Segfault(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().build(case, tensors)


class SegfaultLater(Right):
    class Program(FakeProgram):
        def run(self) -> None:
            super().run()
            if self.runs > 3:
                os.kill(os.getpid(), signal.SIGSEGV)

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        return self.Program(case, tensors)


class Killed(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().build(case, tensors)


class Exit(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        os._exit(3)


class Hang(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)


class Slow(Right):
    """Each build takes a while, so that a run can be interrupted in its middle."""

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        time.sleep(0.5)
        return super().build(case, tensors)


class Large(Right):
    """Takes more memory than any machine has left."""

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        np.ones(1 << 44)
        return super().build(case, tensors)


class Error(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        raise ValueError("no kernel\nfor this")


class Picky(Right):
    def why_not(self, case: Case) -> str | None:
        return "it has no such loop"


class Simulated(Right):
    """Computes in a simulator: right, and never to be timed."""

    simulated = True


class DeviceFull(Right):
    """The device has no memory left, which the driver says in words of its own."""

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")


class KillsServer(Right):
    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
        return super().build(case, tensors)


class LeavesChild(Right):
    """Starts a process that would outlive it, and says which in its error."""

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        raise ValueError(str(child.pid))


class Pinned(Right):
    """Says on how many processors it may run, and with how many threads."""

    def build(self, case: Case, tensors: Tensors) -> FakeProgram:
        raise ValueError(f"{len(os.sched_getaffinity(0))} {os.environ['OMP_NUM_THREADS']}")


def cast(outputs: Outputs, dtype: str) -> Outputs:
    """The results in the case's dtype, as a program returns them."""
    state = tuple(tuple(array.astype(dtype) for array in layer) for layer in outputs.state)
    gradients = outputs.gradients
    if gradients is not None:
        weights: tuple[Weights, ...] = tuple({k: v.astype(dtype) for k, v in w.items()} for w in gradients.weights)
        initial = tuple(tuple(array.astype(dtype) for array in layer) for layer in gradients.initial_state)
        gradients = Gradients(gradients.inputs.astype(dtype), weights, initial)
    return Outputs(outputs.outputs.astype(dtype), state, gradients)


def shifted(outputs: Outputs) -> Outputs:
    return replace(outputs, outputs=outputs.outputs + outputs.outputs.dtype.type(1))

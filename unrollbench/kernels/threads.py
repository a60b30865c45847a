"""A team of threads that runs one compiled function side by side, and the barrier that they share.

Threads wait by spinning, since a step takes microseconds; after a while they yield the core, then sleep.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.lowering import kernel
from unrollbench.kernels.words import Emit, add_atomic, c_function, call, pause, poke, watch

SPINS_BEFORE_YIELD = 4_000
"""About 100 microseconds of `pause`: longer than a step's imbalance, shorter than a scheduler's time slice."""
YIELDS_BEFORE_SLEEP = 2_000
SLEEP_US = 100
GENERATION, FINISHED = 0, 64
FUNCTION, FRAMES, STRIDE, OWN_CPU = 128, 136, 144, 152
OWN_CPUS, CALLERS_CPUS = 192, 320
FIELDS = 448
"""Byte offsets in a team's control block, and its size; what threads spin on has a cache line of its own. OWN_CPU: the
number of the caller's processor during a run, or NO_CPU; OWN_CPUS: that one, CALLERS_CPUS: those it may use otherwise,
as the system's sets of CPU_SET_BYTES."""
NO_CPU = -1
CPU_SET_BYTES = 128
ARRIVAL_BYTES = 128
"""From one thread's count of arrivals to the next one's: the cores fetch lines in pairs."""

_CAN_PIN = hasattr(os, "sched_setaffinity")


@cache
def _c_function(arguments: int) -> Any:
    """The type of a C function void(int64, ...), which runs without Python's lock."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)


@cache
def _callable(called: Kernel) -> Any:
    """A kernel as a function of Python."""
    return _c_function(called.arguments)(called.address)


# The caller's set of processors changes for the run, so that it comes to its own one and stays there. A brief run of a
# caller that is there already does without: the calls of the system would take some microseconds, and it hardly moves
# in a run that takes some hundreds. Nor does the set change where the system's own sets are larger than ours.
_PIN = f"""
    own, pinned = watch(control + {OWN_CPU}), 0
    if brief and own == sched_getcpu():
        own = {NO_CPU}
    if own != {NO_CPU}:
        pinned = sched_getaffinity(0, {CPU_SET_BYTES}, control + {CALLERS_CPUS}) == 0
        if pinned:
            sched_setaffinity(0, {CPU_SET_BYTES}, control + {OWN_CPUS})
"""
_UNPIN = f"""
    if pinned:
        sched_setaffinity(0, {CPU_SET_BYTES}, control + {CALLERS_CPUS})
"""
TEXTS = {
    "relax": f"""
def relax(spins):
    pause()
    if spins > {SPINS_BEFORE_YIELD}:
        sched_yield()
""",
    "arrive": f"""
def arrive(arrivals, thread):
    own = arrivals + thread * {ARRIVAL_BYTES}
    poke(own, watch(own) + 1)
""",
    "meet": f"""
def meet(arrivals, thread, threads):
    count, spins = watch(arrivals + thread * {ARRIVAL_BYTES}), 0
    for other in range(threads):
        while watch(arrivals + other * {ARRIVAL_BYTES}) < count:
            relax(spins)
            spins += 1
""",
    "barrier": """
def barrier(arrivals, thread, threads):
    arrive(arrivals, thread)
    meet(arrivals, thread, threads)
""",
    "serve": f"""
def serve(control, thread):
    seen = 0
    while 1:
        spins = 0
        while watch(control + {GENERATION}) == seen:
            relax(spins)
            spins += 1
            if spins > {SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP}:
                usleep({SLEEP_US})
        seen, function = watch(control + {GENERATION}), watch(control + {FUNCTION})
        if function == 0:
            return
        call(function, watch(control + {FRAMES}) + thread * watch(control + {STRIDE}))
        add_atomic(control + {FINISHED}, 1)
""",
    "launch": f"""
def launch(control, function, frames, stride, others, brief):
{_PIN if _CAN_PIN else ""}
    poke(control + {FINISHED}, 0)
    poke(control + {FUNCTION}, function)
    poke(control + {FRAMES}, frames)
    poke(control + {STRIDE}, stride)
    add_atomic(control + {GENERATION}, 1)
    call(function, frames)
    spins = 0
    while watch(control + {FINISHED}) < others:
        relax(spins)
        spins += 1
{_UNPIN if _CAN_PIN else ""}
""",
    "stop": f"""
def stop(control):
    poke(control + {FUNCTION}, 0)
    add_atomic(control + {GENERATION}, 1)
""",
}
"""Name -> text of a kernel with which threads wait for each other and for work.

relax(spins): one turn of a spin loop, which has had so many. arrive(arrivals, thread): adds one to this thread's count;
arrivals: the address of the threads' counts, ARRIVAL_BYTES apart, which nothing else touches. meet(arrivals, thread,
threads): returns when all `threads` have arrived as often as this one. barrier(arrivals, thread, threads): both.
serve(control, thread): runs what is launched, again and again, until it is stopped. launch(control, function, frames,
stride, others, brief): runs a function on all threads, with a frame each; brief: whether that takes but a short while.
stop(control): ends the threads.
"""


@cache
def compiled(name: str) -> Kernel:
    """A kernel of TEXTS, compiled once for all programs."""
    word, int32 = ir.IntType(64), ir.IntType(32)
    system = {"sched_yield": [], "sched_getcpu": [], "usleep": [int32]}
    system |= {f"sched_{verb}affinity": [int32, word, word] for verb in ("get", "set")}
    namespace: dict[str, Emit] = {function: c_function(function, types) for function, types in system.items()}
    namespace |= {"watch": watch, "poke": poke, "add_atomic": add_atomic, "call": call, "pause": pause}
    uses = [compiled(other) for other in TEXTS if other != name and f"{other}(" in TEXTS[name]]
    return kernel(TEXTS[name], name, namespace | {used.name: used.call for used in uses}, uses)


def compile_all() -> None:
    """Compiles what is no program's own, so that a program's build is its own and no more; no thread is started."""
    for name in TEXTS:
        compiled(name)


def waits(threads: int) -> list[Kernel]:
    """The kernels with which so many threads wait for each other: none, where there is but one."""
    return [compiled(name) for name in ("arrive", "meet", "barrier")] if threads > 1 else []


def waiting(threads: int) -> dict[str, Any]:
    """What kernels' text that waits for so many threads calls, by name."""
    return {kernel.name: kernel.call for kernel in waits(threads)}


def _serve(control: npt.NDArray[np.int64], thread: int, cpu: int | None) -> None:
    if cpu is not None:
        with suppress(OSError):  # forbidden, or the processor was taken away: it runs wherever it may
            os.sched_setaffinity(0, {cpu})
    _callable(compiled("serve"))(control.ctypes.data, thread)


def _stop(control: npt.NDArray[np.int64], members: list[threading.Thread]) -> None:
    if members:
        _callable(compiled("stop"))(control.ctypes.data)
    for member in members:
        member.join()


class Team:
    """`size` threads, the caller's among them, with a processor each: the caller's during a run, the others' for life.

    A brief run does not keep a caller on it who is there already.

    `close` (or garbage collection, or the end of the process) ends them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._control = np.zeros(FIELDS // 8, np.int64)
        self._control[OWN_CPU // 8] = NO_CPU
        self._members: list[threading.Thread] = []
        self._own_cpu: int | None = None
        self._frames: npt.NDArray[np.int64] | None = None
        self._frames_at = 0
        if size > 1:
            compile_all()
            self._launch = _callable(compiled("launch"))
            self._launched = self._control.ctypes.data, size - 1
            cpus = processors(size)
            if cpus[0] is not None and cpus[0] < 8 * CPU_SET_BYTES:
                self._own_cpu = cpus[0]
                self._control[OWN_CPU // 8] = cpus[0]
                self._control[OWN_CPUS // 8 + cpus[0] // 64] = np.uint64(1 << cpus[0] % 64).astype(np.int64)
            for thread in range(1, size):
                member = threading.Thread(target=_serve, args=(self._control, thread, cpus[thread]), daemon=True)
                member.start()
                self._members.append(member)
        self.close = weakref.finalize(self, _stop, self._control, self._members)
        _teams.add(self)

    def cpu_s(self) -> float:
        """Seconds of processor time that this thread and the members have had, to the moment.

        Not the process's own clock: of threads that are running elsewhere that knows only up to the last timer tick.
        """
        clocks = [time.pthread_getcpuclockid(member.ident) for member in self._members if member.ident is not None]
        return time.thread_time() + sum(map(time.clock_gettime, clocks))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """The caller has its processor throughout, so that many short runs need not change its set one by one."""
        if self._own_cpu is None:
            yield
            return
        before = os.sched_getaffinity(0)
        self._control[OWN_CPU // 8] = NO_CPU
        try:
            os.sched_setaffinity(0, {self._own_cpu})
            yield
        finally:
            os.sched_setaffinity(0, before)
            self._control[OWN_CPU // 8] = self._own_cpu

    def run(self, function: int, frames: npt.NDArray[np.int64], *, brief: bool = False) -> None:
        """Calls the C function at address `function` once per thread, with the address of that thread's row of frames.

        brief: whether that takes so little that a caller who is on its processor already need not be kept there.

        Raises RuntimeError after `close`, and with several threads in a process that was forked since they started.
        """
        if not self.close.alive:
            raise RuntimeError("this program was closed, or its process was forked: its threads are not here")
        if frames is not self._frames:  # to ask an array for its address takes as long as the briefest run
            self._frames, self._frames_at = frames, frames.ctypes.data
        if self.size == 1:
            _c_function(1)(function)(self._frames_at)
        else:
            control, others = self._launched
            self._launch(control, function, self._frames_at, frames.strides[0], others, int(brief))


_teams: weakref.WeakSet[Team] = weakref.WeakSet()


def _after_fork() -> None:
    """The threads of a team are not in a process that is forked, which would wait for them for ever."""
    for team in _teams:
        if team.size > 1:
            team.close.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def processors(size: int) -> list[int | None]:
    """A processor for each thread, where the system lets one choose and has enough; otherwise None."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * size
    allowed = sorted(os.sched_getaffinity(0))
    return list(allowed[:size]) if len(allowed) >= size else [None] * size

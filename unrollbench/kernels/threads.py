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
from numba import njit, types

from unrollbench.kernels.build import Kernel
from unrollbench.kernels.words import add_atomic, call, pause, poke, watch

SPINS_BEFORE_YIELD = 4_000
"""About 100 microseconds of `pause`: longer than a step's imbalance, shorter than a scheduler's time slice."""
YIELDS_BEFORE_SLEEP = 2_000
GENERATION, FINISHED, FUNCTION, FRAMES, STRIDE, OWN_CPU, OWN_CPUS, CALLERS_CPUS, FIELDS = (
    0,
    64,
    128,
    136,
    144,
    152,
    192,
    320,
    448,
)
"""Byte offsets in a team's control block; what threads spin on has a cache line of its own. OWN_CPU: whether the
caller has a processor of its own during a run; OWN_CPUS: that one, CALLERS_CPUS: those it may use otherwise, as the
system's sets of CPU_SET_BYTES."""
CPU_SET_BYTES = 128

_C_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int64)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_affinity = types.int32(types.int32, types.uint64, types.intp)
_sched_getaffinity = types.ExternalFunction("sched_getaffinity", _affinity)
_sched_setaffinity = types.ExternalFunction("sched_setaffinity", _affinity)
_CAN_PIN = hasattr(os, "sched_setaffinity")


@njit(error_model="numpy", nogil=True, no_cpython_wrapper=True)
def relax(spins):
    """One turn of a spin loop."""
    pause()
    if spins > SPINS_BEFORE_YIELD:
        _sched_yield()


def barrier(counter, threads):
    """Returns when all `threads` have called it; `counter` is the address of an int64 that only barriers touch.

    Compiled by `barrier_kernel`.
    """
    if threads > 1:
        target = (add_atomic(counter, 1) // threads + 1) * threads
        spins = 0
        while watch(counter) < target:
            relax(spins)
            spins += 1


@cache
def barrier_kernel() -> Kernel:
    """`barrier`, compiled once for all programs."""
    return Kernel("barrier", barrier, 2)


def waits(threads: int) -> list[Kernel]:
    """The kernels with which so many threads wait for each other: none, where there is but one."""
    return [barrier_kernel()] if threads > 1 else []


def waiting(threads: int) -> dict[str, Any]:
    """What kernels' text that waits for so many threads calls, by name."""
    return {kernel.name: kernel.call for kernel in waits(threads)}


@cache
def compiled():
    """(serve, launch, stop): what a team's threads run and what its owner calls; compiled once for all teams."""

    @njit(types.void(types.intp, types.intp), error_model="numpy", nogil=True)
    def serve(control, thread):
        seen = 0
        while True:
            spins = 0
            while watch(control + GENERATION) == seen:
                relax(spins)
                spins += 1
                if spins > SPINS_BEFORE_YIELD + YIELDS_BEFORE_SLEEP:
                    _usleep(100)
            seen = watch(control + GENERATION)
            function = watch(control + FUNCTION)
            if function == 0:
                return
            call(function, watch(control + FRAMES) + thread * watch(control + STRIDE))
            add_atomic(control + FINISHED, 1)

    @njit(types.void(types.intp, types.intp, types.intp, types.intp, types.intp), error_model="numpy", nogil=True)
    def launch(control, function, frames, stride, others):
        pinned = False
        if _CAN_PIN and watch(control + OWN_CPU):  # not where the system's own sets are larger than ours
            pinned = _sched_getaffinity(0, CPU_SET_BYTES, control + CALLERS_CPUS) == 0
            if pinned:
                _sched_setaffinity(0, CPU_SET_BYTES, control + OWN_CPUS)
        poke(control + FINISHED, 0)
        poke(control + FUNCTION, function)
        poke(control + FRAMES, frames)
        poke(control + STRIDE, stride)
        add_atomic(control + GENERATION, 1)
        call(function, frames)
        spins = 0
        while watch(control + FINISHED) < others:
            relax(spins)
            spins += 1
        if _CAN_PIN and pinned:
            _sched_setaffinity(0, CPU_SET_BYTES, control + CALLERS_CPUS)

    @njit(types.void(types.intp), error_model="numpy", nogil=True)
    def stop(control):
        poke(control + FUNCTION, 0)
        add_atomic(control + GENERATION, 1)

    return serve, launch, stop


def _serve(control: npt.NDArray[np.int64], thread: int, cpu: int | None) -> None:
    if cpu is not None:
        with suppress(OSError):  # forbidden, or the processor was taken away: it runs wherever it may
            os.sched_setaffinity(0, {cpu})
    compiled()[0](control.ctypes.data, thread)


def _stop(control: npt.NDArray[np.int64], members: list[threading.Thread]) -> None:
    if members:
        compiled()[2](control.ctypes.data)
    for member in members:
        member.join()


class Team:
    """`size` threads, the caller's among them, with a processor each: the caller's during a run, the others' for life.

    `close` (or garbage collection, or the end of the process) ends them.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._control = np.zeros(FIELDS // 8, np.int64)
        self._members: list[threading.Thread] = []
        self._own_cpu: int | None = None
        if size > 1:
            compiled()
            cpus = processors(size)
            if cpus[0] is not None and cpus[0] < 8 * CPU_SET_BYTES:
                self._own_cpu = cpus[0]
                self._control[OWN_CPU // 8] = 1
                self._control[OWN_CPUS // 8 + cpus[0] // 64] = np.uint64(1 << cpus[0] % 64).astype(np.int64)
            for thread in range(1, size):
                member = threading.Thread(target=_serve, args=(self._control, thread, cpus[thread]), daemon=True)
                member.start()
                self._members.append(member)
        self.close = weakref.finalize(self, _stop, self._control, self._members)

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
        self._control[OWN_CPU // 8] = 0
        try:
            os.sched_setaffinity(0, {self._own_cpu})
            yield
        finally:
            os.sched_setaffinity(0, before)
            self._control[OWN_CPU // 8] = 1

    def run(self, function: int, frames: npt.NDArray[np.int64]) -> None:
        """Calls the C function at address `function` once per thread, with the address of that thread's row of frames.

        Raises RuntimeError after `close`.
        """
        if not self.close.alive:
            raise RuntimeError("this program was closed: its threads have ended")
        if self.size == 1:
            _C_FUNCTION(function)(frames.ctypes.data)
        else:
            _, launch, _ = compiled()
            launch(self._control.ctypes.data, function, frames.ctypes.data, frames.strides[0], self.size - 1)


def processors(size: int) -> list[int | None]:
    """A processor for each thread, where the system lets one choose and has enough; otherwise None."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * size
    allowed = sorted(os.sched_getaffinity(0))
    return list(allowed[:size]) if len(allowed) >= size else [None] * size

"""What a build leaves behind: machine code that grows with the program, seconds by phase, nothing to compile later."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.adversarial import SMALL
from tests.backends.numba_programs import identical, nothing_compiled, program_of
from unrollbench.backends import numba_cpu
from unrollbench.backends.numba_cpu import NumbaCpu
from unrollbench.case import Case
from unrollbench.kernels import build, lowering
from unrollbench.kernels.build import Kernel, Phases
from unrollbench.kernels.threads import Team
from unrollbench.kernels.words import poke
from unrollbench.tensors import draw

CASE = Case(**{**SMALL, "cell": "gru", "execution": "static", "mode": "forward"})


def driver(T: int) -> Kernel:
    """The compiled forward driver of a static program for T steps."""
    return program_of(replace(CASE, sequence_length=T)).network.entries["forward"]


def call_instructions(kernel: Kernel) -> int:
    """How many calls the compiler left in the kernel's own machine code, whatever the processor calls them."""
    return len(re.findall(r"^\s*(?:callq?|blr?|jmpq?\s+\*%|br\s+x)\b", kernel.listing, re.MULTILINE))


def test_the_machine_code_of_a_static_program_has_a_call_for_every_step() -> None:
    few, many = driver(10), driver(30)
    assert call_instructions(many) - call_instructions(few) == 20


def test_the_machine_code_of_a_static_program_grows_linearly_with_time() -> None:
    sizes = [driver(T).code_bytes or 0 for T in (10, 20, 30)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    growth = sizes[1] - sizes[0], sizes[2] - sizes[1]
    per_step = growth[1] / 10
    assert per_step >= 5  # the shortest call there is
    assert abs(growth[1] - growth[0]) <= 2 * per_step  # no loop and nothing quadratic: alignment alone may differ


def test_the_machine_code_of_a_dynamic_program_does_not_depend_on_time_but_on_unroll() -> None:
    dynamic = replace(CASE, execution="dynamic", parallel_iterations=12)
    sizes = {
        (T, unroll): program_of(replace(dynamic, sequence_length=T, unroll=unroll)).network.code_bytes or 0
        for T, unroll in ((10, 1), (30, 1), (30, 12))
    }
    assert 0 < sizes[10, 1] == sizes[30, 1] < sizes[30, 12]


def test_variables_are_in_registers() -> None:
    text = """
def fill(place, count):
    done, at = 0, place
    while done < count:
        poke(at, done & count)
        at, done = at + 8, done + 1
"""
    assert not re.search(r"\(%rsp\)|\[sp\b", lowering.kernel(text, "fill", {"poke": poke}).listing)  # no stack slot


def test_the_code_of_a_network_counts_each_kernel_once() -> None:
    network = program_of(replace(CASE, mode="train", execution="dynamic")).network
    kernels = set().union(*(entry.reachable() for entry in network.entries.values()))
    assert len({kernel.address for kernel in kernels}) == len(kernels)
    assert network.code_bytes == sum(kernel.code_bytes or 0 for kernel in kernels)
    assert {"forward", "backward", "project", "step", "d_inputs"} <= {kernel.name for kernel in kernels}


def test_a_program_is_compiled_when_it_is_built_and_not_when_it_runs() -> None:
    case = Case(**{**SMALL, "cell": "gru", "execution": "dynamic"})
    program = NumbaCpu().build(case, draw(case))
    with nothing_compiled():
        program.run()
        first = program.outputs()
        program.run()
    assert identical(first, program.outputs())
    program.close()


def test_building_the_same_network_again_compiles_its_driver_only() -> None:
    case = Case(**{**SMALL, "cell": "gru", "execution": "dynamic"})
    tensors = draw(case)
    programs = [NumbaCpu().build(case, tensors)._program.network for _ in range(2)]
    kernels = [set().union(*(e.reachable() for e in network.entries.values())) for network in programs]
    own = [set(network.entries.values()) for network in programs]
    assert kernels[0] - own[0] == kernels[1] - own[1]
    assert not own[0] & own[1]


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("axes", [{}, {"batch_size": 1, "num_units": (64, 64), "parallel_iterations": 48}], ids=str)
def test_layers_that_differ_in_their_inputs_share_the_kernels_that_do_not_read_them(
    mode: Any, axes: dict[str, Any]
) -> None:
    case = Case(**{**SMALL, "cell": "lstm", "input_size": 5, "num_units": (19, 19), "num_layers": 2, **axes})
    network = program_of(replace(case, mode=mode, execution="dynamic")).network
    kernels = set().union(*(entry.reachable() for entry in network.entries.values()))
    count = Counter(kernel.name for kernel in kernels)
    equations = {name for name in count if name.startswith(("equations", "gradients"))}
    assert equations
    assert {count[name] for name in equations} == {1}
    read = any(layout.reads_inputs for layout in network.layouts)
    steps = {"forward": 2, "train": 2 if read else 1}[mode]  # h below the top has other slots; some steps read inputs
    assert count["step"] - (mode == "train") == steps


def test_a_build_says_what_each_phase_cost() -> None:
    program = NumbaCpu().build(CASE, draw(CASE))
    assert set(program.build_phases_s) == {"schedule", "codegen", "llvm", "allocate", "pack"}
    assert all(seconds > 0 for seconds in program.build_phases_s.values())
    program.close()


# ---------------------------------------------------------------- phases, by a clock that is told the time


class Clock:
    """Stands in for the module `time`: it shows what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    monkeypatch.setattr(build, "time", told)
    return told


def test_time_inside_a_nested_phase_counts_for_the_inner_one_only(clock: Clock) -> None:
    phases = Phases()
    with phases.measure("outer"):
        clock.now += 1
        with phases.measure("inner"):
            clock.now += 10
            with phases.measure("outer"):
                clock.now += 100
        clock.now += 2
    assert phases.seconds == {"outer": 103, "inner": 10}


def test_what_threads_run_is_compiled_in_the_compiler_s_phase(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_team(size: int) -> Team:
        clock.now += 10
        return Team(size)

    monkeypatch.setattr(numba_cpu, "Team", slow_team)
    program = NumbaCpu().build(CASE, draw(CASE))
    program.close()
    assert (program.build_phases_s["allocate"], program.build_phases_s["llvm"]) == (0, 10)


def test_a_phase_that_fails_is_booked_too(clock: Clock) -> None:
    phases = Phases()

    def fail() -> None:
        with phases.measure("outer"), phases.measure("inner"):
            clock.now += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert phases.seconds == {"outer": 0, "inner": 3}


def test_code_that_is_no_elf_file_has_no_known_size() -> None:
    assert build._executable_bytes(b"\xcf\xfa\xed\xfe" + bytes(60)) is None


def test_the_size_of_code_is_that_of_the_executable_sections() -> None:
    elf = bytearray(64 + 3 * 64)
    elf[:6] = b"\x7fELF\x02\x01"
    elf[0x28:0x30] = np.array([64], "<u8").tobytes()
    elf[0x3A:0x3E] = np.array([64, 3], "<u2").tobytes()
    for index, (flags, size) in enumerate([(6, 100), (2, 1000), (7, 23)]):
        at = 64 + 64 * index
        elf[at + 8 : at + 16] = np.array([flags], "<u8").tobytes()
        elf[at + 32 : at + 40] = np.array([size], "<u8").tobytes()
    assert build._executable_bytes(bytes(elf)) == 123

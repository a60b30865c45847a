"""Fixtures of the face's tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rnn.reference_program import ReferenceProgram
from unrollbench.rnn import program


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[ReferenceProgram]:
    """The programs that the face builds, which are the reference and compile nothing."""
    programs: list[ReferenceProgram] = []

    def build(layers: Any, **settings: Any) -> ReferenceProgram:
        programs.append(ReferenceProgram(tuple(layers), settings))
        return programs[-1]

    monkeypatch.setattr(program, "build_program", build)
    return programs

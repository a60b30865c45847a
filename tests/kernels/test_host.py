"""What this host's vector unit is taken for."""

from __future__ import annotations

import pytest
from numba.core import config

from unrollbench.kernels import host


@pytest.mark.parametrize("told", ["CPU_NAME", "CPU_FEATURES"])
def test_no_special_instruction_is_used_where_numba_is_told_to_make_code_for_another_processor(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(config, told, "generic")
    assert not host.vector_unit.__wrapped__().avx512

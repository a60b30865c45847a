"""What this host's vector unit is taken for."""

from __future__ import annotations

import pytest
from numba.core import config

from unrollbench.kernels import host


@pytest.mark.parametrize(("told", "value"), [("CPU_FEATURES", "+sse2"), ("ENABLE_AVX", 0)])
def test_no_special_instruction_is_used_where_numba_makes_code_without_it(
    monkeypatch: pytest.MonkeyPatch, told: str, value: object
) -> None:
    monkeypatch.setattr(config, told, value)
    assert not host.vector_unit.__wrapped__().avx512

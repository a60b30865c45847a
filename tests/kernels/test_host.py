"""What this host's vector unit is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest
from numba.core import config

from unrollbench.kernels import host


@pytest.mark.parametrize(("told", "value"), [("CPU_FEATURES", "+sse2"), ("ENABLE_AVX", 0)])
def test_no_special_instruction_is_used_where_numba_makes_code_without_it(
    monkeypatch: pytest.MonkeyPatch, told: str, value: object
) -> None:
    monkeypatch.setattr(config, told, value)
    assert not host.vector_unit.__wrapped__().avx512


@pytest.mark.parametrize(
    ("told", "wanted"), [("32768K\n", 32 * 1024 * 1024), ("32M\n", 16 * 1024 * 1024), (None, 16 * 1024 * 1024)]
)
def test_a_cache_is_what_linux_tells_or_what_most_servers_have(
    monkeypatch: pytest.MonkeyPatch, told: str | None, wanted: int
) -> None:
    def read_text(path: Path) -> str:
        assert path.parts[-2:] == ("index3", "size")
        if told is None:
            raise FileNotFoundError(path)
        return told

    monkeypatch.setattr(Path, "read_text", read_text)
    assert host.third_level_cache_bytes.__wrapped__() == wanted

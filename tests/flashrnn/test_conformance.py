"""Without a GPU, FlashRNN declines everything, with torch's reason."""

from __future__ import annotations

import pytest

from tests.conformance_process import records


@pytest.mark.parametrize("name", ["flashrnn", "flashrnn_alternating", "flashrnn_triton"])
def test_without_a_gpu_nothing_is_run_and_nothing_fails(name: str) -> None:
    # FlashRNN warns about itself while it is imported.
    found = records(name, warnings="default")
    assert found.failed == {}
    assert all(mode for mode in found.passed.values())
    assert {"static: everything", "dynamic: everything", "stepwise: everything"} <= found.skipped.keys()

"""JAX on a GPU is refused with the reason where there is none, and never computed on the processor instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import pytest

from unrollbench import backends
from unrollbench.backends import jax_scan
from unrollbench.case import Case
from unrollbench.errors import BackendUnavailable
from unrollbench.tensors import draw

ON_GPU = Case(backend="jax", device="cuda", sequence_length=2, batch_size=1, input_size=1, num_units=1).canonical()


@pytest.mark.parametrize("execution", ["static", "dynamic", "stepwise"])
def test_without_a_gpu_every_case_on_one_is_refused_with_jax_s_reason(
    monkeypatch: pytest.MonkeyPatch, execution: Any
) -> None:
    def devices(platform: str) -> list[Any]:
        raise RuntimeError(f"Unknown backend {platform}")

    monkeypatch.setattr(jax, "devices", devices)
    reason = backends.load("jax").why_not(replace(ON_GPU, execution=execution).canonical())
    assert reason is not None
    assert reason.startswith(f"jax {jax.__version__} has no GPU here: Unknown backend")
    assert "pip install 'jax[cuda13]'" in reason


def test_a_case_that_was_not_asked_about_is_still_not_computed_on_the_processor() -> None:
    with pytest.raises(BackendUnavailable, match="not on a GPU"):
        backends.load("jax").build(ON_GPU, draw(ON_GPU))


def test_jax_knows_the_names_of_the_algorithms() -> None:
    for name in jax_scan.PRECISIONS.values():
        assert jax.lax.DotAlgorithmPreset[name].name == name
        with jax.default_matmul_precision(name):
            jax.jit(lambda x: x @ x).trace(jax.ShapeDtypeStruct((2, 2), "float32"))

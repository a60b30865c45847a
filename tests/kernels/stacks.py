"""Layouts of small stacks, for tests that look at what is planned and not at what is computed."""

from __future__ import annotations

import pytest

from unrollbench.case import CellOptions
from unrollbench.cells import LayerSpec
from unrollbench.kernels import division
from unrollbench.kernels.division import layouts
from unrollbench.kernels.layout import LayerLayout
from unrollbench.kernels.spec import NetworkSpec
from unrollbench.schedule import schedule


def stack(
    cell: str = "gru",
    *,
    layers: int = 1,
    units: int = 6,
    dtype: str = "float32",
    batch: int = 3,
    train: bool = True,
    threads: int = 1,
    options: CellOptions | None = None,
) -> NetworkSpec:
    """A stack of equal layers over inputs of 5."""
    chosen = options or CellOptions()
    first = LayerSpec(cell, chosen, 5, units)
    above = LayerSpec(cell, chosen, first.output_size, units)
    return NetworkSpec((first, *[above] * (layers - 1)), dtype, batch, train, True, False, threads)


def bottom(spec: NetworkSpec, *, window: int = 32) -> LayerLayout:
    """The layout of the lowest layer in a loop with windows of so many steps."""
    return planned(spec, window=window)[0]


def planned(spec: NetworkSpec, *, window: int = 32) -> tuple[LayerLayout, ...]:
    """The layouts of all layers in a loop with windows of so many steps."""
    return layouts(spec, schedule("dynamic", num_layers=len(spec.layers), max_time=1, parallel_iterations=window))


def sharing_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no exchange between threads cost more than they gain by sharing rows that come out uneven."""
    monkeypatch.setattr(division, "_saves_by_units", lambda *_: True)

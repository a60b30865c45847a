"""Settings of the tests that run TensorFlow itself."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """TensorFlow warns of its own deprecations while it runs; those are not ours to make errors of."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"))

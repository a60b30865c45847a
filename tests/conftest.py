"""Settings that every test shares: no test depends on how fast this machine is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unrollbench", deadline=None)
settings.load_profile("unrollbench")

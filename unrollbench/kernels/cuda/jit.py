"""Generated Python as numba-cuda's device functions: what hardware and `ptx` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from unrollbench.kernels.cuda import branches, warp
from unrollbench.kernels.cuda.tiling import VECTOR_BYTES

FLOATING = frozenset("mwcab")
"""Arguments of generated functions that are arrays of the program's dtype."""
INTEGERS = frozenset(("f", "lengths"))
"""Arguments that are arrays of int64; all others are int64."""


class Jit:
    """The part of `device.Compiler` that needs no architecture."""

    simulated = False

    def scope(self, dtype: str) -> dict[str, Any]:
        """What generated text may use.

        `at` casts an index to unsigned: a signed one costs three instructions per access, in case it counts from the
        end.
        """
        own = {"vector": warp.vector, "dot": warp.dot, "exchange": warp.exchange, "ALIGNMENT": VECTOR_BYTES}
        small = {each.__name__: self.device_function(each, True) for each in branches.FUNCTIONS}
        number = {"ZERO": np.dtype(dtype).type(0), "DTYPE": getattr(types, dtype)}
        return {**own, **small, **number, "cuda": cuda, "at": types.uint64}

    def device_function(self, function: Callable[..., Any], inline: bool) -> Any:
        """A device function, compiled where it is used. No fast-math: NaN and infinities are as on the CPU."""
        return cuda.jit(device=True, forceinline=inline, fastmath=False)(function)

    def signature(self, dtype: str, arguments: str) -> Any:
        """A kernel's signature: flat contiguous arrays and int64."""
        kinds = {True: types.Array(getattr(types, dtype), 1, "C"), False: types.Array(types.int64, 1, "C")}
        names = arguments.split(", ")
        return types.void(*(kinds[name in FLOATING] if name in FLOATING | INTEGERS else types.int64 for name in names))

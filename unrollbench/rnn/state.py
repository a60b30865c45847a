"""The state of a cell as TensorFlow nests it: an array, an LSTMStateTuple, or a tuple of the layers' states."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class LSTMStateTuple(NamedTuple):
    """The state (or the state's sizes) of an LSTM: c, the cell, and h, the output."""

    c: Any
    h: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of both arrays. Raises TypeError where they differ, as in TensorFlow."""
        if self.c.dtype != self.h.dtype:
            raise TypeError(f"LSTMStateTuple: c is {self.c.dtype} and h is {self.h.dtype}")
        dtype: np.dtype[Any] = self.c.dtype
        return dtype

"""A pass that can be started: launch by launch, or as one recording of its launches."""

from __future__ import annotations

from collections.abc import Callable

from unrollbench.kernels.build import Phases
from unrollbench.kernels.cuda.device import Device, Recording


class Pass:
    """What `issue` launches. `records`: as a recording, which holds for one longest length: the text that is recorded
    passes it to products and kernels, while each row's own length is read on the device.
    """

    def __init__(self, device: Device, phases: Phases, issue: Callable[[], None], records: bool) -> None:
        self._device, self._phases, self._issue, self._records = device, phases, issue, records
        self._recording: Recording | None = None
        self._limit: int | None = None

    @property
    def nodes(self) -> int | None:
        """Nodes of the recording; None where there is none, or nobody counts them."""
        return None if self._recording is None else self._recording.nodes

    def ready(self, limit: int) -> bool:
        """It can be started for that longest length. True if it was recorded now, for which it may have run."""
        if not self._records or (self._recording is not None and limit == self._limit):
            return False
        self.close()
        self._recording, self._limit = self._device.record(self._issue, self._phases), limit
        return True

    def start(self) -> None:
        """Starts it; may return before it is finished."""
        if self._recording is not None:
            self._recording.replay()
        else:
            self._issue()

    def close(self) -> None:
        """Gives the recording back."""
        if self._recording is not None:
            self._recording.close()
        self._recording = None

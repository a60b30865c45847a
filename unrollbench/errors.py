"""Every error that unrollbench raises on purpose; anything else that escapes is a bug."""

from __future__ import annotations

from collections.abc import Iterable


class UnrollbenchError(Exception):
    """Base of all errors that a user can cause or be told about."""


class Findings(UnrollbenchError):
    """Several findings about one input, reported together: `findings` holds one line each."""

    def __init__(self, findings: Iterable[str]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(self.findings))


class SuiteError(Findings):
    """A suite file, or an option that changes a suite, cannot be used."""


class NothingLeft(SuiteError):
    """Filters or a budget leave no case of a suite to run."""


class CaseError(Findings, ValueError):
    """The axes of one case contradict each other or are out of range."""


class BackendUnavailable(UnrollbenchError):
    """A backend cannot be loaded here; the message says why and what installs it."""


class WrongResult(UnrollbenchError):
    """A program's outputs or gradients differ from the reference by more than the tolerance."""


class StoreError(UnrollbenchError):
    """A results database cannot be read or written, or holds another schema."""


class RunError(UnrollbenchError):
    """A run cannot be started, or not be resumed here."""


class ArgumentError(UnrollbenchError, ValueError):
    """An argument of `unrollbench.rnn` cannot be used; the message names it, what it got and what it wants."""


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument of `unrollbench.rnn` has the wrong type or dtype."""


class OrderError(ArgumentError, RuntimeError):
    """A cell or program was asked for something that an earlier call has to provide first, or has ended."""


class SwapError(UnrollbenchError, OSError):
    """swap_memory has no disk to swap to."""

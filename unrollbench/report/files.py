"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from unrollbench.errors import UnrollbenchError


def replace_text(path: Path, text: str) -> None:
    """The file holds exactly this text in UTF-8, or is as it was: written beside and renamed.

    Characters that UTF-8 cannot hold (lone surrogates, as in an undecodable message) are written escaped.

    Raises UnrollbenchError where the system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise UnrollbenchError(f"{path}: cannot be written ({error.strerror or error})") from error


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)  # a second error would stand before the first
        raise


def check_writable(folder: Path) -> None:
    """The folder exists and files can be made in it. Raises UnrollbenchError that says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UnrollbenchError(
            f"{folder}: cannot write there ({error.strerror or error}): choose another folder with --out"
        ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

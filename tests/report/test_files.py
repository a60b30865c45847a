"""A file is whole or as it was; an unwritable place is told before it matters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unrollbench.errors import UnrollbenchError
from unrollbench.report.files import check_writable, replace_text


def test_text_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    replace_text(path, "one\n")
    replace_text(path, "two\r\n\udcff")
    assert path.read_bytes() == b"two\r\n\\udcff"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    replace_text(path, "one")

    def full(descriptor: int, *arguments: object, **options: object) -> None:
        os.close(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(UnrollbenchError, match=r"file\.txt: cannot be written \(No space left on device\)"):
        replace_text(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnrollbenchError, match=r"cannot write there.*--out"):
        check_writable(tmp_path / "file" / "folder")
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []

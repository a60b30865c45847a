"""A TOML file as tables whose values are checked while they are taken, so that all findings come out together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unrollbench.errors import SuiteError
from unrollbench.suite.axes import AXES, LARGEST, did_you_mean, show, show_key

MAX_FILE_BYTES = 65_536
"""A suite is written by hand; a file beyond this is something else."""
MAX_TABLES = 100
"""So many tables `[[key]]`: their number is multiplied with that of the cases."""
MAX_KEY_PARTS = 32
"""Parts of a dotted key: the TOML parser takes time with the square of their number."""
_LONG_KEY = re.compile(rf"""(?:\.[ \t]*(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*){{{MAX_KEY_PARTS}}}""")


@dataclass(frozen=True)
class Table:
    """One table of the file. `where` begins each finding; `findings` is shared by all tables of a file."""

    where: str
    data: Mapping[str, Any]
    findings: list[str]

    def report(self, text: str) -> None:
        self.findings.append(f"{self.where} {text}".lstrip())

    def known(self, keys: Iterable[str]) -> None:
        """Reports every other key."""
        keys = tuple(keys)
        for key in self.data:
            if key not in keys:
                wanted = (
                    "is an axis: expected it in a table [axes]"
                    if key in AXES
                    else f"unknown key{did_you_mean(key, keys)}"
                )
                self.report(f"{show_key(key)}: {wanted}")

    def text(self, key: str, *, required: bool = True) -> str:
        value = self.data.get(key)
        if value is None and not required:
            return ""
        if value is None:
            self.report(f'{key} is missing: expected {key} = "some text"')
        elif not isinstance(value, str) or not value.strip():
            self.report(f"{key} = {show(value)}: expected some text in quotes")
        return value if isinstance(value, str) else ""

    def integer(self, key: str, default: int) -> int:
        """An integer >= 1."""
        value = self.data.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            self.report(f"{key} = {show(value)}: expected an integer from 1 to {LARGEST}")
            return default
        return value

    def seconds(self, key: str, default: float) -> float:
        """A number of seconds > 0 and at most a month."""
        value, month_s = self.data.get(key, default), 31 * 86_400
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= month_s:
            self.report(f"{key} = {show(value)}: expected a number of seconds > 0 and <= {month_s}")
            return default
        return float(value)

    def table(self, key: str) -> Table:
        """The table `[key]`, empty if it is missing."""
        value, where = self.data.get(key, {}), f"{self.where} [{key}]".lstrip()
        if isinstance(value, dict):
            return Table(where, value, self.findings)
        hint = f"[{key}] instead of [[{key}]]" if isinstance(value, list) else f"a table [{key}]"
        self.report(f"{key} = {show(value)}: expected {hint}")
        return Table(where, {}, self.findings)

    def tables(self, key: str) -> list[Table]:
        """The tables `[[key]]`, in the order written, numbered from 1."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or (key in self.data and not value):
            hint = f"[[{key}]] instead of [{key}]" if isinstance(value, dict) else f"tables [[{key}]]"
            self.report(f"{key} = {show(value)}: expected {hint}")
            return []
        if len(value) > MAX_TABLES:
            self.report(f"has {len(value)} tables [[{key}]]: expected at most {MAX_TABLES}")
            return []
        tables = []
        for number, one in enumerate(value, start=1):
            if isinstance(one, dict):
                tables.append(Table(f"{self.where} [[{key}]] #{number}".lstrip(), one, self.findings))
            else:
                self.report(f"{key} = {show(value)}: expected tables [[{key}]]")
                break
        return tables


def read_text(path: Path, origin: str) -> str:
    """The file's text. Raises SuiteError if it is none; `origin` names the file."""
    try:
        if path.is_dir():
            raise SuiteError([f"{origin}: is a directory: expected a TOML file"])
        if not path.is_file():
            raise SuiteError([f"{origin}: is not a regular file: expected a TOML file"])
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SuiteError([f"{origin}: cannot be read: {error.strerror}"]) from error
    if len(data) > MAX_FILE_BYTES:
        raise SuiteError([f"{origin}: larger than {MAX_FILE_BYTES} bytes: expected a suite, some lines of TOML"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SuiteError([f"{origin}: is not UTF-8 text (byte {error.start}): expected a TOML file"]) from error


def parse(text: str, origin: str) -> Table:
    """The file's top table. Raises SuiteError if the text is not TOML, with line and column."""
    long_key = _LONG_KEY.search(text)
    if long_key:
        line = text.count("\n", 0, long_key.start()) + 1
        raise SuiteError(
            [f"{origin}: line {line}: more than {MAX_KEY_PARTS} names with dots between: expected a short key"]
        )
    try:
        return Table("", tomllib.loads(text), [])
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", str(error), re.DOTALL)
        where = f"{found[4] or f'line {found[2]}, column {found[3]}'}: " if found else ""
        what = found[1] if found else str(error)
        remedy = ": expected a number, true, false, a list, or text in quotes" if what == "Invalid value" else ""
        raise SuiteError([f"{origin}: {where}not TOML: {what}{remedy}"]) from error
    except ValueError as error:  # a date such as 2026-02-30, an integer of thousands of digits
        raise SuiteError([f"{origin}: not TOML: {error}"]) from error
    except RecursionError as error:
        raise SuiteError(
            [f"{origin}: nested too deeply: expected tables of axis = value or a list of values"]
        ) from error

"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from unrollbench import __version__, cli, suite

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "reports/README.md")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readme_has_every_suite_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("Suites"), re.MULTILINE)) == set(suite.names())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*\w+\.(?:py|toml|md))`|\]\(([\w/.]+)\)", text)
    folders = (ROOT, ROOT / "unrollbench", (ROOT / document).parent)
    for name in {code or link for code, link in named} - {"mine.toml"}:
        assert any((folder / name).exists() for folder in folders), f"{document} names {name}"


def test_the_readmes_suite_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (group,) = suite.parse(text, name="readme", origin="README.md").groups
    assert group.cases


def test_the_suite_languages_own_example_is_one() -> None:
    example = re.search(r"\n\n((?:    .*\n)+)", suite.__doc__ or "")
    assert example
    assert suite.parse(example[1], name="example", origin="suite").groups[0].cases


def test_ci_runs_the_readmes_test_command() -> None:
    _, tests = re.findall(r"```sh\n(.*?)\n```", section("Two commands"), re.DOTALL)
    assert tests in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_package_is_installed() -> None:
    folders = {path.parent for path in (ROOT / "unrollbench").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == {*found, "unrollbench.suites"}


@pytest.mark.parametrize("name", [*cli.COMMANDS, *suite.names()])
def test_the_changelog_has_every_command_and_suite(name: str) -> None:
    assert re.search(rf"`(unrollbench )?{name}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

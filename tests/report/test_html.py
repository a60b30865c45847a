"""The page is whole, needs nothing from outside, and shows strings as strings."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.test_standings import RUN
from tests.runs import HOSTILE, adversarial, failed, run_of, three_ways
from unrollbench import report
from unrollbench.case import Case
from unrollbench.records import Ceiling, Run
from unrollbench.report import html

VOID = {"meta", "br", "line", "circle", "path"}


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and the text; raises on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if not (tag in VOID and "/>" in (self.get_starttag_text() or "")) and tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def full() -> Run:
    crashed = failed(Case(execution="static", sequence_length=512), "crashed", "SIGSEGV")
    return run_of(*three_ways(8), *three_ways(16), *three_ways(64), crashed)


def test_write_makes_the_three_files(tmp_path: Path) -> None:
    paths = report.write(full(), tmp_path / "folder")
    assert [path.name for path in paths] == ["results.csv", "samples.csv", "report.html"]
    assert all(path.stat().st_size > 500 for path in paths)


def test_the_page_answers_the_suites_question() -> None:
    page = Page(html.page(full()))
    assert "Unrolled <or> not" in page.text
    assert "Is it worth it?" in page.text
    assert "static against dynamic in 3 networks: runs faster in 3" in page.text
    assert "static runs 2.00x faster" in page.text
    for figure in ("500 us", "5.00 s", "4.00 MiB", "SIGSEGV", "Abacus <1>", "unknown: no wheels", "no accelerator"):
        assert figure in page.text


def test_each_measure_is_plotted_with_a_mark_for_each_case() -> None:
    page = Page(html.page(full()))
    pictures = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    assert [picture["aria-label"] for picture in pictures] == [
        "Build time over sequence length",
        "Time of one run over sequence length",
        "Memory while running over sequence length",
    ]
    assert "static, 16: 5.00 s" in page.text
    assert "Without a point: static at sequence_length 512: crashed." in page.text


@pytest.mark.parametrize("run", [full(), *adversarial().values()], ids=["full", *adversarial().keys()])
def test_nothing_comes_from_outside_and_nothing_runs(run: Run) -> None:
    text = html.page(run)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "action")}
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.parametrize("run", adversarial().values(), ids=adversarial().keys())
def test_every_run_has_a_page_without_invented_figures(run: Run) -> None:
    text = Page(html.page(run)).text
    assert not re.search(r"\b(nan|None|NaN|Undefined)\b", text)
    for m in run.measurements:
        if m.status != "ok":
            assert " ".join((m.reason or "no reason recorded").split())[:40] in text
    if not any(m.status == "ok" and m.samples for m in run.measurements):
        assert not re.search(r"\d(x faster|x slower)", text)


def test_the_ceilings_are_shown_with_each_case_s_share_or_the_reason_why_there_are_none() -> None:
    ceilings = (
        Ceiling("multiply-add", "float32", 1, 100.0, "GFLOP/s"),
        Ceiling("read", "float32", 1, 50.0, "GB/s", 4 * 64 * 64 * 4),
        Ceiling("read", "float32", 2, 1.0, "GB/s", 4 * 64 * 64 * 2, processor_share=0.5),
        Ceiling("read", "float32", None, 9000.0, "GB/s", 2**22, device="cuda", place="shared memory"),
    )
    text = Page(html.page(replace(run_of(*three_ways(64)), ceilings=ceilings))).text
    assert "% of multiply-add" in text
    assert "multiply-add float32, 1 thread in registers 100.0 GFLOP/s" in text
    assert "1.0 GB/s (too low and not used: something else used the processors)" in text
    assert "read float32, on cuda 4.00 MiB in shared memory 9000.0 GB/s" in text
    without = Page(html.page(replace(run_of(*three_ways()), ceilings_unknown={"cuda": "no driver"}))).text
    assert "Not measured in this run for device cuda: no driver." in without
    assert "Not measured in this run." in Page(html.page(run_of(*three_ways()))).text


def test_ours_stands_beside_the_others_on_the_page() -> None:
    text = Page(html.page(RUN)).text
    assert "Ours beside the others" in text
    assert "lstm float32 forward, 1 thread: each one\u2019s time over that of numba_cpu" in text
    assert "1.75 (1.50-2.00)" in text
    assert "geometric mean of 2" in text


def test_hostile_strings_are_text() -> None:
    page = Page(html.page(adversarial()["hostile"]))
    assert " ".join(HOSTILE.split())[:25] in page.text


def test_a_text_that_is_no_suite_leaves_the_name() -> None:
    assert "<h1>made_up</h1>" in html.page(run_of(*three_ways(), source="not [ toml"))
    assert "<h1>made_up</h1>" in html.page(run_of(*three_ways(), source="title = 3"))

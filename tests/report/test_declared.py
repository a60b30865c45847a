"""What a suite says about its networks is found by the network, and a text that is no suite says nothing."""

from __future__ import annotations

from dataclasses import replace

from tests.runs import measured, run_of
from unrollbench.case import Case
from unrollbench.report import html, summary
from unrollbench.report.declared import Declared, declared

SOURCE = """
title = "Two"
description = "Both of them."
question = "Which?"
[[group]]
name = "short"
question = "Is eight <few>?"
[group.axes]
sequence_length = 8
mode = ["forward", "train"]
[[group]]
name = "long"
question = "Is nine many?"
description = "Nine is one more."
[group.axes]
sequence_length = 9
[[group]]
name = "mute"
[group.axes]
sequence_length = 10
"""
CASES = [Case(sequence_length=8), Case(sequence_length=8, mode="train"), Case(sequence_length=9)]
CASES += [Case(sequence_length=10), Case(sequence_length=11)]
RUN = run_of(*(measured(case) for case in CASES), source=SOURCE)


def test_a_network_has_the_question_of_its_group_whatever_runs_it() -> None:
    found = declared(RUN)
    assert (found.title, found.question) == ("Two", "Which?")
    asked = [found.of_network.get(replace(case, backend="torch").network) for case in CASES]
    assert asked == [
        ("short", "Is eight <few>?"),
        ("short", "Is eight <few>?"),
        ("long", "Is nine many? Nine is one more."),
        None,
        None,
    ]


def test_each_question_is_asked_once_above_its_first_network() -> None:
    text, page = summary.text(RUN), html.page(RUN)
    assert text.count("short: Is eight <few>?") == text.count("long: Is nine many? Nine is one more.") == 1
    assert text.index("short: ") < text.index("T=8") < text.index("long: ") < text.index("T=9")
    assert page.count("<b>short</b>: Is eight &lt;few&gt;?") == page.count("<b>long</b>: Is nine many? Nine") == 1


def test_a_text_that_is_no_suite_declares_nothing_and_a_broken_one_its_title() -> None:
    assert declared(replace(RUN, suite_source="not [ toml")) == Declared()
    assert declared(replace(RUN, suite_source="title = 3")) == Declared()
    broken = declared(replace(RUN, suite_source=SOURCE.replace("sequence_length = 9", "sequence_lenght = 9")))
    assert broken == Declared("Two", "Which?", "Both of them.")
    assert "Both of them." in html.page(RUN)

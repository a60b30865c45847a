"""A suite file is read or every finding about it is told: file, table, key, value, what was expected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from unrollbench import suite
from unrollbench.case import Case, CellOptions
from unrollbench.errors import SuiteError
from unrollbench.suite import Suite
from unrollbench.suite.axes import AXES

HEAD = 'title = "t"\nquestion = "q"\n'


def parsed(body: str, *, axes: dict[str, list[object]] | None = None) -> Suite:
    return suite.parse(HEAD + body, name="t", origin="suites/t.toml", axes=axes)


def cases_of(body: str, *, axes: dict[str, list[object]] | None = None) -> tuple[Case, ...]:
    (group,) = parsed(body, axes=axes).groups
    return group.cases


def findings_of(text: str, *, axes: dict[str, list[object]] | None = None) -> tuple[str, ...]:
    with pytest.raises(SuiteError) as caught:
        suite.parse(text, name="t", origin="suites/t.toml", axes=axes)
    return caught.value.findings


def test_axes_of_an_accelerator_mean_nothing_on_the_processor() -> None:
    body = '[axes]\ndevice = ["cpu", "cuda"]\nmatmul_precision = ["float32", "tf32"]\nl2_cache = ["hot", "cold"]'
    cases = cases_of(body)
    assert [case.device for case in cases] == ["cpu", *["cuda"] * 4]
    assert cases[0] == Case().canonical()


def test_a_limit_is_bytes_or_a_fraction_and_bytes_may_be_many() -> None:
    cases = cases_of('[axes]\ndevice = "cuda"\ndevice_memory_limit = [85_899_345_920, 0.5, 1.0]')
    assert [case.device_memory_limit for case in cases] == [80 * 2**30, 0.5, 1.0]


def test_axes_are_multiplied() -> None:
    cases = cases_of('[axes]\ncell = ["gru", "lstm"]\nsequence_length = [4, 8]\nbatch_size = 3')
    assert [(c.cell, c.sequence_length, c.batch_size) for c in cases] == [
        ("gru", 4, 3),
        ("gru", 8, 3),
        ("lstm", 4, 3),
        ("lstm", 8, 3),
    ]


def test_a_list_in_the_list_gives_each_layer_its_size() -> None:
    cases = cases_of("[axes]\nnum_layers = 2\nnum_units = [8, [8, 4]]")
    assert [case.num_units for case in cases] == [8, (8, 4)]


def test_lengths_are_words_or_one_number_for_every_row_or_a_list_of_them() -> None:
    cases = cases_of('[axes]\nbatch_size = 2\nsequence_length = 5\nlengths = ["full", "uniform", 3, [0, 5]]')
    assert [case.lengths for case in cases] == ["full", "uniform", (3, 3), (0, 5)]


def test_cell_options_are_a_table_or_a_list_of_tables() -> None:
    (case,) = cases_of("[axes]\ncell_options = { num_proj = 3 }")
    assert case.cell_options == CellOptions(num_proj=3)
    cases = cases_of("[axes]\ncell_options = [{}, { use_peepholes = true, cell_clip = 2 }]")
    assert [c.cell_options for c in cases] == [CellOptions(), CellOptions(use_peepholes=True, cell_clip=2)]


def test_include_adds_a_product_of_the_axes_with_its_own_put_over_them() -> None:
    body = '[axes]\nexecution = "static"\nsequence_length = [4, 8]\n[[include]]\nexecution = "dynamic"\nunroll = [1, 2]'
    assert [(c.execution, c.sequence_length, c.unroll) for c in cases_of(body)] == [
        ("static", 4, None),
        ("static", 8, None),
        ("dynamic", 4, 1),
        ("dynamic", 4, 2),
        ("dynamic", 8, 1),
        ("dynamic", 8, 2),
    ]


def test_exclude_removes_the_cases_that_have_all_of_its_values() -> None:
    body = '[axes]\ncell = ["gru", "lstm"]\nsequence_length = [4, 8, 9]\n'
    body += '[[exclude]]\ncell = "gru"\nsequence_length = [8, 9]'
    assert [(c.cell, c.sequence_length) for c in cases_of(body)] == [("gru", 4), ("lstm", 4), ("lstm", 8), ("lstm", 9)]


def test_exclude_makes_room_for_combinations_that_cannot_be() -> None:
    body = '[axes]\ncell = ["gru", "lstm"]\ncell_options = [{}, { use_peepholes = true, num_proj = 3 }]\n'
    rule = '[[exclude]]\ncell = "gru"\ncell_options = { use_peepholes = true }'
    assert len(cases_of(body + rule)) == 3


def test_exclude_does_not_match_an_axis_that_means_nothing_for_the_case() -> None:
    body = '[axes]\nexecution = ["static", "dynamic"]\nunroll = [1, 2]\n[[exclude]]\nunroll = 1'
    assert [(c.execution, c.unroll) for c in cases_of(body)] == [("static", None), ("dynamic", 2)]


def test_groups_put_their_axes_over_the_shared_ones() -> None:
    body = """
        [axes]
        mode = "train"
        [[exclude]]
        sequence_length = 9
        [[group]]
        name = "short"
        question = "Short?"
        [group.axes]
        sequence_length = [4, 9]
        [[group.include]]
        cell = "gru"
        [[group.exclude]]
        cell = "gru"
        sequence_length = 4
        [[group]]
        name = "long"
        [group.axes]
        sequence_length = [9, 400]
        mode = "forward"
    """
    with pytest.raises(SuiteError) as caught:
        parsed(body.replace("sequence_length = 4\n", "sequence_length = 5\n"))
    assert caught.value.findings == (
        "suites/t.toml: [[group]] #1 [[exclude]] #1 excludes no case: remove it, or correct its values",
    )
    short, long = parsed(body).groups
    assert (short.name, short.question, long.name, long.question) == ("short", "Short?", "long", "")
    assert [(c.cell, c.sequence_length, c.mode) for c in short.cases] == [("lstm", 4, "train")]
    assert [(c.sequence_length, c.mode) for c in long.cases] == [(400, "forward")]


def test_measure_has_defaults_and_takes_values() -> None:
    default = parsed("[axes]\nseed = 1")
    assert (default.repeats, default.min_samples, default.min_time_s, default.timeout_s) == (1, 5, 0.2, 300.0)
    own = parsed("[axes]\nseed = 1\n[measure]\nrepeats = 3\nmin_samples = 9\nmin_time_s = 1\ntimeout_s = 2.5")
    assert (own.repeats, own.min_samples, own.min_time_s, own.timeout_s) == (3, 9, 1.0, 2.5)


def test_an_axis_option_takes_the_place_of_the_axis_everywhere() -> None:
    body = "[axes]\nsequence_length = [4, 8]\nbatch_size = 2\n[[include]]\nsequence_length = 100"
    assert [c.sequence_length for c in cases_of(body, axes={"sequence_length": [5]})] == [5]
    assert {c.threads for c in cases_of(body, axes={"threads": [1, 2]})} == {1, 2}


def test_an_exclude_may_be_left_without_work_by_an_axis_option() -> None:
    body = "[axes]\nsequence_length = [4, 8]\n[[exclude]]\nsequence_length = 8"
    assert [c.sequence_length for c in cases_of(body, axes={"sequence_length": [5]})] == [5]


def test_a_wrong_value_of_an_axis_option_is_told_as_the_option() -> None:
    findings = findings_of(HEAD + "[axes]\nseed = 1", axes={"unroll": [0], "sed": [1]})
    assert findings[0] == '--axis unroll = 0: expected an integer >= 1 or "full"'
    assert findings[1].startswith('--axis sed: unknown axis; did you mean "seed"?')


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("unroll=1", [1]),
        ('unroll=1,4,"full"', [1, 4, "full"]),
        ("unroll = 1, 4, full", [1, 4, "full"]),
        ("cell=gru,basic_rnn", ["gru", "basic_rnn"]),
        ("swap_memory=true,false", [True, False]),
        ("num_units=[64,32],128", [[64, 32], 128]),
        ("cell_options={},{use_peepholes=true, cell_clip=1e3}", [{}, {"use_peepholes": True, "cell_clip": 1000.0}]),
        ("cell='gru'", ["gru"]),
    ],
)
def test_axis_options_are_toml_values_whose_words_need_no_quotes(option: str, values: list[object]) -> None:
    assert suite.parse_axes([option]) == {option.partition("=")[0].strip(): values}


@pytest.mark.parametrize(
    "option", ["unroll", "unroll=", "unroll=1,,2", "unroll=[1", "=1", "unroll=1]\nx=[2", "", '="', "a.b=]"]
)
def test_an_axis_option_that_cannot_be_read_is_told_with_an_example(option: str) -> None:
    with pytest.raises(SuiteError) as caught:
        suite.parse_axes([option, "batch_size=1", "batch_size=2"])
    assert len(caught.value.findings) == 2
    assert "such as unroll=1,4,full" in caught.value.findings[0]
    assert "batch_size is given twice" in caught.value.findings[1]


def test_one_case_is_written_as_axes_with_one_value_each() -> None:
    options = ["num_layers=2", "num_units=[8,4]", "cell_options={use_peepholes=true}", "execution=static", "lengths=3"]
    case = suite.parse_case(options, where="show")
    assert (case.units, case.execution, case.cell_options.use_peepholes) == ((8, 4), "static", True)
    assert case.lengths == (3,) * case.batch_size
    with pytest.raises(SuiteError) as caught:
        suite.parse_case(["unroll=1,2", "sed=1", "batch_size=99999999999"], where="show")
    assert len(caught.value.findings) == 3
    with pytest.raises(SuiteError, match=r"show num_units = .8, 4.: expected 1 values, one per layer"):
        suite.parse_case(["num_units=[8,4]"], where="show")


ONE_FINDING: list[tuple[str, str]] = [
    (
        "[axes]\ndevice_memory_limit = 1",
        "[axes] device_memory_limit = 1: expected an integer >= 2 of bytes, or a fraction of the device's memory, "
        "> 0.0 and <= 1.0",
    ),
    ("[axes]\ndevice_memory_limit = 9007199254740993", "expected at most 9007199254740991"),
    ("[axes]\ndevice_memory_limit = true", "[axes] device_memory_limit = true: expected an integer >= 2 of bytes"),
    ('[axes]\nmatmul_precision = "bf16"', "[axes] matmul_precision = \"bf16\": expected one of 'float32', 'tf32'"),
    ('[axes]\nl2_cache = "warm"', "[axes] l2_cache = \"warm\": expected one of 'hot', 'cold'"),
    ('[axes]\nallow_growth = "no"', '[axes] allow_growth = "no": expected true or false'),
    ("", 'suites/t.toml: has no axes: expected what to run, such as a table [axes] with unroll = [1, 4, "full"]'),
    ("[axes]", "suites/t.toml: has no axes: expected what to run"),
    ("axes = 3", "suites/t.toml: axes = 3: expected a table [axes]"),
    ("[[axes]]\nseed = 1", "suites/t.toml: axes = [{seed = 1}]: expected [axes] instead of [[axes]]"),
    ("[axes]\nunroll = 0", 'suites/t.toml: [axes] unroll = 0: expected an integer >= 1 or "full"'),
    ("[axes]\nunroll = []", "suites/t.toml: [axes] unroll = []: expected at least one value"),
    ("[axes]\nunroll = 1.5", 'suites/t.toml: [axes] unroll = 1.5: expected an integer >= 1 or "full"'),
    ("[axes]\nunroll = true", 'suites/t.toml: [axes] unroll = true: expected an integer >= 1 or "full"'),
    ("[axes]\nunroll = 2026-01-02", "suites/t.toml: [axes] unroll = 2026-01-02: expected an integer"),
    ("[axes]\nunroll = 12:30:00", "suites/t.toml: [axes] unroll = 12:30:00: expected an integer"),
    ("[axes]\nunroll = {}", "suites/t.toml: [axes] unroll = {}: expected an integer"),
    ("[axes]\nunroll = [[1]]", "suites/t.toml: [axes] unroll = [1]: expected an integer"),
    ("[axes]\nunroll = [[[1]]]", "suites/t.toml: [axes] unroll = [[1]]: nested too deeply"),
    ("[axes]\ntime_major = 1", "suites/t.toml: [axes] time_major = 1: expected true or false"),
    ("[axes]\nbatch_size = inf", "suites/t.toml: [axes] batch_size = inf: expected at most 2147483647"),
    ("[axes]\nbatch_size = nan", "suites/t.toml: [axes] batch_size = nan: expected an integer >= 1"),
    ("[axes]\nbatch_size = 3000000000", "suites/t.toml: [axes] batch_size = 3000000000: expected at most 2147483647"),
    (f"[axes]\nbatch_size = 0x{'f' * 20_000}", "suites/t.toml: [axes] batch_size = an integer of 80000 bits: expected"),
    (f'[axes]\ncell = "{"x" * 90}"', f'suites/t.toml: [axes] cell = "{"x" * 40}...": expected one of'),
    ("[axes]\nexecuton = 1", 'suites/t.toml: [axes] executon: unknown axis; did you mean "execution"?'),
    ('[axes]\n"\\u0000" = 1', 'suites/t.toml: [axes] "\\u0000": unknown axis'),
    ('[axes]\nbackend = "numba-cpu"', 'suites/t.toml: [axes] backend = "numba-cpu": unknown backend; did you mean'),
    (
        "[axes]\ncell_options = { peephole = true }",
        'suites/t.toml: [axes] cell_options.peephole: unknown cell option; did you mean "use_peepholes"?',
    ),
    ("[axes]\ncell_options = 3", "suites/t.toml: [axes] cell_options = 3: expected a table of cell options"),
    ("[axes]\ncell_options = { num_proj = [1] }", "cell_options = {num_proj = [1]}: nested too deeply"),
    ("[axes]\ncell_options = { cell_clip = nan }", "[axes] cell_options.cell_clip = nan: expected a finite number > 0"),
    (
        "[axes]\ncell_options = { proj_clip = 1.0 }",
        "[axes] cell_options.proj_clip = 1.0: has no effect without num_proj",
    ),
    ("[axes]\nnum_units = [[]]", "suites/t.toml: [axes] num_units = []: expected integers >= 1, one per layer"),
    ('[axes]\nnum_units = [[4, "a"]]', 'suites/t.toml: [axes] num_units = [4, "a"]: expected integers >= 1'),
    ("[axes]\nnum_units = [[4, 5]]", "[axes] num_units = [4, 5]: expected 1 values, one per layer (num_layers)"),
    ("[axes]\nlengths = -1", "suites/t.toml: [axes] lengths = -1: expected integers >= 0"),
    ("[axes]\nlengths = 99", "suites/t.toml: [axes] lengths: 99: expected at most sequence_length = 32"),
    ("[axes]\nlengths = [[]]", "suites/t.toml: [axes] lengths: 0 values: expected one per batch row"),
    (
        "[axes]\nlengths = [[3, 5]]",
        "suites/t.toml: [axes] lengths: 2 values: expected one per batch row, batch_size = 16",
    ),
    ("[axes]\nlengths = 3\nbatch_size = 2000000000", "[axes] lengths = 3: expected batch_size <= 16384 beside it"),
    ('[axes]\ncell = "gru"\ncell_options = { num_proj = 3 }', "cell 'gru' has no such option; it belongs to 'lstm'"),
    ("unroll = 3\n[axes]\nseed = 1", "suites/t.toml: unroll: is an axis: expected it in a table [axes]"),
    ("titel = 3\n[axes]\nseed = 1", 'suites/t.toml: titel: unknown key; did you mean "title"?'),
    ("description = 3\n[axes]\nseed = 1", "suites/t.toml: description = 3: expected some text in quotes"),
    ("[axes]\nseed = 1\n[measure]\nrepeats = 0", "suites/t.toml: [measure] repeats = 0: expected an integer from 1"),
    ("[axes]\nseed = 1\n[measure]\nmin_time_s = nan", "suites/t.toml: [measure] min_time_s = nan: expected a number"),
    ("[axes]\nseed = 1\n[measure]\ntimeout_s = true", "suites/t.toml: [measure] timeout_s = true: expected a number"),
    (
        "[axes]\nseed = 1\n[measure]\nrepeat = 3",
        'suites/t.toml: [measure] repeat: unknown key; did you mean "repeats"?',
    ),
    ("[axes]\nseed = 1\n[[measure]]", "suites/t.toml: measure = [{}]: expected [measure] instead of [[measure]]"),
    (
        "[axes]\nseed = 1\n[include]\nseed = 2",
        "suites/t.toml: include = {seed = 2}: expected [[include]] instead of [include]",
    ),
    ("include = [1]\n[axes]\nseed = 1", "suites/t.toml: include = [1]: expected tables [[include]]"),
    ("exclude = []\n[axes]\nseed = 1", "suites/t.toml: exclude = []: expected tables [[exclude]]"),
    ("[axes]\nseed = 1\n[[exclude]]", "suites/t.toml: [[exclude]] #1 is empty: expected at least one axis = value"),
    ("[axes]\nseed = 1\n[[exclude]]\nseed = 2", "suites/t.toml: [[exclude]] #1 excludes no case"),
    ("[axes]\nseed = 1\n[[exclude]]\nseed = 1", "suites/t.toml: every case is excluded: expected at least one"),
    ("[axes]\nseed = 1\n[[include]]\nseed = -1", "suites/t.toml: [[include]] #1 seed = -1: expected an integer >= 0"),
    ("[[group]]\n[group.axes]\nseed = 1", "suites/t.toml: [[group]] #1 name is missing: expected name ="),
    ("[group]\nname = 'a'", "expected [[group]] instead of [group]"),
    ("group = []", "suites/t.toml: group = []: expected tables [[group]]"),
    ('[[group]]\nname = "a"', "suites/t.toml: [[group]] #1 has no axes: expected what to run"),
    (
        '[axes]\nseed = 1\n[[group]]\nname = "a"\n[[group]]\nname = "a"',
        'suites/t.toml: [[group]] #2 name = "a": expected a name of its own; an earlier group has this one',
    ),
    (
        '[[include]]\nseed = 3\n[[group]]\nname = "a"\n[group.axes]\nseed = 1',
        "suites/t.toml: include: expected it as [[group.include]], in the group that it is for",
    ),
]


@pytest.mark.parametrize(("body", "finding"), ONE_FINDING)
def test_what_is_wrong_is_told_with_file_table_key_value_and_remedy(body: str, finding: str) -> None:
    findings = findings_of(HEAD + body)
    assert len(findings) == 1
    assert finding in findings[0]
    assert findings[0].startswith("suites/t.toml: ")


def test_all_findings_come_at_once() -> None:
    text = """
        titel = "t"
        [measure]
        repeats = "3"
        [axes]
        unroll = [0, 1, "ful"]
        cell = 7
        [[include]]
        sed = 1
        [[exclude]]
        batch_size = []
    """
    assert len(findings_of(text)) == 9


def test_impossible_combinations_are_told_each_once_and_together() -> None:
    body = '[axes]\nsequence_length = [4, 8, 9]\ncell = ["gru", "lstm"]\n'
    body += "cell_options = { num_proj = 3 }\nlengths = [2, [1]]"
    findings = findings_of(HEAD + body)
    assert len(findings) == 2
    assert all("an [[exclude]] can leave this combination out" in finding for finding in findings)


def test_more_findings_than_anyone_reads_are_counted() -> None:
    body = "[axes]\n" + "\n".join(f"x{number} = 1" for number in range(200))
    findings = findings_of(HEAD + body)
    assert len(findings) == suite.MAX_FINDINGS + 1
    assert findings[-1] == f"suites/t.toml: ... and {200 - suite.MAX_FINDINGS} more findings"


def test_too_many_cases_are_refused_before_they_are_expanded() -> None:
    lists = "\n".join(
        f"{axis} = {list(range(1, 201))}" for axis in ("sequence_length", "batch_size", "num_units", "seed")
    )
    (finding,) = findings_of(HEAD + "[axes]\n" + lists)
    assert "1600000000 cases, of which [axes] has 200 sequence_length x 200 batch_size" in finding
    assert "expected at most 10000: shorten its lists, here or with --axis" in finding


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("title = \n", "suites/t.toml: line 1, column 9: not TOML: Invalid value"),
        (HEAD + "[axes\n", "suites/t.toml: line 3, column 6: not TOML: "),
        ('title = "t', "suites/t.toml: end of document: not TOML: "),
        (HEAD + "a = 1\na = 2", "suites/t.toml: end of document: not TOML: Cannot overwrite a value"),
        ("\0", "suites/t.toml: line 1, column 1: not TOML: "),
        (f"a = {'9' * 5000}", "suites/t.toml: not TOML: "),
        ("a = 2026-02-30", "suites/t.toml: "),
        ("a = " + "[" * 5000, "suites/t.toml: nested too deeply"),
        ("a = " + "{a=" * 5000, "suites/t.toml: nested too deeply"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, finding: str) -> None:
    (found,) = findings_of(text)
    assert found.startswith(finding)


def test_deep_dotted_keys_are_findings() -> None:
    (finding,) = findings_of(HEAD + "[axes]\nunroll" + ".a" * 30 + " = 1")
    assert "[axes] unroll = {a = {a = {a = ...}}}: nested too deeply" in finding
    for part in (".a", " . 'a b'", '."a"'):
        (finding,) = findings_of(HEAD + "[axes]\nunroll" + part * 5_000 + " = 1")
        assert finding == "suites/t.toml: line 4: more than 32 names with dots between: expected a short key"


def test_too_many_tables_are_refused() -> None:
    findings = findings_of(HEAD + "[axes]\nseed = 1\n" + "[[exclude]]\nseed = 1\n" * 101)
    assert findings == ("suites/t.toml: has 101 tables [[exclude]]: expected at most 100",)


def test_a_file_that_is_no_suite_is_told_as_what_it_is(tmp_path: Path) -> None:
    def finding(path: Path) -> str:
        with pytest.raises(SuiteError) as caught:
            suite.load(str(path))
        (found,) = caught.value.findings
        return found.removeprefix(f"{path}: ")

    empty, binary, huge, pipe = (tmp_path / name for name in ("empty.toml", "binary", "huge", "pipe"))
    binary.write_bytes(b"title = '\xff\xfe'")
    huge.write_bytes(b"#" * (2**20))
    os.mkfifo(pipe)
    assert finding(tmp_path) == "is a directory: expected a TOML file"
    assert finding(tmp_path / "none.toml").startswith("no such file, and no installed suite has that name")
    assert finding(tmp_path / ("x" * 5000)).startswith("no such file")
    assert finding(tmp_path / "a\0b").startswith("no such file")
    assert finding(pipe) == "is not a regular file: expected a TOML file"
    assert finding(binary) == "is not UTF-8 text (byte 9): expected a TOML file"
    assert finding(huge) == "larger than 65536 bytes: expected a suite, some lines of TOML"
    empty.write_text("")
    with pytest.raises(SuiteError) as caught:
        suite.load(str(empty))
    assert len(caught.value.findings) == 3


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "[axes]\nseed = 3\n").replace("\n", "\r\n").encode())
    loaded = suite.load(str(path))
    assert (loaded.name, loaded.groups[0].cases[0].seed) == ("mine", 3)


def test_a_name_nearly_right_gets_a_hint() -> None:
    with pytest.raises(
        SuiteError, match='no installed suite has that name; did you mean "smoke"\\? \\(expected one of'
    ):
        suite.load("smok")


def test_a_suite_keeps_its_text() -> None:
    assert parsed("[axes]\nseed = 1").source == HEAD + "[axes]\nseed = 1"


def any_axis() -> dict[str, Any]:
    """A value that is in order for each axis."""
    return {name: getattr(Case(), name) if name != "cell_options" else {"use_peepholes": True} for name in AXES}


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_of_a_case_can_be_written(axis: str) -> None:
    assert len(cases_of("[axes]\nseed = 0", axes={axis: [any_axis()[axis]]})) == 1

"""How rows and units are split into threads and tiles, and what a frame holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.stacks import bottom, planned, stack
from tests.kernels.vectors import with_registers
from unrollbench import cells
from unrollbench.case import CellOptions
from unrollbench.cells import LayerSpec
from unrollbench.kernels import host
from unrollbench.kernels.layout import AHEAD_COLUMNS
from unrollbench.kernels.stages import Group
from unrollbench.kernels.tile import ROW_TILE, most_columns


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [1, 6, 16, 19, 64])
def test_rows_are_padded_to_whole_vectors(dtype: str, units: int) -> None:
    layout = bottom(stack("lstm", units=units, dtype=dtype))
    lanes = host.lanes(dtype)
    for array in layout.arrays.values():
        assert array.size == units
        assert array.row_bytes % layout.width == 0
        assert 0 <= array.row_bytes // layout.itemsize - units < lanes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [1, 6, 16, 19, 63, 64, 100])
def test_gates_take_as_few_vectors_as_they_can(dtype: str, units: int) -> None:
    layout = bottom(stack("lstm", units=units, dtype=dtype))
    (stage,) = layout.stages
    lanes = host.lanes(dtype)
    assert stage.columns == -(-4 * units // lanes)
    assert stage.row_bytes == stage.columns * layout.width
    assert stage.whole * lanes + stage.packed >= units


def test_gates_are_not_packed_where_that_saves_nothing_or_a_later_stage_reads_them() -> None:
    for cell in ("basic_rnn", "gru"):
        for stage in bottom(stack(cell, units=19)).stages:
            assert (stage.packed, stage.packed_columns) == (0, 0)
            assert stage.columns == len(stage.stage.gates) * -(-19 // host.lanes("float32"))
    lanes = host.lanes("float32")
    (stage,) = bottom(stack("lstm", units=2 * lanes - 1)).stages
    assert (stage.whole, stage.packed) == (2, 0)


@given(
    st.sampled_from(["basic_rnn", "gru", "lstm"]),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 5),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([16, 32]),
)
def test_tiles_fit_into_the_registers(
    cell: str, batch: int, units: int, threads: int, dtype: str, registers: int
) -> None:
    spec = stack(cell, units=units, batch=batch, threads=threads, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        with_registers(patch, registers)
        layout = replace(bottom(spec), on_matrix_unit=False, pairs=False)
        for s in layout.stages:
            for size in (s.groups.big * len(s.stage.gates), s.operand_groups.big):
                parts = layout.columns_at_once(size)
                assert sum(parts) == size
                rows, columns = layout.rows.big, max(parts)
                sums_and_operands = rows * columns + min(rows, columns) + 1
                assert sums_and_operands <= registers


@pytest.mark.parametrize(("registers", "wanted"), [(16, [8, 6, 4, 3, 2, 2]), (32, [8, 8, 8, 6, 5, 4])])
def test_as_many_columns_as_registers_hold(monkeypatch: pytest.MonkeyPatch, registers: int, wanted: list[int]) -> None:
    with_registers(monkeypatch, registers)
    assert [most_columns(rows) for rows in range(1, ROW_TILE + 1)] == wanted


@pytest.mark.parametrize(
    ("batch", "threads", "units", "split"),
    [
        (1, 1, (6,), "rows"),
        (3, 1, (300,), "rows"),
        (8, 2, (600,), "rows"),
        (4, 2, (256,), "rows"),
        (6, 2, (256,), "rows"),
        (6, 2, (257,), "units"),
        (6, 2, (20, 257, 20), "units"),
        (2, 2, (104,), "rows"),
        (2, 2, (105,), "units"),
        (2, 2, (20, 105, 20), "units"),
    ],
)
def test_threads_split_rows_that_are_enough_or_whose_weights_are_few_and_units_otherwise(
    monkeypatch: pytest.MonkeyPatch, batch: int, threads: int, units: tuple[int, ...], split: str
) -> None:
    """3 x 256^2 numbers take 0.75 MiB, and 3 x 104^2 hardly 128 KiB."""
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 1024 * 1024)
    for layout in planned(replace(stack(batch=batch, threads=threads), layers=narrowing("gru", units))):
        assert layout.split == split
        assert len(layout.rows.shares) == (threads if split == "rows" else 1)
        assert all(len(stage.groups.shares) == (threads if split == "units" else 1) for stage in layout.stages)


def narrowing(cell: str, units: tuple[int, ...]) -> tuple[LayerSpec, ...]:
    """Layers of so many units each, over inputs of 5."""
    return tuple(LayerSpec(cell, CellOptions(), *sizes) for sizes in zip((5, *units), units, strict=False))


@pytest.mark.parametrize(("window", "split"), [(32, "rows"), (1, "units")])
def test_few_rows_are_split_where_the_cache_keeps_all_that_is_read_between_two_steps(
    monkeypatch: pytest.MonkeyPatch, window: int, split: str
) -> None:
    """A window of one step reads W_x, too, and the weights of all layers."""
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 1024 * 1024)
    assert {each.split for each in planned(stack(units=200, layers=2, batch=4, threads=2), window=window)} == {split}


def test_a_small_cache_takes_no_rows_from_threads_whose_weights_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 64 * 1024)
    monkeypatch.setattr(host, "lanes", lambda dtype: 16)  # by which uneven rows are weighed
    assert [bottom(stack(units=100, batch=batch, threads=2)).split for batch in (4, 5, 6)] == ["rows"] * 3


@pytest.mark.parametrize(
    ("cell", "train", "batch", "threads", "units", "split"),
    [
        ("gru", True, 1, 2, (109,), "rows"),
        ("gru", True, 1, 2, (110,), "units"),
        ("gru", True, 1, 2, (20, 96, 20), "rows"),
        ("gru", True, 1, 2, (20, 200, 20), "units"),
        ("gru", True, 3, 2, (336,), "rows"),
        ("gru", True, 3, 2, (337,), "units"),
        ("gru", True, 7, 2, (720,), "rows"),
        ("gru", True, 7, 2, (721,), "units"),
        ("gru", True, 16, 5, (800,), "rows"),
        ("gru", True, 1, 3, (6,), "rows"),
        ("gru", False, 9, 2, (720,), "rows"),
        ("gru", False, 9, 2, (721,), "units"),
        ("lstm", False, 9, 2, (272,), "rows"),
        ("lstm", False, 9, 2, (273,), "units"),
        ("lstm", True, 9, 2, (688,), "rows"),
        ("lstm", True, 9, 2, (689,), "units"),
        ("lstm", False, 13, 2, (400,), "rows"),
        ("lstm", False, 13, 2, (401,), "units"),
        ("lstm", False, 15, 2, (1000,), "units"),
        ("lstm", False, 17, 2, (1000,), "rows"),
    ],
)
def test_threads_split_units_where_uneven_rows_would_cost_more_than_to_exchange_units(
    monkeypatch: pytest.MonkeyPatch,
    cell: str,
    train: bool,
    batch: int,
    threads: int,
    units: tuple[int, ...],
    split: str,
) -> None:
    """With vectors of 16, forward: of 9 rows and 273 units, 5 of 18 vectors or 9 of 9, times 273 x 4 gates, are 9828.

    9 x 273 numbers take 154 lines, of which each is 60, and a barrier is 500: 9714 together. Of 272 units, which have
    17 vectors, 5 of these are 4 more than 9 of 9.
    """
    monkeypatch.setattr(host, "lanes", lambda dtype: 16)
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    spec = replace(stack(batch=batch, threads=threads, train=train), layers=narrowing(cell, units))
    assert {layout.split for layout in planned(spec)} == {split}


@pytest.mark.parametrize(("window", "split"), [(32, "units"), (1, "rows")])
def test_what_uneven_rows_cost_counts_inputs_in_even_parts_unless_a_step_multiplies_them(
    monkeypatch: pytest.MonkeyPatch, window: int, split: str
) -> None:
    """Of 300 units one thread has 10 vectors, one 9: that costs less in a step than with its inputs in it."""
    monkeypatch.setattr(host, "lanes", lambda dtype: 16)
    monkeypatch.setattr(host, "matrix_unit", lambda: False)
    forward = stack("lstm", units=300, batch=9, threads=2, train=False, layers=2)
    assert {layout.split for layout in planned(forward, window=window)} == {split}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("inputs", "split"), [(5, "rows"), (512, "units")])
def test_threads_split_units_where_many_inputs_would_be_multiplied_by_one_of_them(
    monkeypatch: pytest.MonkeyPatch, batch: int, inputs: int, split: str
) -> None:
    monkeypatch.setattr(host, "lanes", lambda dtype: 16)
    wide = replace(stack(batch=batch, threads=2), layers=(LayerSpec("gru", CellOptions(), inputs, 64),))
    assert bottom(replace(wide, train=False)).split == split


@pytest.mark.parametrize(("batch", "chosen"), [(31, False), (32, True)])
def test_a_matrix_unit_multiplies_only_where_threads_would_have_rows_enough_of_their_own(
    monkeypatch: pytest.MonkeyPatch, batch: int, chosen: bool
) -> None:
    monkeypatch.setattr(host, "matrix_unit", lambda: True)
    monkeypatch.setattr(host, "second_level_cache_bytes", lambda: 1024 * 1024)
    assert bottom(stack(units=512, batch=batch, threads=8)).on_matrix_unit == chosen


def test_frame_fields_do_not_overlap() -> None:
    everything = CellOptions(use_peepholes=True, cell_clip=1.0, num_proj=4, proj_clip=1.0)
    for cell, options in (("basic_rnn", None), ("gru", None), ("lstm", None), ("lstm", everything)):
        offsets = list(bottom(stack(cell, options=options)).fields.values())
        assert sorted(offsets) == list(range(0, 8 * len(offsets), 8))


def test_training_keeps_every_time_step_and_forward_only_the_top_outputs() -> None:
    trained = [{a.slots for a in layout.arrays.values()} for layout in planned(stack("lstm", layers=2))]
    assert trained == [{"time"}, {"time"}]
    lower, top = planned(stack("lstm", layers=2, train=False))
    assert {name: array.slots for name, array in lower.arrays.items()} == {"c": "single", "h": "window"}
    assert {name: array.slots for name, array in top.arrays.items()} == {"c": "single", "h": "time"}


def test_equal_stacks_have_equal_layouts_so_that_they_share_kernels() -> None:
    first, second = bottom(stack("lstm")), bottom(stack("lstm"))
    assert first == second
    assert hash(first) == hash(second)
    assert first != bottom(stack("lstm", options=CellOptions(forget_bias=0.0)))
    assert first != bottom(stack("lstm", dtype="float64"))


def test_a_window_of_one_step_needs_room_for_a_tile_of_gates_and_two_slots_of_outputs_below_the_top() -> None:
    lower, top = planned(stack("lstm", layers=2, train=False, batch=40, units=40), window=1)
    assert (lower.fused, top.fused) == (True, True)
    assert {name: array.slots for name, array in lower.arrays.items()} == {"c": "single", "h": "two"}
    assert {name: array.slots for name, array in top.arrays.items()} == {"c": "single", "h": "time"}
    (stage,) = lower.stages
    assert stage.gate_slots == "tile"
    assert stage.row_bytes == 4 * stage.groups.big * lower.width
    gates, candidate = bottom(stack("gru", train=False), window=1).stages
    assert (gates.gate_slots, candidate.gate_slots) == ("single", "tile")  # the candidate's equations read the gate u
    assert {s.gate_slots for s in bottom(stack("gru"), window=1).stages} == {"time"}


@pytest.mark.parametrize(
    ("units", "batch", "threads", "window", "steps"),
    [
        (128, 1, 1, 32, 8),
        (128, 1, 2, 32, 8),
        (128, 2, 1, 32, 0),
        (128, 1, 1, 63, 8),
        (128, 1, 1, 64, 16),
        (128, 1, 1, 16, 8),
        (128, 1, 1, 15, 0),
        (128, 1, 1, 1, 0),
        (50, 1, 1, 32, 0),
        (60, 1, 1, 32, 8),
        (60, 1, 2, 32, 0),
        (793, 1, 1, 32, 8),
        (794, 1, 1, 32, 0),
    ],
)
@pytest.mark.parametrize("registers", [16, 32])
def test_steps_of_one_row_project_ahead_where_their_weights_come_from_a_cache_but_the_first(
    monkeypatch: pytest.MonkeyPatch, units: int, batch: int, threads: int, window: int, steps: int, registers: int
) -> None:
    """2 x 4 x 793^2 numbers of float32 take hardly 0.6 of 32 MiB."""
    monkeypatch.setattr(host, "third_level_cache_bytes", lambda: 32 * 1024 * 1024)
    with_registers(monkeypatch, registers)
    spec = stack("lstm", units=units, batch=batch, threads=threads, layers=2)
    assert planned(spec, window=window)[1].steps_ahead == (steps if registers == 32 else 0)


@pytest.mark.parametrize(("units", "ahead"), [(809, True), (810, False)])
def test_steps_project_no_more_inputs_ahead_however_large_the_third_level_cache(
    monkeypatch: pytest.MonkeyPatch, units: int, ahead: bool
) -> None:
    """2 x 4 x 809^2 numbers of float32 take hardly 20 MiB."""
    monkeypatch.setattr(host, "third_level_cache_bytes", lambda: 256 * 1024 * 1024)
    with_registers(monkeypatch, 32)
    assert planned(stack("lstm", units=units, batch=1, layers=2))[1].projects_ahead == ahead


@pytest.mark.parametrize(
    ("inputs", "units", "dtype", "steps"),
    [
        (256, 256, "float32", 16),
        (512, 400, "float32", 8),  # 16 rows of 2 KiB: 8 in each of two sets
        (511, 400, "float32", 8),
        (500, 400, "float32", 16),
        (256, 256, "float64", 8),
        (1024, 700, "float32", 0),  # 8 rows in one set
        (300, 200, "float32", 16),
        (301, 200, "float32", 0),
        (500, 512, "float32", 16),  # just under 8 MiB
        (500, 530, "float32", 8),
        (1, 200, "float32", 16),  # rows that lie in one line
        (3, 200, "float32", 16),
        (1, 200, "float64", 16),
    ],
)
def test_no_more_steps_are_projected_ahead_than_rows_of_inputs_have_room_in_the_first_level_cache(
    monkeypatch: pytest.MonkeyPatch, inputs: int, units: int, dtype: str, steps: int
) -> None:
    monkeypatch.setattr(host, "third_level_cache_bytes", lambda: 32 * 1024 * 1024)
    with_registers(monkeypatch, 32)
    spec = stack("lstm", units=units, batch=1, dtype=dtype)
    first = replace(spec.layers[0], input_size=inputs)
    assert bottom(replace(spec, layers=(first,)), window=100).steps_ahead == steps
    if inputs == 500:  # the layer below has rows of 512
        assert planned(replace(spec, layers=(first, first)), window=100)[1].steps_ahead == 8


@pytest.mark.parametrize(("gates", "ahead"), [(8, True), (9, False)])
def test_steps_project_ahead_only_as_many_gates_as_there_are_steps_for(
    monkeypatch: pytest.MonkeyPatch, gates: int, ahead: bool
) -> None:
    with_registers(monkeypatch, 32)
    lstm = cells.load("lstm", CellOptions(), "float32")
    wide = replace(lstm, stages=(replace(lstm.stages[0], gates=tuple("abcdefghi"[:gates])),))
    monkeypatch.setattr(cells, "load", lambda *_: wide)
    layout = bottom(stack("lstm", units=128, batch=1))
    assert layout.projects_ahead == ahead
    (stage,) = layout.stages
    columns = max(stage.group_columns(group) for group in stage.tile_groups)
    assert not ahead or columns <= AHEAD_COLUMNS
    assert not ahead or layout.columns_at_once(columns) == (columns,)  # a projecting tile reads one stream


def test_weights_are_asked_for_ahead_only_where_the_second_level_cache_cannot_keep_them() -> None:
    kept = host.second_level_cache_bytes()
    small, large = (bottom(stack("basic_rnn", units=int((share * kept / 4) ** 0.5))) for share in (0.5, 1.5))
    assert (small.streams, large.streams) == (False, True)
    assert not large.asks(1, Group(4))  # one row reads each weight once: the hardware follows that
    assert large.asks(2, Group(4))


@given(
    st.sampled_from([("basic_rnn", None), ("gru", None), ("lstm", None), ("lstm", CellOptions(num_proj=37))]),
    st.integers(1, 200),
    st.integers(2, 5),
    st.sampled_from(["float32", "float64"]),
)
def test_each_unit_of_an_operand_is_some_thread_s_own(
    cell: tuple[str, CellOptions | None], units: int, threads: int, dtype: str
) -> None:
    spec = stack(cell[0], units=units, batch=1, threads=threads, dtype=dtype, options=cell[1])
    layout = replace(bottom(spec), split="units")  # also where weights are so few that no barrier pays
    assert layout.overlaps
    for s in layout.stages:
        own = layout.own_units(s)
        assert [k for first, count in own for k in range(first, first + count)] == list(range(s.operand_size))
        assert layout.own_groups(s) >= 1
        early = layout.early_units(s)
        assert all(
            first == at and 3 * count <= 4 * some <= 4 * count and count - some <= 32
            for (first, count), (at, some) in zip(own, early, strict=True)
        )
    if layout.keeps_units:
        assert all(s.operand_groups.items == s.blocks_by_thread for s in layout.stages)


def test_no_unit_is_a_thread_s_own_where_two_stages_write_it_that_are_shared_out_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gru = cells.load("gru", CellOptions(), "float32")
    gates, candidate = gru.stages
    wide = replace(candidate, gates=("a", "b", "c"))  # three gates of 7 units are packed, gates that are read are not
    twice = replace(gru, stages=(replace(gates, writes=(*gates.writes, "h")), wide))
    monkeypatch.setattr(cells, "load", lambda *_: twice)
    few = bottom(stack("gru", units=2 * host.lanes("float32") + 1, batch=1, threads=2))
    layout = replace(few, split="units")
    first, second = layout.stages
    assert first.blocks_by_thread != second.blocks_by_thread
    assert layout.own_units(first) == [(0, 0), (0, 0)]
    assert layout.own_groups(first) == 0
    assert not layout.keeps_units
    assert not layout.splits_gates
    assert not replace(layout, train=False).splits_gates  # one thread reads gates that the other wrote


@pytest.mark.parametrize(("batch", "threads", "window"), [(3, 1, 32), (3, 2, 1), (8, 2, 32)])
def test_a_thread_multiplies_its_own_units_first_only_where_it_shares_rows_in_a_window(
    batch: int, threads: int, window: int
) -> None:
    assert not bottom(stack("lstm", units=200, batch=batch, threads=threads), window=window).overlaps

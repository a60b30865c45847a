"""Two cases have the same name only if they are the same in what the name is about."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from unrollbench import labels
from unrollbench.case import Case, CellOptions

cases = st.builds(
    Case,
    backend=st.sampled_from(["numba_cpu", "jax"]),
    execution=st.sampled_from(["static", "dynamic"]),
    mode=st.sampled_from(["forward", "train"]),
    unroll=st.sampled_from([1, 4]),
    parallel_iterations=st.sampled_from([1, 32]),
    swap_memory=st.booleans(),
    time_major=st.booleans(),
    cell_options=st.sampled_from([CellOptions(), CellOptions(num_proj=3), CellOptions(use_peepholes=True)]),
    sequence_length=st.just(12),
    batch_size=st.just(10),
    lengths=st.sampled_from(["full", "uniform", (3,) * 10, (3,) * 9 + (5,), (5,) + (3,) * 9]),
    num_units=st.sampled_from([8, (8, 4)]),
    num_layers=st.just(2),
    device=st.sampled_from(["cpu", "cuda"]),
    matmul_precision=st.sampled_from(["float32", "tf32"]),
    device_memory_limit=st.sampled_from([None, 0.5, 1.0, 2**30]),
    allow_growth=st.booleans(),
    l2_cache=st.sampled_from(["hot", "cold"]),
).map(lambda case: case.canonical())


@given(cases, cases)
def test_networks_have_one_name_exactly_if_they_are_one(one: Case, other: Case) -> None:
    assert (labels.network(one) == labels.network(other)) == (one.network == other.network)


@given(cases, cases)
def test_variants_of_one_network_have_one_name_exactly_if_they_are_one(one: Case, other: Case) -> None:
    other = replace(one, **{axis: getattr(other, axis) for axis in ("backend", "execution")}).canonical()
    assert (labels.variant(one) == labels.variant(other)) == (one == other)


def test_a_variant_tells_an_axis_at_its_default_only_where_it_varies() -> None:
    loop = Case(execution="dynamic").canonical()
    assert labels.variant(loop) == "dynamic"
    assert labels.variant(loop, {"unroll"}) == "dynamic unroll=1"
    assert labels.variant(loop, {"backend"}) == "numba_cpu dynamic"
    assert labels.variant(replace(loop, unroll=4)) == "dynamic unroll=4"
    assert labels.variant(replace(loop, execution="static").canonical(), {"unroll"}) == "static"


def test_a_network_leaves_out_the_axes_that_it_is_told_to() -> None:
    assert labels.network(Case(sequence_length=9), without=("sequence_length",)) == "lstm B=16 I=64 H=64 L=1 forward"


def test_a_shape_leaves_out_what_stands_elsewhere() -> None:
    case = Case(cell="gru", mode="train", threads=2, time_major=False, backend="torch", sequence_length=8)
    assert labels.shape(case, ("threads",)) == "T=8 B=16 I=64 H=64 L=1 time_major=false"

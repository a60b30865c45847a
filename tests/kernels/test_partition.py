"""Items over threads and groups."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unrollbench.kernels.partition import Partition, partition


def items(share: tuple[int, int, int], big: int) -> list[int]:
    """The items of one thread's share, in the order in which a kernel's two loops take them."""
    first, n_big, n_small = share
    return list(range(first, first + n_big * big + n_small * (big - 1)))


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_a_partition_covers_every_item_once_and_in_order(count: int, threads: int, largest: int) -> None:
    found = partition(count, threads, largest)
    assert len(found.shares) == threads
    assert [item for share in found.shares for item in items(share, found.big)] == list(range(count))


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_a_partition_uses_at_most_two_sizes_and_none_above_the_largest(count: int, threads: int, largest: int) -> None:
    found = partition(count, threads, largest)
    assert 1 <= found.big <= largest
    assert all(n_big >= 0 and n_small >= 0 for _, n_big, n_small in found.shares)
    if found.big == 1:
        assert all(n_small == 0 for _, _, n_small in found.shares)  # groups of 0 would be kernels that do nothing


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_threads_get_as_many_items_as_each_other_or_one_more(count: int, threads: int, largest: int) -> None:
    found = partition(count, threads, largest)
    sizes = [len(items(share, found.big)) for share in found.shares]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_a_partition_s_sizes_are_those_that_some_thread_has(count: int, threads: int, largest: int) -> None:
    found = partition(count, threads, largest)
    bigs, smalls = sum(share[1] for share in found.shares), sum(share[2] for share in found.shares)
    wanted = [(found.big, "big")] * (bigs > 0) + [(found.big - 1, "small")] * (smalls > 0)
    assert list(found.sizes) == wanted


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 12))
def test_the_groups_of_a_partition_are_as_many_as_its_items(count: int, threads: int, largest: int) -> None:
    found = partition(count, threads, largest)
    assert sum(found.each) == count
    assert all(1 <= size <= largest for size in found.each)


def test_more_threads_than_items_leave_threads_without_work() -> None:
    assert partition(2, 4, 6) == Partition(1, ((0, 1, 0), (1, 1, 0), (2, 0, 0), (2, 0, 0)))

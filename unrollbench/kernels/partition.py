"""Items shared out as evenly as they go: over threads, and then in groups that differ by one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """Items split over threads and then into groups of `big` and `big` - 1, as even as they go.

    shares: per thread (first item, groups of `big`, groups of `big` - 1).
    """

    big: int
    shares: tuple[tuple[int, int, int], ...]

    @property
    def each(self) -> list[int]:
        """The size of every group, in order."""
        big, small = ([self.big], [self.big - 1])
        return [size for _, n_big, n_small in self.shares for size in n_big * big + n_small * small]

    @property
    def items(self) -> list[tuple[int, int]]:
        """Per thread (first item, how many)."""
        return [(first, n_big * self.big + n_small * (self.big - 1)) for first, n_big, n_small in self.shares]

    @property
    def most_groups(self) -> int:
        """How many groups the thread has that has most of them."""
        return max(n_big + n_small for _, n_big, n_small in self.shares)

    @property
    def sizes(self) -> tuple[tuple[int, str], ...]:
        """The sizes that some thread has groups of, and what the frame's fields call them: no other needs code."""
        named = ((self.big, "big", 1), (self.big - 1, "small", 2))
        return tuple((size, kind) for size, kind, index in named if any(share[index] for share in self.shares))


def partition(count: int, threads: int, largest: int) -> Partition:
    """`count` items over `threads`, in groups of at most `largest` of at most two sizes that differ by one."""
    quotient, extra = divmod(count, threads)
    most = quotient + (extra > 0)
    groups = -(-most // largest)
    big = -(-most // groups) if groups else 1
    shares, first = [], 0
    for thread in range(threads):
        share = quotient + (thread < extra)
        n_big = share - groups * (big - 1)
        shares.append((first, n_big, groups - n_big if big > 1 else 0))
        first += share
    return Partition(big, tuple(shares))

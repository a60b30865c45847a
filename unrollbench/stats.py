"""Pure statistics of timings: medians with intervals that assume no distribution, and ratios with their spread.

Timings are neither normal nor independent within a process, so nothing here uses a mean, a standard deviation or a
bootstrap of pooled samples. The independent unit is the process: values come as one sequence per process.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

Processes = Sequence[Sequence[float]]
"""One sequence of values (seconds of one run, of one build, ...) per process; every value > 0."""

CONFIDENCE = 0.95
ENOUGH_PROCESSES = 7
"""From 7 independent values on, the whole range holds the median with 98.4 %, enough for each side of a 95 % ratio."""
ENOUGH_VALUES = 6
"""From 6 values on, the whole range holds the median with 96.9 %."""
FEW_PROCESSES_MARGIN = 1.10
"""Layout, page colours and neighbours move a whole process by several percent (Mytkowicz et al., ASPLOS 2009, found up
to 8 %; 10 % and more was seen on shared machines), which samples of that process cannot show: with few processes no
difference below 10 % is claimed."""
FEW_VALUES_MARGIN = 1.50
"""A single cold build or a handful of runs says nothing about its own spread; shared machines move by 10 to 50 %."""


@dataclass(frozen=True)
class Interval:
    """The true value lies in [low, high] with at least the probability `confidence`."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Ratio:
    """How many times larger the first is than the second: the estimate and the bounds that this data supports.

    `processes` and `values` are those of the side that has fewer. `margin` is the factor by which the bounds were
    widened for what too few processes or values cannot show (1.0: not widened).
    """

    estimate: float
    low: float
    high: float
    processes: int
    values: int
    margin: float

    @property
    def shown(self) -> bool:
        """Whether the data shows a difference at all: the bounds leave out 1."""
        return self.low > 1.0 or self.high < 1.0

    def inverse(self) -> Ratio:
        """The same statement about the second against the first."""
        return Ratio(1 / self.estimate, 1 / self.high, 1 / self.low, self.processes, self.values, self.margin)

    def widened(self, below: float, above: float) -> Ratio:
        """The same with the lower bound times `below` (<= 1) and the upper one times `above` (>= 1)."""
        return replace(self, low=self.low * below, high=self.high * above)


@dataclass(frozen=True)
class Rounds:
    """How many times larger the first is than the second, from rounds in which both were measured side by side.

    With several rounds: the median of the rounds' own ratios, the lowest and the highest. With one: the ratio of the
    medians, and how far the samples' intervals let it be (`median_interval`). No bounds of a true value; see `Ratio`.
    """

    estimate: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Mean:
    """The geometric mean of ratios, the lowest and the highest of them, and how many there are."""

    estimate: float
    low: float
    high: float
    count: int


def median(values: Sequence[float]) -> float | None:
    """The middle value, or the mean of the two middle ones; None without values."""
    return statistics.median(values) if values else None


def iqr(values: Sequence[float]) -> float | None:
    """Third minus first quartile (linear between order statistics, as NumPy's default); None below two values."""
    if len(values) < 2:
        return None
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The narrowest symmetric pair of order statistics that holds the true median with at least `confidence`.

    With too few values for that it is the whole range, with the (lower) confidence that it really has; None without
    values. The k-th smallest and k-th largest of n hold the median with probability 1 - 2 P(Binomial(n, 1/2) < k),
    whatever the distribution.

    Source: David and Nagaraja, Order Statistics, 3rd edition, section 7.1.
    """
    if not values:
        return None
    ordered, count = sorted(values), len(values)
    skipped, held = _rank(count, confidence)
    return Interval(ordered[skipped], ordered[count - 1 - skipped], held)


def centre(processes: Processes) -> float | None:
    """The median over processes of each process's median; None without values."""
    medians = [statistics.median(values) for values in processes if values]
    return statistics.median(medians) if medians else None


def bounds(processes: Processes, confidence: float = CONFIDENCE) -> Interval | None:
    """Where the median over processes lies; None without values.

    From ENOUGH_PROCESSES on, the interval of the processes' medians. Below that the envelope: from the lowest end to
    the highest end of the processes' own intervals, so that two sides are told apart only if all their processes are.
    """
    inside = [interval for values in processes if (interval := median_interval(values, confidence)) is not None]
    if not inside:
        return None
    if len(inside) >= ENOUGH_PROCESSES:
        return median_interval([statistics.median(values) for values in processes if values], confidence)
    worst = min(interval.confidence for interval in inside)
    return Interval(min(i.low for i in inside), max(i.high for i in inside), worst)


def ratio(numerator: Processes, denominator: Processes, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times larger the numerator's centre is; None where a side has no values or a value that is not > 0.

    Each side's bounds are taken at 1 - (1 - confidence) / 2, so that both hold together with `confidence` (Bonferroni);
    the ratio then lies between low / high and high / low. Few processes or few values widen it (see the margins).
    """
    each_side = 1.0 - (1.0 - confidence) / 2.0
    sides = [(centre(side), bounds(side, each_side)) for side in (numerator, denominator)]
    (top, above), (bottom, below) = sides
    if top is None or bottom is None or above is None or below is None or min(above.low, below.low) <= 0.0:
        return None
    process_count = min(sum(1 for values in side if values) for side in (numerator, denominator))
    value_count = min(sum(len(values) for values in side) for side in (numerator, denominator))
    margin = _margin(process_count, value_count)
    return Ratio(
        estimate=top / bottom,
        low=above.low / below.high / margin,
        high=above.high / below.low * margin,
        processes=process_count,
        values=value_count,
        margin=margin,
    )


def by_rounds(numerator: Mapping[int, Sequence[float]], denominator: Mapping[int, Sequence[float]]) -> Rounds | None:
    """The ratio of two sides' values, given by round; None without a round in which both have values, all > 0."""
    common = [r for r in numerator if numerator[r] and denominator.get(r)]
    if not common or min(min((*numerator[r], *denominator[r])) for r in common) <= 0.0:
        return None
    if len(common) > 1:
        ratios = [statistics.median(numerator[r]) / statistics.median(denominator[r]) for r in common]
        return Rounds(statistics.median(ratios), min(ratios), max(ratios), len(common))
    top, bottom = numerator[common[0]], denominator[common[0]]
    above, below = median_interval(top), median_interval(bottom)
    assert above is not None
    assert below is not None
    estimate = statistics.median(top) / statistics.median(bottom)
    return Rounds(estimate, above.low / below.high, above.high / below.low, 1)


def geometric_mean(ratios: Sequence[float]) -> Mean | None:
    """The mean of ratios that are all > 0; None without any."""
    return Mean(statistics.geometric_mean(ratios), min(ratios), max(ratios), len(ratios)) if ratios else None


@lru_cache(maxsize=4096)  # a report asks for the same few counts thousands of times
def _rank(count: int, confidence: float) -> tuple[int, float]:
    """How many order statistics to skip at either end, at most, and the confidence that is left (>= 0)."""
    outside, skipped, tail = 2.0 * 0.5**count, 0, 0.5**count
    for k in range(1, (count + 1) // 2):
        tail += _half_binomial(count, k)
        if 1.0 - 2.0 * tail < confidence:
            break
        outside, skipped = 2.0 * tail, k
    return skipped, max(0.0, 1.0 - outside)


def _half_binomial(count: int, k: int) -> float:
    """P(Binomial(count, 1/2) = k), by logarithms so that a large count does not overflow."""
    log = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2.0)
    return math.exp(log)


def _margin(processes: int, values: int) -> float:
    if processes >= ENOUGH_PROCESSES:
        return 1.0
    return FEW_PROCESSES_MARGIN if values >= ENOUGH_VALUES else FEW_VALUES_MARGIN

"""Means, intervals and tests over seeds. All intervals and levels are at 95%."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Largest corrected p-value at which a difference is called one."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """A quantity over the seeds of a setting.

    Attributes:
        mean: The mean.
        deviation: The standard deviation over seeds, with n - 1; None for one seed.
        interval: The interval of Student's t for the mean; None for one seed.
        count: The number of seeds.
    """

    mean: float
    deviation: float | None
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The difference of a setting from the baseline, over seeds that both were trained with.

    Attributes:
        mean: Mean of setting minus baseline.
        interval: The interval of the paired t-test; None for one seed.
        p: The p-value of the paired t-test; None for one seed.
        corrected: The p-value corrected for the number of settings (Holm 1979); None for one seed.
        count: The number of pairs.
    """

    mean: float
    interval: Interval | None
    p: float | None
    corrected: float | None
    count: int

    @property
    def is_shown(self) -> bool:
        """Whether the difference is larger than the noise of the seeds."""
        return self.corrected is not None and self.corrected < LEVEL


def summary(values: Sequence[float]) -> Summary:
    """Return mean, standard deviation and interval.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values to summarise")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Summary(mean, None, None, 1)
    deviation = statistics.stdev(values)
    half = _t(count - 1) * deviation / math.sqrt(count)
    return Summary(mean, deviation, (mean - half, mean + half), count)


def noise_floor(deviation: float, count: int) -> float:
    """Return how far two runs of one setting differ, at most, in 95% of cases.

    Args:
        deviation: The standard deviation over seeds.
        count: The number of seeds that it was measured with.
    """
    return _t(count - 1) * math.sqrt(2) * deviation


def differences(
    values: Mapping[str, Mapping[int, float]], baseline: str
) -> dict[str, Difference | None]:
    """Compare every setting with the baseline, seed by seed, by a paired t-test.

    Pairs share the seed, and with it the order of the data. P-values are corrected for the number
    of comparisons by the method of Holm (1979), which bounds the chance that any of them is wrong.

    Args:
        values: A quantity by setting and seed.
        baseline: The setting to compare with.

    Returns:
        A difference for each other setting; None if no seed was trained with both.
    """
    compared: dict[str, Difference | None] = {}
    for name, by_seed in values.items():
        if name == baseline:
            continue
        seeds = sorted(by_seed.keys() & values[baseline].keys())
        pairs = [(by_seed[seed], values[baseline][seed]) for seed in seeds]
        compared[name] = _difference(pairs) if pairs else None
    tested = {name: d.p for name, d in compared.items() if d is not None and d.p is not None}
    for name, corrected in holm(tested).items():
        found = compared[name]
        assert found is not None
        compared[name] = Difference(found.mean, found.interval, found.p, corrected, found.count)
    return compared


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number, by the step-down method of Holm (1979)."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = largest
    return corrected


def _difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    apart = [one - other for one, other in pairs]
    mean, count = statistics.fmean(apart), len(apart)
    if count == 1:
        return Difference(mean, None, None, None, 1)
    # No variance but that of rounding: equal runs, or a shift, which no test can judge better.
    if all(math.isclose(value, mean, rel_tol=1e-9, abs_tol=1e-12) for value in apart):
        return Difference(mean, (mean, mean), float(abs(mean) <= 1e-12), None, count)
    from scipy import stats

    test = stats.ttest_rel(*zip(*pairs, strict=True))
    interval = test.confidence_interval(0.95)
    return Difference(
        mean, (float(interval.low), float(interval.high)), float(test.pvalue), None, count
    )


def _t(degrees: int) -> float:
    """Return the two-sided 95% quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))

"""Bands and tests that decide a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from functional_models.claims.claim import AGREES, DISAGREES, NOT_DECIDED
from functional_models.studies.statistics import LEVEL, differences


def verdict_of(holds: bool) -> str:
    """Return `AGREES` if a deterministic measurement is in its band, and `DISAGREES` if not."""
    return AGREES if holds else DISAGREES


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of log y over log x: the exponent of a power law."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rank_correlation(values: Sequence[float]) -> float:
    """Return Spearman's correlation of values with their positions."""
    from scipy.stats import spearmanr

    return float(spearmanr(np.arange(len(values)), values).statistic)


def geometric_mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the geometric mean over the rows, by column."""
    return [float(value) for value in np.exp(np.mean(np.log(rows), axis=0))]


@dataclass(frozen=True)
class Paired:
    """A paired t-test of a - b, with equal seeds in equal places.

    Attributes:
        mean: mean difference.
        low, high: its 95 % confidence interval.
        p: two-sided probability of a mean as far from 0 without a difference.
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def text(self) -> str:
        """The difference with its interval and p, for a sentence."""
        return f"{self.mean:+.4f} (95 % {self.low:+.4f} to {self.high:+.4f}, p = {self.p:.2g})"

    def sign(self) -> int:
        """Return the sign of a significant difference, and 0 for one within the noise."""
        return int(np.sign(self.mean)) if self.p < LEVEL else 0


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Return the paired t-test of two samples of equal length, at least 2."""
    values = {"a": dict(enumerate(a)), "b": dict(enumerate(b))}
    found = differences(values, "b")["a"]
    assert found is not None
    assert found.interval is not None
    assert found.p is not None
    return Paired(found.mean, *found.interval, found.p)


def is_below(test: Paired) -> str:
    """Return the verdict on "a is below b": only a significant difference decides."""
    return {-1: AGREES, 1: DISAGREES, 0: NOT_DECIDED}[test.sign()]


def is_above(test: Paired, margin: float) -> str:
    """Return the verdict on "a is above b by more than a margin": the interval decides."""
    if test.low > margin:
        return AGREES
    return DISAGREES if test.high < margin else NOT_DECIDED


def is_at_most(test: Paired, margin: float) -> str:
    """Return the verdict on "a is above b by no more than a margin": the interval decides."""
    if test.high < margin:
        return AGREES
    return DISAGREES if test.low > margin else NOT_DECIDED


def is_equal(test: Paired, margin: float) -> str:
    """Return the verdict on "a equals b up to a margin".

    They agree if the whole confidence interval is within the margin, and disagree if the whole
    interval is beyond it: no significant difference alone does not show equality.
    """
    if -margin < test.low and test.high < margin:
        return AGREES
    return DISAGREES if test.low > margin or test.high < -margin else NOT_DECIDED


def all_of(verdicts: Sequence[str]) -> str:
    """Return the verdict on a claim with several parts: one that disagrees decides it."""
    if DISAGREES in verdicts:
        return DISAGREES
    return NOT_DECIDED if NOT_DECIDED in verdicts else AGREES

"""Statistics of studies against NumPy, SciPy, and what they promise over many draws."""

import math

import numpy as np
import pytest
from scipy import stats

from functional_models.studies.statistics import differences, holm, noise_floor, summary

VALUES = {
    "base": {0: 2.0, 1: 2.3, 2: 1.9, 5: 2.2},
    "better": {0: 1.5, 1: 1.7, 2: 1.5, 5: 1.7},
    "same": {0: 2.1, 1: 2.2, 2: 1.9, 7: 9.0},
    "alone": {11: 1.0},
}


def test_a_summary_has_the_interval_of_students_t():
    values = [2.0, 2.3, 1.9, 2.2, 1.7]
    found = summary(values)
    assert found.count == 5
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.interval == pytest.approx(expected)


def test_one_value_has_no_deviation():
    assert summary([3.0]).deviation is summary([3.0]).interval is None
    with pytest.raises(ValueError, match="no values"):
        summary([])


def test_differences_are_paired_by_seed():
    found = differences(VALUES, "base")
    assert found.keys() == {"better", "same", "alone"}
    assert found["alone"] is None
    better = found["better"]
    expected = stats.ttest_rel([1.5, 1.7, 1.5, 1.7], [2.0, 2.3, 1.9, 2.2])
    assert better.count == 4
    assert better.p == pytest.approx(expected.pvalue)
    assert better.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert better.is_shown
    # Seed 7 was not trained with the baseline.
    assert found["same"].count == 3
    assert found["same"].mean == pytest.approx(0.0, abs=1e-9)
    assert not found["same"].is_shown


def test_p_values_are_corrected_for_their_number():
    # Holm (1979): the smallest is multiplied by 4, the next by 3, ..., and none falls below it.
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("apart", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_variance_are_decided(apart, p):
    values = {"base": {0: 1.0, 1: 2.0}, "other": {0: 1.0 + apart, 1: 2.0 + apart}}
    found = differences(values, "base")["other"]
    assert (found.mean, found.p, found.interval) == (apart, p, (apart, apart))
    assert found.is_shown == (p == 0)


def test_a_single_seed_shows_no_difference():
    found = differences({"base": {0: 2.0}, "other": {0: 1.0}}, "base")["other"]
    assert (found.mean, found.p, found.interval, found.is_shown) == (-1.0, None, None, False)


def test_pairs_of_one_setting_rarely_differ_by_more_than_the_noise_floor():
    random = np.random.default_rng(0)
    beyond = 0
    for _ in range(2000):
        values = random.normal(size=5).tolist()
        one, other = random.normal(size=2)
        beyond += abs(one - other) > noise_floor(summary(values).deviation, 5)
    # The deviation is estimated from 5 seeds, and its quantile accounts for that.
    assert beyond / 2000 == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))

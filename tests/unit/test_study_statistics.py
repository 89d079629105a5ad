"""Paired differences of a study against scipy's own test, and the power that is promised, by simulation."""

import numpy as np
import pytest
from scipy import stats

from taaf.training.studies.paired import difference, difference_text, spread


def _by_seed(values: np.ndarray) -> dict[int, float]:
    return {seed: float(v) for seed, v in enumerate(values)}


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_is_that_of_a_paired_t_test(n: int) -> None:
    rng = np.random.default_rng(n)
    one, other = rng.normal(71, 2, n), rng.normal(70, 2, n)
    found, theirs = difference(_by_seed(one), _by_seed(other)), stats.ttest_rel(one, other)
    assert found is not None and found.mean == pytest.approx((one - other).mean()) and found.n == n
    low, high = stats.t.interval(0.95, n - 1, loc=found.mean, scale=stats.sem(one - other))
    assert (high - low) / 2 == pytest.approx(found.half_width)
    assert found.differs == (theirs.pvalue < 0.05)


def test_detectable_difference_is_found_in_four_of_five_studies() -> None:
    """5 000 simulated studies of 5 seeds with that true difference; the formula takes t for its noncentral form."""
    rng = np.random.default_rng(1)
    deviations = rng.normal(0, 1, (5000, 5))
    true = (stats.t.ppf(0.975, 4) + stats.t.ppf(0.8, 4)) / 5**0.5
    assert np.mean(stats.ttest_1samp(deviations + true, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.05)
    found = difference(_by_seed(deviations[0]), dict.fromkeys(range(5), 0.0))
    assert found is not None and found.detectable == pytest.approx(true * deviations[0].std(ddof=1))


def test_only_common_seeds_are_paired() -> None:
    found = difference({1: 3.0, 2: 5.0, 9: 100.0}, {1: 1.0, 2: 2.0, 3: 0.0})
    assert found is not None and (found.n, found.mean) == (2, 2.5)
    assert difference({1: 1.0, 2: 2.0}, {2: 1.0}) is None and difference_text({}, {}) == "-"
    assert spread([1.0, 3.0]) == "2.00 ± 1.41" and spread([1.0]) == "1.00 ± nan"

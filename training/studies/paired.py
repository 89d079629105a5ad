"""Statistics of a study: mean and deviation over seeds, and differences that are paired by seed.

Seeds vary initialisation, batch order and augmentation, not the data: an interval says what another training would give, not
what another test set would.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE, POWER = 0.95, 0.8


def spread(values: Sequence[float]) -> str:
    """``mean ± sample standard deviation``."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


@dataclass(frozen=True)
class Difference:
    """``one - other`` over n common seeds, with d its mean and s its sample standard deviation.

    Attributes
    ----------
    mean : float
        d.
    error : float
        Standard error, s / sqrt(n).
    half_width : float
        Of the 95 % confidence interval d ± t(0.975, n - 1) s / sqrt(n).
    detectable : float
        The smallest true difference that a two-sided paired t-test at 5 % would find in 80 % of such studies,
        about (t(0.975, n - 1) + t(0.8, n - 1)) s / sqrt(n).
    """

    n: int
    mean: float
    error: float
    half_width: float
    detectable: float

    @property
    def differs(self) -> bool:
        """Whether zero lies outside the confidence interval."""
        return abs(self.mean) > self.half_width

    def text(self) -> str:
        """``mean ± half width of the interval``, marked with ``*`` where it excludes zero."""
        return f"{self.mean:+.2f} ± {self.half_width:.2f}{' *' if self.differs else ''}"


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Paired difference of two results by seed; None with fewer than two common seeds.

    Examples
    --------
    >>> difference({1: 3.0, 2: 5.0, 3: 4.0}, {1: 1.0, 2: 2.0, 3: 3.0}).text()
    '+2.00 ± 2.48'
    """
    from scipy.stats import t

    pairs = [one[s] - other[s] for s in sorted(one.keys() & other.keys())]
    if len(pairs) < 2:
        return None
    error, freedom = statistics.stdev(pairs) / len(pairs) ** 0.5, len(pairs) - 1
    two_sided, one_sided = float(t.ppf((1 + CONFIDENCE) / 2, freedom)), float(t.ppf(POWER, freedom))
    return Difference(len(pairs), statistics.mean(pairs), error, two_sided * error, (two_sided + one_sided) * error)


def difference_text(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    """`difference` for a table; "-" where there is none."""
    found = difference(one, other)
    return "-" if found is None else found.text()

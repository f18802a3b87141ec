"""Slopes on logarithmic axes, with what their scatter over seeds and sizes says of their error."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

FALSE_DISCOVERIES = 0.05  # rate: of what is found to be off, so many are off by chance


@dataclass(frozen=True)
class Fit:
    """A slope with its standard error and the degrees of freedom that this rests on.

    The error is NaN where there is no freedom.

    >>> low, high = Fit(slope=0.5, error=0.1, freedom=4).interval()
    >>> round(low, 2), round(high, 2)
    (0.22, 0.78)
    """

    slope: float
    error: float
    freedom: int

    def interval(self) -> tuple[float, float]:
        """Compute the 95 % t-interval; NaN where there is no freedom."""
        half = _student_quantile(self.freedom) * self.error
        return self.slope - half, self.slope + half

    def chance(self, distance: float) -> float:
        """Return the probability of an error of `distance` or more, to one side.

        >>> round(Fit(slope=0.5, error=0.1, freedom=4).chance(0.278), 3)
        0.025
        """
        if self.error == 0:
            return 0.0
        from scipy.special import stdtr

        return float(stdtr(self.freedom, -distance / self.error))


def fit_slope(rows: pd.DataFrame, along: str) -> Fit:
    """Fit log2(value) = a_seed + slope * log2(size) by least squares.

    The error follows from the n residuals, with n - (number of seeds) - 1 degrees of freedom. All
    is NaN if a value is not in (0, inf).

    >>> rows = pd.DataFrame({"width": [1, 2, 4], "value": [3.0, 6.0, 12.0], "seed": 0})
    >>> fit_slope(rows, "width")
    Fit(slope=1.0, error=0.0, freedom=1)
    """
    value = rows["value"].to_numpy(float)
    seeds, seed = np.unique(rows["seed"], return_inverse=True)
    freedom = len(rows) - len(seeds) - 1
    usable = (value > 0) & np.isfinite(value)
    if not usable.all():
        return Fit(math.nan, math.nan, freedom)
    x = _centred(np.log2(rows[along].to_numpy(float)), seed)
    y = _centred(np.log2(value), seed)
    spread = float((x**2).sum())
    slope = float((x * y).sum()) / spread
    if freedom < 1:
        return Fit(slope, math.nan, freedom)
    residuals = y - slope * x
    variance = float((residuals**2).sum()) / freedom
    return Fit(slope, math.sqrt(variance / spread), freedom)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % t-interval of the mean; NaN for fewer than two values.

    >>> low, high = interval(np.array([1.0, 2.0, 3.0]))
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = _student_quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    mean = float(values.mean())
    return mean - half, mean + half


def jackknife(without: np.ndarray) -> float:
    """Compute how far the 95 % interval of an estimate from n samples extends to either side of it.

    It is Student's t with n - 1 degrees of freedom times the standard error of the delete-one
    jackknife (Tukey 1958; Efron & Stein 1981), sqrt((n - 1) / n sum_i (without_i - mean)^2). Of a
    mean it is the `interval`.

    Args:
        without: the n estimates from all samples but one. NaN is returned for fewer than two.

    >>> round(jackknife(np.array([2.5, 2.0, 1.5])), 2)  # of the mean of 1, 2 and 3
    2.48
    """
    n = len(without)
    if n < 2:
        return math.nan
    return _student_quantile(n - 1) * math.sqrt((n - 1) * float(without.var()))


def _student_quantile(freedom: int) -> float:
    """Return how many standard errors a 95 % interval extends to either side; NaN for 0."""
    if freedom < 1:
        return math.nan
    from scipy.special import stdtrit  # the quantile of Student's t; here, as one seed needs none

    return float(stdtrit(freedom, 0.975))


def _centred(values: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Take the mean over each seed off; seeds are numbered from 0."""
    means = np.bincount(seed, values) / np.bincount(seed)
    return values - means[seed]


def larger_half(rows: pd.DataFrame, along: str) -> pd.DataFrame:
    """Select the larger half of the sizes, and the middle one; two at least.

    >>> rows = pd.DataFrame({"width": [8, 16, 32, 64]})
    >>> larger_half(rows, "width")["width"].tolist()
    [32, 64]
    """
    sizes = np.sort(rows[along].unique())
    first = min(len(sizes) // 2, len(sizes) - 2)
    return rows[rows[along] >= sizes[first]]


def discoveries(chances: list[float]) -> list[bool]:
    """Say which of several probabilities are too small for chance (Benjamini & Hochberg 1995).

    If all is chance, then nothing is found with a probability of 95 %.

    >>> discoveries([1e-6, 0.03, 0.5, 1.0])
    [True, False, False, False]
    """
    from scipy.stats import false_discovery_control

    return (false_discovery_control(chances) <= FALSE_DISCOVERIES).tolist()

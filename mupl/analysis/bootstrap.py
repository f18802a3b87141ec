"""How sure optima and losses of a ladder are: a parametric bootstrap over seeds.

The scatter s of a loss over seeds, as a share of the loss, is pooled over the good settings of all
sizes, with f degrees of freedom. Then 400 times s is drawn anew (s^2 f / chi^2_f), every mean m of
n seeds is shifted by a normal number times s m / sqrt(n), and everything is fitted again. What is
given of a loss are the 2.5 and 97.5 percentiles. A loss is predicted for a single run, which has a
scatter of its own. Where an optimum has no two neighbours, which were dropped or diverged, it may
lie anywhere within half a step of the grid.

There are two scatters (`Scatter`). Runs of one seed share their initial weights and the order of
their data, whatever their learning rate. So a seed moves a whole curve of losses up or down, and
with it the best loss, but not the place of the optimum. Losses are drawn with the scatter of a run,
and optima with what is left of that once the mean of each seed is taken off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mupl.analysis.transfer import INF, NAN

DRAWS = 400
PERCENT = (2.5, 97.5)
NORMAL = 1.96  # standard deviations of a normal number, within which 95 % lie
GOOD = 0.05  # of a loss above the best of its size: settings whose scatter over seeds counts


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval, NaN where nothing tells it.

    >>> 1.5 in Interval(1.0, 0.0, 2.0)
    True
    """

    value: float
    low: float = NAN
    high: float = NAN

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Scatter:
    """How the losses of runs that differ in the seed scatter, as shares of the loss.

    The settings near the best one of each size count. There the loss of setting k and seed s is
    taken as mean_k (1 + a_s + e_ks).

    Args:
        run: standard deviation of a_s + e_ks, by which single runs scatter; NaN if it is not known.
        freedom: its degrees of freedom, the sum of seeds - 1 over settings.
        paired: standard deviation of e_ks alone, by which differences between settings of the same
            seeds scatter. It is `run` where settings do not share seeds, or only one is good.
        paired_freedom: its degrees of freedom; of k settings with n seeds each (k - 1) (n - 1).
    """

    run: float
    freedom: int
    paired: float
    paired_freedom: int

    @classmethod
    def of(cls, results: pd.DataFrame, metric: str, keys: Sequence[str]) -> "Scatter":
        """Pool over all sizes.

        Args:
            results: one row a run.
            metric: the loss.
            keys: the column of the size, and those that tell settings apart.

        >>> runs = pd.DataFrame({"width": 8, "lr": [1, 1, 2, 2], "seed": [0, 1] * 2})
        >>> runs = runs.assign(status="completed", val_loss=[1.98, 2.02, 1.99, 2.03])
        >>> scatter = Scatter.of(runs, "val_loss", ["width", "lr"])
        >>> round(scatter.run, 4), round(scatter.paired, 4)
        (0.0141, 0.0)
        """
        good = _good(results, metric, keys)
        squares = float((good["off"] ** 2).sum())
        freedom = round(float(good["freedom"].sum()))
        if not freedom:
            return cls(NAN, 0, NAN, 0)
        run = float(np.sqrt(squares / freedom))
        left = 0.0
        paired_freedom = 0
        for _, of_size in good.groupby(keys[0]):
            settings = of_size.groupby([*keys[1:]], dropna=False).ngroup()
            of_settings = pd.get_dummies(settings)
            of_seeds = pd.get_dummies(of_size["seed"])
            terms = np.hstack([of_settings, of_seeds]).astype(float)
            off = of_size["off"].to_numpy(float)
            fitted, _, rank, _ = np.linalg.lstsq(terms, off)
            residuals = off - terms @ fitted
            left += float((residuals**2).sum())
            paired_freedom += len(off) - int(rank)
        if not paired_freedom:
            return cls(run, freedom, run, freedom)
        paired = float(np.sqrt(left / paired_freedom))
        return cls(run, freedom, paired, paired_freedom)


def _good(results: pd.DataFrame, metric: str, keys: Sequence[str]) -> pd.DataFrame:
    """Return the runs of settings near their size's best that have several seeds.

    Columns: `keys`, seed, off (the loss over its setting's mean, less 1) and freedom (its share of
    the setting's degrees of freedom, 1 - 1 / seeds).
    """
    is_ended = results["status"] == "completed"
    is_finite = np.isfinite(results[metric])
    ended = results[is_ended & is_finite]
    by_setting = ended.groupby([*keys], dropna=False)[metric]
    mean = by_setting.transform("mean")
    size = by_setting.transform("size")
    least = mean.groupby(ended[keys[0]]).transform("min")
    is_near = mean - least <= GOOD * least.abs()
    has_seeds = size > 1
    is_good = is_near & has_seeds & (mean != 0)
    runs = ended.assign(off=ended[metric] / mean - 1, freedom=1 - 1 / size)
    return runs.loc[is_good, [*keys, "seed", "off", "freedom"]]


class Draws:
    """Normal numbers for the scatter over seeds, the same whenever they are drawn.

    Attributes:
        known: whether the scatter is known.
        run, paired: (draws,) the scatter of a run, and that between settings, drawn anew.
    """

    def __init__(self, scatter: Scatter) -> None:
        self._generator = np.random.default_rng(0)
        self.known = scatter.freedom > 0
        self.run = self.paired = np.zeros(DRAWS)
        if self.known:
            self.run = scatter.run * self._roots(scatter.freedom)
            self.paired = scatter.paired * self._roots(scatter.paired_freedom)

    def _roots(self, freedom: int) -> np.ndarray:
        """Draw by how much a standard deviation of so many degrees of freedom is off: (draws,)."""
        return np.sqrt(freedom / self._generator.chisquare(freedom, DRAWS))

    def means(self, means: np.ndarray, seeds: np.ndarray, scatter: np.ndarray) -> np.ndarray:
        """Draw means over seeds anew: (points,) -> (draws, points).

        Args:
            means: losses; infinite ones stay so.
            seeds: of which each is the mean.
            scatter: `run` or `paired`.
        """
        normal = self._generator.standard_normal((DRAWS, len(means)))
        finite = np.isfinite(means)
        known = np.where(finite, means, 0.0)
        shares = scatter[:, None] / np.sqrt(seeds) * normal
        return np.where(finite, known + np.abs(known) * shares, INF)

    def one_run(self, means: np.ndarray) -> np.ndarray:
        """Draw the loss of one run about each mean: (draws,)."""
        return means + np.abs(means) * self.run * self._generator.standard_normal(DRAWS)

    def within_step(self) -> np.ndarray:
        """Draw where, within a step of the grid, an optimum without neighbours lies: (draws,)."""
        return self._generator.uniform(-0.5, 0.5, DRAWS)

    def normal(self, value: float, error: float) -> Interval:
        """Return 95 % of a normal number; NaN if the scatter is not known."""
        half = NORMAL * error if self.known else NAN
        return Interval(value, value - half, value + half)

    def interval(self, value: float, drawn: np.ndarray) -> Interval:
        """Return the percentiles of what was fitted again; NaN if the scatter is not known."""
        finite = drawn[np.isfinite(drawn)]
        if not self.known or not len(finite):
            return Interval(value)
        low, high = np.percentile(finite, PERCENT)
        return Interval(value, float(min(low, value)), float(max(high, value)))

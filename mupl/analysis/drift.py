"""Where the best value of a hyperparameter lies at another size: measured optima, and a prior.

At sizes x_i (log2) the optima y_i (log2 of the value) were measured with errors s_i. They scatter
about a line a + d x by sigma besides. Of a nothing is known before, and of the drift d, in octaves
a doubling of the size, that it is normal about 0 with the standard deviation tau. With weights
w_i = 1 / (s_i^2 + sigma^2), and the means x and y with these weights, the posterior is normal:

    precision = sum w_i (x_i - x)^2 + 1 / tau^2
    d         = sum w_i (x_i - x) (y_i - y) / precision
    at size t : y + d (t - x), with variance 1 / sum w_i + (t - x)^2 / precision + sigma^2

So a drift that is measured well is followed, and one that may be chance is not.

`benchmarks/prediction.py` finds tau and sigma by maximum likelihood from the ladders that are kept
in docs: 21 with seeds, of ten optimizers and models, under rules that carry the learning rate from
width to width. It says tau = 0.10 (95 % 0.06 to 0.16), and sigma = 0.06 (0 to 0.13). The tau below
is on the careful side of that, and the sigma on the other: a larger one would hardly follow a drift
that is measured well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TAU = 0.15  # octaves of drift a doubling of size
SIGMA = 0.03  # octaves
UNKNOWN = 0.2  # octaves, the error of an optimum where seeds tell none: about the median in docs


@dataclass(frozen=True)
class Drift:
    """The posterior of a line through optima.

    Args:
        size: log2, the weighted mean of the sizes.
        value: log2, the weighted mean of the optima, which is the line's value there.
        variance: of that value.
        drift: octaves a doubling of size.
        drift_variance: of the drift.
    """

    size: float
    value: float
    variance: float
    drift: float
    drift_variance: float

    @classmethod
    def of(
        cls, sizes: Sequence[float], optima: Sequence[float], errors: Sequence[float]
    ) -> "Drift":
        """Combine measured optima with the prior.

        Args:
            sizes, optima: positive numbers.
            errors: standard deviations of the optima, in octaves.

        Example:
            >>> well_known = Drift.of([128, 256, 512], [0.04, 0.02, 0.01], [0.01, 0.01, 0.01])
            >>> round(well_known.drift, 2)
            -0.98
            >>> hardly_known = Drift.of([128, 256, 512], [0.04, 0.02, 0.01], [0.5, 0.5, 0.5])
            >>> round(hardly_known.drift, 2)
            -0.15
        """
        x = np.log2(np.asarray(sizes, float))
        y = np.log2(np.asarray(optima, float))
        weights = 1 / (np.square(errors) + SIGMA**2)
        size = np.average(x, weights=weights)
        value = np.average(y, weights=weights)
        from_size = x - size
        from_value = y - value
        precision = (weights * from_size**2).sum() + 1 / TAU**2
        drift = (weights * from_size * from_value).sum() / precision
        return cls(
            size=float(size),
            value=float(value),
            variance=float(1 / weights.sum()),
            drift=float(drift),
            drift_variance=float(1 / precision),
        )

    def at(self, size: float) -> tuple[float, float]:
        """Return log2 of the best value at a size, and its standard deviation in octaves.

        >>> octaves, error = Drift.of([64], [0.5], [0.1]).at(128)
        >>> octaves, round(error, 2)
        (-1.0, 0.19)
        """
        far = np.log2(size) - self.size
        variance = self.variance + far**2 * self.drift_variance + SIGMA**2
        return float(self.value + self.drift * far), float(np.sqrt(variance))

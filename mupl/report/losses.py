"""The losses of a table of results, and what follows from them, each computed once."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from mupl.analysis import transfer


@dataclass(frozen=True, eq=False)
class Losses:
    """A table of results, and which of its columns are what.

    Args:
        results: one row a run; of those that failed there is none.
        metric: the loss.
        size: the size that was swept, such as "width"; None if there is one.
        x: the hyperparameter.
        unit: of the loss, such as "nats"; "" if it is not known.
    """

    results: pd.DataFrame
    metric: str
    size: str | None
    x: str
    unit: str = ""

    @classmethod
    def of_sweep(cls, results: pd.DataFrame, metric: str, unit: str) -> "Losses":
        """Find which size and hyperparameter a sweep swept, by the runs that did not fail."""
        runs = transfer.without_failed(results)
        size = transfer.swept_size(runs)
        return cls(runs, metric, size, transfer.swept_hyperparameter(runs), unit)

    @property
    def size_or_width(self) -> str:
        """The size of which there is a curve each; runs without another have a width."""
        return self.size or "width"

    @cached_property
    def keys(self) -> list[str]:
        """The columns that tell curves apart, the size among them."""
        return transfer.curve_keys(self.results, self.x, self.metric)

    @cached_property
    def series_keys(self) -> list[str]:
        """The columns that tell series of sizes apart."""
        return [key for key in self.keys if key != self.size]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """See `mupl.analysis.transfer.curves`."""
        return transfer.curves(self.results, self.metric, self.x)

    @cached_property
    def best(self) -> pd.DataFrame:
        """See `mupl.analysis.transfer.best`."""
        return transfer.best(self.results, self.metric, self.x)

    @cached_property
    def optima(self) -> pd.DataFrame:
        """See `mupl.analysis.transfer.optima`; empty if no size has two values of x."""
        if self.size is None or (self.results.groupby(self.size)[self.x].nunique() < 2).all():
            return pd.DataFrame()
        return transfer.optima(self.results, self.metric, self.size, self.x)

    @cached_property
    def transfer(self) -> pd.DataFrame:
        """See `mupl.analysis.transfer.transfer`; empty if there are no optima."""
        if self.size is None or self.optima.empty:
            return pd.DataFrame()
        return transfer.transfer(self.results, self.metric, self.size, self.x, self.optima)

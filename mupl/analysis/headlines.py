"""What a sweep has found, in one sentence for each parametrization."""

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis.transfer import SIZES, curve_keys, curves, labels
from mupl.names import as_written

NEAR = 0.03  # of a loss, above the best one, that still counts as good


def transfer_headlines(results: pd.DataFrame, metric: str, size: str | None, x: str) -> list[str]:
    """Say of each parametrization whether one value of x is good at every size.

    Args:
        results: of a sweep; see `mupl.analysis.transfer`.
        metric: the loss.
        size: the column of the size; None if there is one size.
        x: the column of the hyperparameter.

    >>> grid = pd.DataFrame({"width": [64] * 3 + [128] * 3, "lr": [0.05, 0.1, 0.2] * 2, "seed": 0})
    >>> runs = grid.assign(parametrization="mup", optimizer="adamw", status="completed")
    >>> runs = runs.assign(val_loss=[2, 1, 2, 2, 0.9, 2])
    >>> transfer_headlines(runs, "val_loss", "width", "lr")
    ['muP: lr 0.1 is best or within 3 % at every width from 64 to 128.']
    """
    if results[x].nunique() < 2:
        return []
    table = curves(results, metric, x)
    keys = [key for key in curve_keys(results, x, metric) if key != size]
    named = table[keys].copy()
    if "parametrization" in keys:
        named["parametrization"] = named["parametrization"].map(as_written)
    always = [key for key in keys if key in ("parametrization", "table")]
    differing = [key for key in keys if key not in always and named[key].nunique() > 1]
    shown = [*always, *differing] or keys[:1]
    table["series"] = labels(named[shown])
    said = []
    for name, series in table.groupby("series", sort=False):
        said.append(f"{name}: {_sentence(series, metric, size, x)}")
    return said


def _sentence(series: pd.DataFrame, metric: str, size: str | None, x: str) -> str:
    name = x.rpartition(".")[2]
    if not np.isfinite(series["mean"]).any():
        return f"no {name} gave a finite {metric}."
    if size is None or series[size].nunique() < 2:
        best = series.sort_values("mean").iloc[0]
        return f"{name} {_text(best[x])} is best ({metric} {best['mean']:.4g})."
    losses = series.pivot_table(index=x, columns=size, values="mean", sort=True)
    losses = losses.replace([np.inf, -np.inf], np.nan)
    losses = losses.dropna(axis="columns", how="all")
    least = losses.min()
    excess = (losses - least) / least.abs()
    worst = excess.max(axis="columns", skipna=False).dropna()
    along = SIZES.get(size, size)
    sizes = losses.columns
    edges = _edges(losses)
    if len(worst) and worst.min() <= NEAR:
        good = _text(worst.idxmin())
        ends = f"from {_text(sizes[0])} to {_text(sizes[-1])}"
        near = f"within {100 * NEAR:.0f} %"
        return f"{name} {good} is best or {near} at every {along} {ends}.{edges}"
    best = losses.idxmin()
    ends = f"from {_text(best.iloc[0])} at {_text(sizes[0])} to {_text(best.iloc[-1])} at "
    ends += f"{_text(sizes[-1])}"
    if not is_numeric_dtype(series[x]) or len(sizes) < 2:
        return f"no one {name} is best at every {along}: {ends}.{edges}"
    log_sizes = np.log2(sizes.to_numpy(float))
    log_best = np.log2(best.to_numpy(float))
    slope, _ = np.polyfit(log_sizes, log_best, 1)
    return f"the best {name} {_moves(slope)} each doubling of {along}, {ends}.{edges}"


def _moves(slope: float) -> str:
    """Say in words by what factor something moves.

    >>> _moves(-1.02), _moves(0.5)
    ('falls by half for', 'rises by a factor 1.4 for')
    """
    factor = 2.0 ** abs(slope)
    if round(factor, 1) == 2.0:
        return "falls by half for" if slope < 0 else "doubles for"
    word = "falls" if slope < 0 else "rises"
    return f"{word} by a factor {factor:.2g} for"


def _edges(losses: pd.DataFrame) -> str:
    """Warn if the best value is the first or last one tried; losses are x by size."""
    if not is_numeric_dtype(losses.index):
        return ""
    found = []
    for size in losses:
        tried = losses[size].dropna()
        if len(tried) > 1 and tried.idxmin() in (losses.index[0], losses.index[-1]):
            found.append(_text(size))
    return f" At {', '.join(found)} it lies at the edge of what was tried." if found else ""


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)

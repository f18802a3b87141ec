"""From a ladder of proxies to the target: best hyperparameters and loss there, with intervals.

A ladder is a sweep at several sizes. At each size (rung) losses are averaged over seeds. Of each
hyperparameter the curve of the least loss over all others has an optimum
(`mupl.analysis.transfer.Optimum`). The optima and what is known of drifts beforehand give the value
at the target, with its interval (`mupl.analysis.drift`). The best losses follow limit + c (flops /
least flops)^-power.

Errors of optima and intervals of losses are a bootstrap over seeds (`mupl.analysis.bootstrap`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mupl.analysis.bootstrap import PERCENT, Draws, Interval, Scatter
from mupl.analysis.drift import TAU, UNKNOWN, Drift
from mupl.analysis.transfer import INF, NAN, SIZES, Optimum, curves, differing_columns
from mupl.errors import ConfigError

POWERS = np.linspace(0.02, 2, 199)  # of FLOPs, that a law of losses may have
LAW_SIZES = 3  # fewer do not tell limit, factor and power
STEEP = 0.03  # of a loss by which both neighbours of the best value lie above it, on no plateau
LITTLE = 0.05  # octaves of drift a doubling of size, of which nothing is said
FAR = 1.0  # octaves of size beyond the ladder, over those that the ladder spans


@dataclass(frozen=True)
class Recommended:
    """The value of one hyperparameter at the target.

    Args:
        key: its column.
        value: a number with an interval, or a choice.
        drift: octaves that the best value rises when the size doubles; None if it has none.
        optima: the best value at each rung, by size: intervals, or choices.
        regret: the largest loss that the recommended value costs at a rung over the best one; NaN
            if it is not known.
        target_regret: the loss that it may cost at the target over the best value there, if that
            lies at an end of the interval, by the mean parabola of the rungs; NaN if it is not
            known.
        source: where the value comes from, as a sentence without its end.
    """

    key: str
    value: Interval | str
    drift: Interval | None
    optima: Mapping[float, Any]
    regret: float
    source: str
    target_regret: float = NAN

    @property
    def plain(self) -> Any:
        """The value as a config has it, numbers to four digits."""
        if isinstance(self.value, str):
            return self.value
        return float(f"{self.value.value:.4g}")


@dataclass(frozen=True)
class Prediction:
    """What a ladder says of its target.

    Args:
        size: the column of the size, such as width.
        target: its value.
        target_flops: of one run of the target.
        rungs: a row a size: size, flops, seeds, loss, low, high (95 %), settings.
        recommended: one for each hyperparameter that was swept.
        loss: of one run of the target; None without a law.
        law: limit, c and power of the best losses; None without one.
        scatter: of a loss over seeds, as a share of the loss.
        freedom: degrees of freedom of the scatter; 0 if it is not known.
        warnings: sentences.
    """

    size: str
    target: float
    target_flops: float
    rungs: pd.DataFrame
    recommended: Sequence[Recommended]
    loss: Interval | None
    law: "ComputeLaw | None"
    scatter: float
    freedom: int
    warnings: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class ComputeLaw:
    """The law limit + c (flops / least)^-power, with limit >= 0 and c > 0."""

    limit: float
    c: float
    power: float
    least: float

    def at(self, flops: float) -> float:
        """Return the loss of a run of so many FLOPs.

        >>> ComputeLaw(limit=1.5, c=2.0, power=0.5, least=1e12).at(4e12)
        2.5
        """
        return self.limit + self.c * (flops / self.least) ** -self.power


def predict(
    results: pd.DataFrame,
    metric: str,
    size: str,
    flops: Mapping[Any, float],
    target: float,
    target_flops: float,
) -> Prediction:
    """Predict the best hyperparameters and the loss of a run at the target.

    Args:
        results: one row a run; see `mupl.analysis.transfer`.
        metric: the loss.
        size: the column whose values are the rungs.
        flops: of one whole run at each size.
        target, target_flops: the same of the target.

    Raises:
        ConfigError: if no run of a size gave a finite loss, or nothing was swept.

    Example:
        >>> grid = [(w, lr, s) for w in (64, 128) for lr in (0.1, 0.2, 0.4) for s in (0, 1)]
        >>> results = pd.DataFrame(grid, columns=["width", "lr", "seed"])
        >>> losses = 2 + np.log2(results["lr"] / 0.2) ** 2 + 0.01 * results["seed"]
        >>> runs = results.assign(status="completed", val_loss=losses)
        >>> found = predict(runs, "val_loss", "width", {64: 1e9, 128: 4e9}, 256, 1.6e10)
        >>> found.recommended[0].plain, found.loss
        (0.2, None)
    """
    keys = hyperparameters(results, size)
    if not keys:
        raise ConfigError("nothing was swept but sizes and seeds; say several values, as of lr")
    settings = curves(results, metric, keys[0], [size, *keys[1:]])
    _check(settings, size)
    scatter = Scatter.of(results, metric, [size, *keys])
    draw = Draws(scatter)
    recommended = []
    for key in keys:
        if _is_graded(settings, key, keys):
            recommended.append(_by_line(settings, key, size, target, draw))
        else:
            recommended.append(_by_best(settings, key, size, draw))
    losses, drawn = _best_losses(settings, size, draw)
    rungs = _rungs(settings, size, flops, losses, drawn)
    law = fit_law(rungs["flops"].to_numpy(float), losses)
    loss = _predicted_loss(law, rungs, drawn, target_flops, draw)
    spread = scatter.run, scatter.freedom
    found = Prediction(size, target, target_flops, rungs, recommended, loss, law, *spread)
    return Prediction(**{**vars(found), "warnings": _warnings(found, settings)})


def hyperparameters(results: pd.DataFrame, size: str) -> list[str]:
    """List the columns that were tuned: all in which runs differ but sizes and seed.

    >>> table = pd.DataFrame({"width": [8, 16], "lr": [0.1, 0.2], "seed": [0, 1]})
    >>> hyperparameters(table, "width")
    ['lr']
    """
    return [key for key in differing_columns(results) if key not in (*SIZES, size, "seed")]


def fit_law(flops: np.ndarray, losses: np.ndarray) -> ComputeLaw | None:
    """Fit the law of the best losses by least squares; None below three sizes, or if none fits.

    >>> flops = np.array([1e12, 4e12, 16e12])
    >>> law = fit_law(flops, 1.5 + 2 * (flops / 1e12) ** -0.5)
    >>> round(law.limit, 6), round(law.c, 6), round(law.power, 6)
    (1.5, 2.0, 0.5)
    """
    if len(flops) < LAW_SIZES:
        return None
    limit, c, power = map(float, _fit_laws(flops, losses[None, :])[:, 0])
    return None if np.isnan(c) else ComputeLaw(limit, c, power, float(flops.min()))


def _fit_laws(flops: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Fit the law to many ladders at once: losses (draws, sizes) -> limit, c, power (3, draws).

    NaN where no law with c > 0 and limit >= 0 fits, as losses do not fall.
    """
    best = np.full((4, len(losses)), NAN)
    best[0] = INF  # squares
    for power in POWERS:
        falling = (flops / flops.min()) ** -power
        terms = np.stack([np.ones_like(falling), falling], axis=1)
        solved = np.linalg.pinv(terms) @ losses.T
        limit, c = solved
        errors = terms @ solved - losses.T
        squares = (errors**2).sum(axis=0)
        is_law = (c > 0) & (limit >= 0)
        better = is_law & (squares < best[0])
        found = np.stack([squares, limit, c, np.full_like(c, power)])
        best[:, better] = found[:, better]
    return best[1:]


def _check(settings: pd.DataFrame, size: str) -> None:
    least = settings.groupby(size)["mean"].min()
    lost = [f"{value:g}" for value, loss in least.items() if not np.isfinite(loss)]
    if lost:
        raise ConfigError(
            f"{size} {', '.join(lost)}: no setting gave a finite loss; nothing can be predicted"
        )


def _is_graded(settings: pd.DataFrame, key: str, keys: Sequence[str]) -> bool:
    """Say whether a key has values of a grid, all above 0, whose logarithms a line can join.

    Of a grid, most values were tried with most settings of the other keys. A value that was drawn
    was tried with those that were drawn together with it.
    """
    values = settings[key]
    if not is_numeric_dtype(values) or is_bool_dtype(values) or not (values > 0).all():
        return False
    tried = settings[[*keys]].drop_duplicates()
    others = [other for other in keys if other != key]
    crossed = values.nunique()
    if others:
        crossed *= len(tried[others].drop_duplicates())
    return values.nunique() > 1 and len(tried) > crossed / 2


def profile(settings: pd.DataFrame, key: str, size: str) -> pd.DataFrame:
    """Return the least mean loss over all other hyperparameters, at each size and value of a key.

    >>> table = pd.DataFrame({"width": 8, "lr": [1, 1, 2], "wd": [0, 1, 0], "mean": [3, 2, 5]})
    >>> profile(table, "lr", "width")[["lr", "mean"]].to_dict("list")
    {'lr': [1, 2], 'mean': [2, 5]}
    """
    best = settings.groupby([size, key])["mean"].idxmin()
    return settings.loc[best].sort_values([size, key], ignore_index=True)


def _by_line(
    settings: pd.DataFrame, key: str, size: str, target: float, draw: Draws
) -> Recommended:
    """Recommend what the optima of the rungs and the prior of their drift say of the target."""
    optima: dict[float, Interval] = {}
    drawn = []
    curves_by_size = dict(iter(profile(settings, key, size).groupby(size)))
    found: dict[Any, Optimum] = {}
    for of_size, curve in curves_by_size.items():
        optimum = Optimum.of(curve[key], curve["mean"])
        found[of_size] = optimum
        drawn.append(_drawn_optima(curve, key, draw))
        octaves = draw.interval(np.log2(float(optimum.x)), drawn[-1])
        optima[float(str(of_size))] = _powers(octaves)
    values = [optimum.value for optimum in optima.values()]
    errors = [float(np.std(one)) if draw.known else UNKNOWN for one in drawn]
    posterior = Drift.of(list(optima), values, errors)
    at, error = posterior.at(target)
    value = _powers(draw.normal(at, error))
    drift = None
    source = f"the best at {size} {next(iter(optima)):g}, the only one"
    if len(optima) > 1:
        log_sizes = np.log2(list(optima))
        slope, _ = np.polyfit(log_sizes, np.log2(values), 1)
        slopes, _ = np.polyfit(log_sizes, np.stack(drawn), 1)
        drift = draw.interval(float(slope), slopes)
        source = (
            f"the best at {len(optima)} sizes, with {posterior.drift:+.2f} octaves of drift a "
            f"doubling (measured {drift.value:+.2f}, expected 0 +- {TAU:g})"
        )
    lost = []
    for of_size, curve in curves_by_size.items():
        lost.append(found[of_size].regret(value.value, curve[key], curve["mean"]))
    at_end = _mean_curvature(found.values()) / 2 * (np.log2(value.high) - at) ** 2
    return Recommended(key, value, drift, optima, _worst(lost), source, float(at_end))


def _mean_curvature(optima: Iterable[Optimum]) -> float:
    """Return the mean over the optima whose curvature is known; NaN if there is none."""
    known = [optimum.curvature for optimum in optima if optimum.curvature > 0]
    return float(np.mean(known)) if known else NAN


def _powers(octaves: Interval) -> Interval:
    return Interval(2**octaves.value, 2**octaves.low, 2**octaves.high)


def _drawn_optima(curve: pd.DataFrame, key: str, draw: Draws) -> np.ndarray:
    """Find the optimum of a curve again for each draw of its means: (draws,), in octaves."""
    x = curve[key]
    seeds = curve["seeds"].to_numpy(float)
    grid = np.log2(x.to_numpy(float))
    step = float(np.diff(grid).max()) if len(grid) > 1 else 0.0
    inside = draw.within_step()
    drawn = draw.means(curve["mean"].to_numpy(float), seeds, draw.paired)
    found = []
    for losses, place in zip(drawn, inside, strict=True):
        optimum = Optimum.of(x, pd.Series(losses))
        octave = np.log2(float(optimum.x))
        if not optimum.curvature > 0:  # it may be anywhere within a step
            octave += place * step
        found.append(octave)
    return np.array(found)


def _by_best(settings: pd.DataFrame, key: str, size: str, draw: Draws) -> Recommended:
    """Recommend the value of the best setting at the largest size: of choices, or drawn values."""
    optima: dict[float, Any] = {}
    for of_size, rung in settings.groupby(size):
        ranked = rung.sort_values("mean", kind="stable")
        optima[float(str(of_size))] = ranked.iloc[0][key]
    is_largest = settings[size] == settings[size].max()
    largest = settings[is_largest].reset_index(drop=True)
    ranked = largest.sort_values("mean", kind="stable")
    best: Any = ranked.iloc[0][key]
    value: Interval | str = str(best)
    if is_numeric_dtype(largest[key]) and not is_bool_dtype(largest[key]):
        seeds = largest["seeds"].to_numpy(float)
        means = draw.means(largest["mean"].to_numpy(float), seeds, draw.paired)
        winners = means.argmin(axis=1)
        drawn = largest[key].to_numpy(float)[winners]
        value = draw.interval(float(best), drawn)
    lost = []
    for _, rung in settings.groupby(size):
        with_best = rung.loc[rung[key] == best, "mean"]
        lost.append(with_best.min() - rung["mean"].min())
    source = f"as in the best setting at {size} {settings[size].max():g}"
    return Recommended(key, value, None, optima, _worst(lost), source)


def _worst(lost: Sequence[float]) -> float:
    """Return the largest regret; NaN if one is not known, where all near values were dropped."""
    return max(lost) if np.isfinite(lost).all() else NAN


def _best_losses(settings: pd.DataFrame, size: str, draw: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Return the best loss of each size (sizes,), and the same drawn anew (draws, sizes)."""
    losses = []
    drawn = []
    for _, rung in settings.groupby(size):
        finite = rung[np.isfinite(rung["mean"])]
        best = finite.loc[finite["mean"].idxmin()]
        losses.append(float(best["mean"]))
        mean = np.array([best["mean"]])
        seeds = np.array([best["seeds"]])
        drawn.append(draw.means(mean, seeds, draw.run)[:, 0])
    return np.array(losses), np.stack(drawn, axis=1)


def _rungs(
    settings: pd.DataFrame,
    size: str,
    flops: Mapping[Any, float],
    losses: np.ndarray,
    drawn: np.ndarray,
) -> pd.DataFrame:
    rows = []
    spread = np.percentile(drawn, PERCENT, axis=0)
    is_known = bool((spread[1] > spread[0]).all())
    for i, (value, rung) in enumerate(settings.groupby(size)):
        low, high = spread[:, i] if is_known else (NAN, NAN)
        row: dict[str, Any] = {size: value, "flops": flops[value]}
        row["seeds"] = int(rung["seeds"].max())
        row["settings"] = len(rung)
        row["loss"] = losses[i]
        row["low"] = low
        row["high"] = high
        rows.append(row)
    return pd.DataFrame(rows)


def _predicted_loss(
    law: ComputeLaw | None,
    rungs: pd.DataFrame,
    drawn: np.ndarray,
    target_flops: float,
    draw: Draws,
) -> Interval | None:
    if law is None:
        return None
    limit, c, power = _fit_laws(rungs["flops"].to_numpy(float), drawn)
    means = limit + c * (target_flops / law.least) ** -power
    return draw.interval(law.at(target_flops), draw.one_run(means))


def _warnings(found: Prediction, settings: pd.DataFrame) -> list[str]:
    """Say what makes the prediction unsure."""
    size = found.size
    said = []
    keys = [one.key for one in found.recommended]
    for one in found.recommended:
        if _is_graded(settings, one.key, keys):
            said += _of_curves(profile(settings, one.key, size), one, size)
        if one.drift is None or not found.freedom or 0 in one.drift:
            continue
        if abs(one.drift.value) > LITTLE:
            said.append(
                f"the best {one.key} drifts by {one.drift.value:+.2f} octaves a doubling of "
                f"{SIZES.get(size, size)} ({one.drift.low:.2f} to {one.drift.high:.2f}): the "
                "recommended value follows it, and is the less sure the further the target"
            )
    if not found.freedom:
        said.append("one seed: no interval is known; say seed=0,1 or more")
    if len(found.rungs) < LAW_SIZES:
        many = "one size" if len(found.rungs) == 1 else f"{len(found.rungs)} sizes"
        said.append(
            f"{many}: no law of the loss, which needs {LAW_SIZES}, and so no predicted loss"
        )
    elif found.law is None:
        said.append("the best loss does not fall along the ladder: no law of it, no predicted loss")
    sizes = found.rungs[size].to_numpy(float)
    spanned = np.log2(sizes.max() / sizes.min())
    beyond = np.log2(found.target / sizes.max())
    if beyond > FAR * spanned:
        said.append(
            f"the target is {2**beyond:.3g} times the largest {size} of the ladder, which spans a "
            f"factor {2**spanned:.3g}: further than the ladder reaches; add a larger proxy"
        )
    return said


def _of_curves(curve: pd.DataFrame, one: Recommended, size: str) -> list[str]:
    """Warn of optima at the edge of the grid, and of a grid too coarse to have a plateau."""
    edges = []
    steep = []
    for value, rung in curve.groupby(size):
        losses = rung["mean"].to_numpy(float)
        best = int(losses.argmin())
        if best in (0, len(losses) - 1):
            edges.append(f"{value:g}")
            continue
        neighbours = losses[[best - 1, best + 1]] - losses[best]
        if np.isfinite(neighbours).any() and (neighbours > STEEP * abs(losses[best])).all():
            steep.append(f"{value:g}")
    said = []
    if edges:
        said.append(
            f"the best {one.key} lies at the edge of the grid at {size} {', '.join(edges)}: it is "
            "not known; try values beyond"
        )
    if steep:
        said.append(
            f"no plateau of {one.key} at {size} {', '.join(steep)}: both neighbours of the best "
            f"value lose more than {STEEP:.0%}; take values that are closer together"
        )
    return said

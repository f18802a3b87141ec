"""The report of a ladder: what its rungs say of the target, and the config to train there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from mupl.analysis.bootstrap import Interval
from mupl.analysis.coordinates import records
from mupl.analysis.prediction import Prediction, predict
from mupl.analysis.transfer import SIZES, hyperparameter_name, without_failed
from mupl.errors import ConfigError
from mupl.figures.prediction import plot_prediction
from mupl.files import write_atomically
from mupl.report.common import (
    conclude,
    print_lines,
    read_results,
    save_figure,
    save_table,
    show,
    without_unknown,
)
from mupl.report.page.prediction import PREDICTION_FILE
from mupl.road.certificate import PROXIES
from mupl.road.configs import choices_of, job_config, plan_of, target_sizes, with_values
from mupl.road.cost import Cost, cost
from mupl.road.first_steps import record_first_steps
from mupl.road.recommendation import (
    Source,
    predicted_text,
    recommended_values,
    source_text,
    write_recommendation,
)
from mupl.sweep.callback import duration
from mupl.tuning.ladder import GROWING

SEEDS = 2  # of the proxies whose first steps are recorded


@dataclass(frozen=True)
class Costs:
    """What the ladder cost, and what the same search at the target would cost.

    Args:
        ladder: FLOPs of all runs of the ladder, as far as they were trained.
        seconds: that they took.
        target: FLOPs of one run of the target.
        search: FLOPs of as many settings and seeds at the target, as far trained.
        rate: FLOPs a second at the largest size of the ladder.
    """

    ladder: float
    seconds: float
    target: float
    search: float
    rate: float

    def sentence(self) -> str:
        """Say it in words, with times at the rate of this device.

        >>> Costs(1e15, 3600, 1e16, 4e17, 1e12).sentence().partition("; the same")[0]
        'tuning took 1e+15 FLOPs, 60 min; a run of the target takes 1e+16, 2.8 h'
        """
        run = duration(self.target / self.rate)
        search = duration(self.search / self.rate)
        return (
            f"tuning took {self.ladder:.2g} FLOPs, {duration(self.seconds)}; a run of the target "
            f"takes {self.target:.2g}, {run}; the same search there would have taken "
            f"{self.search:.2g}, {search}, {self.search / self.ladder:.3g} times the ladder (times "
            f"of this device, at the {self.rate:.2g} FLOPs a second of the largest proxies)"
        )


def tune(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `prediction.json`, `prediction.png` and `recommendation.yaml`; print what they say.

    Returns 1 if a job or the figure failed.

    Raises:
        ConfigError: if the sweep is no ladder, or no setting of a size gave a finite loss.
    """
    results = read_results(sweep_dir, where)
    code = conclude(results, sweep_dir)
    results = without_failed(results)
    if results.empty:
        raise ConfigError(f"{sweep_dir}: all runs failed; see results.csv there for why")
    size = ladder_size(results)
    largest = _job(results, size, sweep_dir)
    plan = plan_of(sweep_dir, largest)
    if not plan.get("target"):
        raise ConfigError(f"{sweep_dir}: is no ladder; say experiment=tune target.width=...")
    target = target_sizes(job_config(largest), plan.target)
    if size not in target:
        raise ConfigError(f"{size}: a ladder is along {', '.join(target)}")
    costs = {}
    for value, rung in results.groupby(size):
        costs[value] = cost(job_config(_job(rung, size, sweep_dir)))
    of_target = cost(with_values(job_config(largest), target))
    flops = {value: one.flops for value, one in costs.items()}
    found = predict(results, metric, size, flops, target[size], of_target.flops)
    found = _with_notes(found, results, target)
    spent = _spent(results, found, flops)
    source = _source(results, found, sweep_dir, plan, metric)
    _write(sweep_dir, found, metric, spent, {**costs, target[size]: of_target})
    _print(sweep_dir, found, metric, spent, costs)
    file = write_recommendation(source, found, metric, target)
    _record_proxies(results, source, found, sweep_dir)
    print(f"recommended: python train.py --config-dir {sweep_dir} --config-name {file.stem}")
    failed = save_figure(sweep_dir / "prediction.png", plot_prediction, results, metric, found)
    return max(code, failed)


def ladder_size(results: pd.DataFrame) -> str:
    """Return the column of the size along which a ladder goes: width, where several grow together.

    Raises:
        ConfigError: if sizes were swept one against the other.

    >>> ladder_size(pd.DataFrame({"width": [8, 16], "depth": [1, 2]}))
    'width'
    """
    varied = [size for size in SIZES if size in results and results[size].nunique() > 1]
    if not varied:
        return "width"
    together = len(results[varied].drop_duplicates())
    if together > results[varied[0]].nunique():
        raise ConfigError(
            f"{' and '.join(varied)}: are swept one against the other; a ladder has one value of "
            f"each at a {varied[0]}: target.in_proportion=[{', '.join(varied[1:])}]"
        )
    return varied[0]


def _job(results: pd.DataFrame, size: str, sweep_dir: Path) -> Path:
    """Return the folder of a run of the largest size."""
    largest = results.sort_values(size, kind="stable").iloc[-1]
    return sweep_dir / str(largest["folder"])


def _with_notes(found: Prediction, results: pd.DataFrame, target: Mapping[str, Any]) -> Prediction:
    """Add warnings of sizes in which the target differs from all proxies."""
    notes = []
    for key in GROWING:
        values = results[key].unique()
        if key != found.size and len(values) == 1 and values[0] != target[key]:
            notes.append(
                f"the target has {key} {target[key]}, and every proxy {values[0]}: what that "
                "changes was not measured (target.in_proportion, or proxies of that size, would)"
            )
    return Prediction(**{**vars(found), "warnings": [*found.warnings, *notes]})


def _spent(results: pd.DataFrame, found: Prediction, flops: Mapping[Any, float]) -> Costs:
    share = results["steps"] / results["max_steps"]
    of_runs = share.fillna(0) * results[found.size].map(flops)
    largest = results[found.size] == results[found.size].max()
    seconds_of_largest = results.loc[largest, "seconds"].sum()
    rate = of_runs[largest].sum() / max(seconds_of_largest, 1e-9)
    search = float(share[largest].sum()) * found.target_flops
    seconds = float(results["seconds"].sum())
    return Costs(float(of_runs.sum()), seconds, found.target_flops, search, float(rate))


def _source(
    results: pd.DataFrame, found: Prediction, sweep_dir: Path, plan: DictConfig, metric: str
) -> Source:
    """Find the best proxy of the largest size that has the recommended choices."""
    ended = results[results["status"] == "completed"]
    for one in found.recommended:
        if isinstance(one.value, str):
            ended = ended[ended[one.key].astype(str) == one.value]
    largest = ended[ended[found.size] == ended[found.size].max()]
    best = largest.sort_values(metric, kind="stable").iloc[0]
    folder = sweep_dir / str(best["folder"])
    return Source(sweep_dir, plan, job_config(folder), choices_of(folder))


def _record_proxies(
    results: pd.DataFrame, source: Source, found: Prediction, sweep_dir: Path
) -> None:
    """Record the first steps of each size at the recommended values, for the certificate."""
    values = recommended_values(found, source.choices)
    tables = []
    for _, rung in results.groupby(found.size):
        config = with_values(source.config, _sizes_of(rung))
        for seed in sorted(rung["seed"].unique())[:SEEDS]:
            changed = with_values(config, {**values, "seed": int(seed)})
            tables.append(record_first_steps(changed))
    save_table(pd.concat(tables), sweep_dir / PROXIES)


def _sizes_of(rung: pd.DataFrame) -> dict[str, Any]:
    first = rung.iloc[0]
    return {key: int(first[key]) for key in ("width", *GROWING)}


def _write(
    sweep_dir: Path, found: Prediction, metric: str, spent: Costs, costs: Mapping[Any, Cost]
) -> None:
    """Write what was found as plain data."""
    plain = {
        "metric": metric,
        "size": found.size,
        "target": found.target,
        "target_flops": found.target_flops,
        "loss": asdict(found.loss) if found.loss else None,
        "law": asdict(found.law) if found.law else None,
        "law_text": law_text(found, metric) if found.law else None,
        "scatter": found.scatter,
        "freedom": found.freedom,
        "recommended": records(recommended_table(found)),
        "rungs": records(rungs_table(found)),
        "parameters": {str(value): one.parameters for value, one in costs.items()},
        "costs": {**asdict(spent), "text": spent.sentence()},
        "warnings": list(found.warnings),
    }
    write_atomically(sweep_dir / PREDICTION_FILE, json.dumps(_without_nan(plain), indent=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and value != value else value


def recommended_table(found: Prediction) -> pd.DataFrame:
    """Return a row a hyperparameter: its value at the target and where that comes from."""
    rows = []
    for one in found.recommended:
        value = one.value if isinstance(one.value, Interval) else Interval(float("nan"))
        drift = one.drift or Interval(float("nan"))
        row = {
            "hyperparameter": one.key,
            "value": one.plain,
            "low": value.low,
            "high": value.high,
            "drift": drift.value,
            "drift_low": drift.low,
            "drift_high": drift.high,
            "regret": one.regret,
            "target_regret": one.target_regret,
            "source": one.source,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def rungs_table(found: Prediction) -> pd.DataFrame:
    """Return a row a size: its best values and losses."""
    table = found.rungs.copy()
    for one in found.recommended:
        best = [one.optima[float(value)] for value in table[found.size]]
        if not all(isinstance(value, Interval) for value in best):
            table[one.key] = best
            continue
        table[one.key] = [value.value for value in best]
        table[f"{one.key}_low"] = [value.low for value in best]
        table[f"{one.key}_high"] = [value.high for value in best]
    return table


def _print(
    sweep_dir: Path, found: Prediction, metric: str, spent: Costs, costs: Mapping[Any, Cost]
) -> None:
    file = sweep_dir / PREDICTION_FILE
    rungs = rungs_table(found)
    rungs.insert(1, "parameters", [costs[value].parameters for value in rungs[found.size]])
    rungs = rungs.rename(columns={"loss": metric})
    show(without_unknown(rungs), "the ladder: the best of each size (low, high: 95 %)", file)
    title = f"recommended at {found.size} {found.target:g} (drift: octaves a doubling)"
    shown = recommended_table(found)
    shown["hyperparameter"] = shown["hyperparameter"].map(hyperparameter_name)
    show(without_unknown(shown), title, file)
    print_lines([f"warning: {text}" for text in found.warnings], file)
    if found.law is not None:
        print(law_text(found, metric))
    print(f"predicted at {found.size} {found.target:g}: {predicted_text(found, metric)}")
    for one in found.recommended:
        print(f"  {source_text(one)}")
    print(spent.sentence())


def law_text(found: Prediction, metric: str) -> str:
    """Say the law of the best losses."""
    law = found.law
    assert law is not None
    return (
        f"the best {metric} falls as {law.limit:.4g} + {law.c:.3g} (FLOPs / {law.least:.2g})"
        f"^-{law.power:.2g}; a loss scatters by {found.scatter:.2%} over seeds "
        f"({found.freedom} degrees of freedom)"
    )

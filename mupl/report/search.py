"""The report of a search of many hyperparameters: its best settings, to be taken elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mupl.analysis.search import preferences, ranking, searched_keys
from mupl.errors import ConfigError
from mupl.figures.search import plot_search
from mupl.files import write_atomically
from mupl.report.common import conclude, read_results, save_figure, save_table, show

SHOWN = 10  # settings that are printed


def search(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `ranking.csv`, `preferences.csv`, `search.png` and settings; print them.

    With `--config-dir SWEEP` another command takes the best setting by `setting=best`, and the
    geometric mean of the best tenth by `setting=mean`. A search with `setting=near` draws between
    the quartiles of the best tenth. Returns 1 if a job or the figure failed.

    Raises:
        ConfigError: if nothing was searched.
    """
    results = read_results(sweep_dir, where)
    if not searched_keys(results):
        raise ConfigError(f"{sweep_dir}: all jobs have one setting; a search needs several")
    ranked = ranking(results, metric)
    code = conclude(results, sweep_dir)
    if ranked.empty:
        print("no setting was trained to the end")
        return 1
    save_table(ranked, sweep_dir / "ranking.csv")
    show(ranked.head(SHOWN), f"best settings by {metric}", sweep_dir / "ranking.csv")
    liked = preferences(results, metric)
    save_table(liked, sweep_dir / "preferences.csv")
    title = "what the best tenth has in common (shift: in standard deviations of what was tried)"
    show(liked, title, sweep_dir / "preferences.csv")
    for name, values in settings(ranked[searched_keys(results)], liked).items():
        write_setting(sweep_dir, name, values)
    place = f"--config-dir {sweep_dir}"
    print(f"{place} setting=best,mean takes the best, and the mean of the best tenth; setting=near")
    print("has the ranges of the best tenth, in which the same search goes on")
    failed = save_figure(sweep_dir / "search.png", plot_search, results, metric)
    return max(code, failed)


def settings(ranked: pd.DataFrame, liked: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the settings that a search ends with, by name; their keys are keys of a command.

    Args:
        ranked: the searched keys of all settings, the best first.
        liked: of `mupl.analysis.search.preferences`. What is no number is as in the best setting.

    >>> liked = pd.DataFrame({"key": ["lr"], "top_low": 0.1, "top_mean": 0.2, "top_high": 0.4})
    >>> found = settings(pd.DataFrame({"lr": [0.3], "norm": ["rms"]}), liked)
    >>> found["mean"]
    {'lr': 0.2, 'norm': 'rms'}
    >>> found["near"]
    {'hydra.sweeper.params': {'lr': 'tag(log,interval(0.1,0.4))'}}
    """
    best = {str(key): value for key, value in ranked.iloc[0].items()}
    mean = dict(best)
    near: dict[str, str] = {}
    for row in liked.to_dict("records"):
        mean[row["key"]] = float(f"{row['top_mean']:.6g}")
        low = f"{row['top_low']:.6g}"
        high = f"{row['top_high']:.6g}"
        near[row["key"]] = low if low == high else f"tag(log,interval({low},{high}))"
    return {"best": best, "mean": mean, "near": {"hydra.sweeper.params": near}}


def write_setting(sweep_dir: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write a setting as a config of the group `setting`."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value.item() if hasattr(value, "item") else value
    folder = sweep_dir / "setting"
    folder.mkdir(exist_ok=True)
    text = "# @package _global_\n" + yaml.safe_dump(nested, sort_keys=False)
    write_atomically(folder / f"{name}.yaml", text)

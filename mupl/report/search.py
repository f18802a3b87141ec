"""The report of a search of many hyperparameters: its best settings, to be taken elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mupl.analysis.search import preferences, ranking, searched_keys
from mupl.errors import ConfigError
from mupl.figures.search import plot_search
from mupl.files import write_atomically
from mupl.report.common import conclude, read_results, save_figure, save_table, show

SHOWN = 10  # settings that are printed


def search(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `ranking.csv`, `preferences.csv`, `search.png` and `setting/best.yaml`; print them.

    With `--config-dir SWEEP` another command takes the best one by `setting=best`. Returns 1 if a
    job or the figure failed.

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
    best = ranked.iloc[0]
    write_setting(sweep_dir, {key: best[key] for key in searched_keys(results)})
    failed = save_figure(sweep_dir / "search.png", plot_search, results, metric)
    return max(code, failed)


def write_setting(sweep_dir: Path, best: Mapping[str, Any]) -> None:
    """Write the best setting as a config of the group `setting`."""
    nested: dict[str, Any] = {}
    for key, value in best.items():
        *parents, last = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value.item() if hasattr(value, "item") else value
    folder = sweep_dir / "setting"
    folder.mkdir(exist_ok=True)
    text = "# @package _global_\n" + yaml.safe_dump(nested, sort_keys=False)
    write_atomically(folder / "best.yaml", text)
    print(f"the best setting is {folder / 'best.yaml'}: --config-dir {sweep_dir} setting=best")

"""The results of a sweep as one table, rebuilt at any time from the `result.json` of each run."""

from pathlib import Path
from typing import Any

import pandas as pd

from mupl.analysis.transfer import differing_columns
from mupl.errors import ConfigError
from mupl.identity import (
    IDENTITY,
    OUTCOMES,
    SETTINGS,
    differences,
    is_folder_of,
    read_results,
    setting,
)

NOT_COLUMNS = ("job", "config", "choices", "provenance")  # entries of a result.json


def collect(sweep_dir: Path) -> pd.DataFrame:
    """Return a row for each job with a result in a folder of `sweep_dir`, sorted by what differs.

    Columns: `IDENTITY`, `SETTINGS`, every other key that the command of any of the jobs set, and
    `OUTCOMES`. Where one job set a key and another did not, the other's value is the one in its
    config. Copies of jobs' folders and jobs of other sweeps are left out, with a line that names
    them. Another line says if rows come from different versions of code, data or packages.

    Raises:
        ConfigError: if there is no result.
    """
    results = _without_strays(read_results(sweep_dir))
    if not results:
        raise ConfigError(f"{sweep_dir}: no job left a result")
    different = differences([result.get("provenance") for result in results])
    if different:
        print(f"warning: rows come from different versions: {', '.join(different)}", flush=True)
    keys = _keys(results)
    rows = [_row(result, keys) for result in results]
    table = pd.DataFrame(rows, columns=[*keys, *OUTCOMES])
    for name, column in table.items():
        if column.map(_is_container).any():
            table[name] = column.map(str)  # one width a layer, or roles: they have no hash
    return _sorted(table)


def _without_strays(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out results whose folders are not the ones that their jobs wrote to.

    The name of a job's folder ends with digits of its id, unless `hydra.sweep.subdir` says
    otherwise. If no folder is named so, each job counts once, by its first folder.
    """
    named_by_id = any(_is_own(result) for result in results)
    kept = []
    strays = []
    seen = set()
    for result in results:
        job = result.get("job", result["folder"])
        is_stray = job in seen or (named_by_id and not _is_own(result))
        seen.add(job)
        if is_stray:
            strays.append(f"{result['folder']} (of job {job})")
        else:
            kept.append(result)
    if strays:
        print(f"left out, as copies or jobs of another sweep: {', '.join(strays)}")
    return kept


def _is_own(result: dict[str, Any]) -> bool:
    return is_folder_of(result["folder"], result.get("job", ""))


def _keys(results: list[dict[str, Any]]) -> list[str]:
    keys = [*IDENTITY, *SETTINGS]
    for result in results:
        for key in result:
            if key not in (*keys, *OUTCOMES, *NOT_COLUMNS):
                keys.append(key)
    return keys


def _row(result: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Return a run's outcome, and its settings of `keys`, also where only its config has them."""
    config = result.get("config", {})
    choices = result.get("choices", {})
    row = {key: setting(key, config, choices) for key in keys}
    for key, value in result.items():
        if key not in NOT_COLUMNS:
            row[key] = value
    return row


def _is_container(value: Any) -> bool:
    return isinstance(value, list | dict)


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    swept = [name for name in differing_columns(table) if name not in IDENTITY]
    order = ["parametrization", "optimizer", *swept, "width", "lr", "seed"]
    return table.sort_values(order, key=_sortable, kind="stable", ignore_index=True)


def _sortable(column: pd.Series) -> pd.Series:
    """Return numbers as they are, and anything else, which may be of several types, as text."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    return column.astype(str)

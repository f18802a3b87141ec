"""The results of a sweep as one table, rebuilt at any time from the `result.json` of each run."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mupl.analysis.transfer import differing_columns
from mupl.errors import ConfigError
from mupl.identity import IDENTITY, OUTCOMES, RESULT_FILE, SETTINGS, setting

NOT_COLUMNS = ("job", "config", "choices")  # entries of a result.json


def collect(sweep_dir: Path) -> pd.DataFrame:
    """Return a row for each run with a result below `sweep_dir`, sorted by what differs.

    Columns: `IDENTITY`, `SETTINGS`, every other key that the command of any of the runs set, and
    `OUTCOMES`. Where one run set a key and another did not, the other's value is that of its
    config.

    Raises:
        ConfigError: if there is no result.
    """
    results = []
    for file in sorted(sweep_dir.glob(f"*/{RESULT_FILE}")):
        results.append(json.loads(file.read_text()) | {"folder": file.parent.name})
    if not results:
        raise ConfigError(f"{sweep_dir}: no job left a result")
    keys = _keys(results)
    table = pd.DataFrame([_row(result, keys) for result in results])
    table = table.reindex(columns=[*keys, *OUTCOMES])
    for name, column in table.items():
        if column.map(lambda value: isinstance(value, list | dict)).any():
            table[name] = column.map(str)  # one width a layer, roles: they have no hash
    return _sorted(table)


def _keys(results: list[dict[str, Any]]) -> list[str]:
    keys = [*IDENTITY, *SETTINGS]
    for result in results:
        for key in result:
            if key not in (*keys, *OUTCOMES, *NOT_COLUMNS):
                keys.append(key)
    return keys


def _row(result: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    row = {name: result[name] for name in OUTCOMES if name in result}
    config = result.get("config", {})
    choices = result.get("choices", {})
    for key in keys:
        row[key] = result[key] if key in result else setting(key, config, choices)
    return row


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    swept = [name for name in differing_columns(table) if name not in IDENTITY]
    order = ["parametrization", "optimizer", *swept, "width", "lr", "seed"]
    return table.sort_values(order, key=_sortable, kind="stable", ignore_index=True)


def _sortable(column: pd.Series) -> pd.Series:
    """Return numbers as they are, and anything else, which may be of several types, as text."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    return column.astype(str)

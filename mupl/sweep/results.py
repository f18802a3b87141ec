"""The results of a sweep as one table, rebuilt at any time from the `result.json` of each run."""

import json
from pathlib import Path

import pandas as pd

from mupl.analysis.columns import IDENTITY, OUTCOMES
from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE


def collect(sweep_dir: Path) -> pd.DataFrame:
    """One row a run of all that have a result below `sweep_dir`, sorted by what tells them apart.

    Columns: width, lr, seed, parametrization, optimizer, every other key that differs between runs, and `OUTCOMES`.

    Raises:
        ConfigError: if there is none.
    """
    files = sorted(sweep_dir.glob(f"*/{RESULT_FILE}"))
    rows = [{**json.loads(file.read_text()), "folder": file.parent.name} for file in files]
    if not rows:
        raise ConfigError(f"{sweep_dir}: no job left a result")
    table = pd.DataFrame(rows).drop(columns="job", errors="ignore")
    for column in table:
        if (
            table[column].map(lambda value: isinstance(value, list | dict)).any()
        ):  # one width a layer, roles: no hash
            table[column] = table[column].map(str)
    swept = [
        c
        for c in table.columns
        if c not in (*IDENTITY, *OUTCOMES) and table[c].nunique(dropna=False) > 1
    ]
    keys = [
        c for c in ("parametrization", "optimizer", *swept, "width", "lr", "seed") if c in table
    ]

    def sortable(column: pd.Series) -> pd.Series:
        return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)

    table = table.sort_values(keys, key=sortable, kind="stable", ignore_index=True)
    return table.reindex(columns=[*IDENTITY, *swept, *OUTCOMES])

"""Results on disk: one `result.json` a run, from which the sweep's `results.csv` is rebuilt at any time."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupl.analysis.columns import IDENTITY, OUTCOMES

if TYPE_CHECKING:
    import pandas as pd

RESULT_FILE = "result.json"


def write_atomically(path: Path, text: str) -> None:
    """The file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def write_result(folder: Path, row: dict[str, Any]) -> None:
    """Write a run's row; a NaN is kept as such (JSON as Python reads it)."""
    write_atomically(folder / RESULT_FILE, json.dumps(row, indent=1, default=str))


def collect(sweep_dir: Path) -> "pd.DataFrame":
    """One row a run of all that have a result below `sweep_dir`, sorted by what tells them apart; empty if none has.

    Columns: width, lr, seed, parametrization, optimizer, every other key that differs between runs, and `OUTCOMES`.
    """
    import pandas as pd

    files = sorted(sweep_dir.glob(f"*/{RESULT_FILE}"))
    rows = [{**json.loads(file.read_text()), "folder": file.parent.name} for file in files]
    table = pd.DataFrame(rows).drop(columns="job", errors="ignore")
    for column in table:
        if table[column].map(lambda value: isinstance(value, list | dict)).any():  # one width a layer, roles: no hash
            table[column] = table[column].map(str)
    swept = [c for c in table.columns if c not in (*IDENTITY, *OUTCOMES) and table[c].nunique(dropna=False) > 1]
    if not rows:
        return table
    keys = [c for c in ("parametrization", "optimizer", *swept, "width", "lr", "seed") if c in table]

    def sortable(column: "pd.Series") -> "pd.Series":
        return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)

    table = table.sort_values(keys, key=sortable, kind="stable", ignore_index=True)
    return table.reindex(columns=[*IDENTITY, *swept, *OUTCOMES])

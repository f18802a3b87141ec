"""What lies in a folder of sweeps: what each swept, how its jobs ended, and its best job."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mupl.analysis.transfer import differing_columns
from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE, read_results, value_text
from mupl.identity.folders import label_parts
from mupl.names import as_written
from mupl.sweep.plan import PLAN_FILE
from mupl.sweep.results import tabulate

STATUSES = ("completed", "diverged", "failed", "dropped")
FEW = 3  # values of a key that are all named


def list_sweeps(folder: Path, metric: str = "val_loss") -> list[dict[str, Any]]:
    """Return a row for each sweep in a folder, or for the one whose folder it is, latest last.

    Columns: sweep (its folder), swept, how many jobs ended as each of `STATUSES`, best and date (of
    the last job that ended, or of the command where none has).

    Raises:
        ConfigError: if there is no sweep.
    """
    folders = [folder, *sorted(folder.glob("*/"))]
    dated = []
    for sweep in folders:
        files = list(sweep.glob(f"*/{RESULT_FILE}")) or list(sweep.glob(PLAN_FILE))
        if files:
            dated.append((max(file.stat().st_mtime for file in files), sweep))
    rows = []
    for ended, sweep in sorted(dated):
        row: dict[str, Any] = {"sweep": str(sweep), "swept": ""}
        row |= dict.fromkeys(STATUSES, 0)
        row["best"] = "no job has ended; see mupl status"
        if results := read_results(sweep):
            table = tabulate(results)
            row["swept"] = swept_text(table)
            row |= {status: int((table["status"] == status).sum()) for status in STATUSES}
            row["best"] = best_text(table, metric)
        row["date"] = time.strftime("%Y-%m-%d %H:%M", time.localtime(ended))
        rows.append(row)
    if not rows:
        raise ConfigError(f"{folder}: there is no sweep in it; a sweep is begun by -m")
    return rows


def swept_text(table: pd.DataFrame) -> str:
    """Say what differs among the rows of a table of results.

    >>> swept_text(pd.DataFrame({"parametrization": ["sp", "mup"] * 2, "lr": [0.1, 0.2, 0.4, 0.8]}))
    'parametrization sp, mup; lr 0.1 to 0.8 (4)'
    """
    parts = []
    for key in differing_columns(table):
        values = table[key].dropna().drop_duplicates()
        texts = [value_text(value) for value in values]
        is_number = is_numeric_dtype(values) and not is_bool_dtype(values)
        if is_number and len(values) > FEW:
            ends = f"{value_text(values.min())} to {value_text(values.max())}"
            parts.append(f"{key} {ends} ({len(values)})")
        else:
            parts.append(f"{key} {', '.join(texts)}")
    return "; ".join(parts)


def best_text(table: pd.DataFrame, metric: str) -> str:
    """Name the completed job of the least loss by what is swept; "" if there is none.

    >>> table = pd.DataFrame({"parametrization": "mup", "lr": [0.1, 0.2], "val_loss": [2.0, 1.5]})
    >>> best_text(table.assign(status="completed"), "val_loss")
    'val_loss 1.5: lr=0.2'
    """
    completed = table[(table["status"] == "completed") & table[metric].notna()]
    if completed.empty:
        return ""
    best = completed.sort_values(metric).iloc[0]
    swept = best[differing_columns(table)]
    values = dict(swept.dropna())  # without keys that only jobs of other commands have
    if "parametrization" in values:
        values["parametrization"] = as_written(values["parametrization"])
    return f"{metric} {best[metric]:.4g}: {' '.join(label_parts(values))}"

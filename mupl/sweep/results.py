"""The results of a sweep as one table, rebuilt at any time from the `result.json` of each run."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mupl.analysis.transfer import differing_columns, in_given_order
from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.identity import (
    IDENTITY,
    OUTCOMES,
    SETTINGS,
    differences,
    is_folder_of,
    read_results,
    setting,
)

COMPARED_FILE = "sweeps.json"  # of a folder that compares sweeps: name -> path from there
NOT_COLUMNS = ("job", "config", "choices", "provenance", "halving")  # entries of a result.json


def collect(sweep_dir: Path, say: Callable[[str], object] = print) -> pd.DataFrame:
    """Return a row for each job with a result in a folder of `sweep_dir` (`tabulate`).

    A folder that compares sweeps (`compare`) has the jobs of all, with the column `table` to tell
    the sweeps apart.

    Copies of jobs' folders and jobs of other sweeps are left out, with a line that names them.
    Another line says if rows come from different versions of code, data or packages.

    Args:
        sweep_dir: the folder.
        say: what to do with these lines.

    Raises:
        ConfigError: if there is no result.
    """
    results = read_jobs(sweep_dir, say)
    different = differences([result.get("provenance") for result in results])
    if different:
        say(f"warning: rows come from different versions: {', '.join(different)}")
    return tabulate(results)


def tabulate(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row for each result of a job, sorted by what differs.

    Columns: `IDENTITY`, `SETTINGS`, every other key that the command of any of the jobs set, and
    `OUTCOMES`. Where one job set a key and another did not, the other's value is the one in its
    config.
    """
    keys = _keys(results)
    rows = [_row(result, keys) for result in results]
    table = pd.DataFrame(rows, columns=[*keys, *OUTCOMES])
    for name, column in table.items():
        if column.map(_is_container).any():  # one width a layer, or roles: they have no hash
            table[name] = column.map(str).where(column.notna())
    # sweeps that are compared stay in their order
    return in_given_order(_sorted(table), list(dict.fromkeys(table.get("table", ()))))


def read_jobs(sweep_dir: Path, say: Callable[[str], object] = print) -> list[dict[str, Any]]:
    """Return what each job of a sweep, or of the sweeps that a folder compares, left.

    The entry "folder" leads to the job from `sweep_dir`.

    Raises:
        ConfigError: if there is no result.
    """
    sweeps = compared(sweep_dir)
    if not sweeps:
        results = _without_strays(read_results(sweep_dir), say)
        if not results:
            raise ConfigError(f"{sweep_dir}: no job left a result")
        return results
    found = []
    for name, sweep in sweeps.items():
        for job in read_jobs(sweep, say):
            folder = os.path.relpath(sweep / job["folder"], sweep_dir)
            found.append({"table": name, **job, "folder": folder})
    return found


def compare(sweeps: Sequence[Path], folder: Path) -> None:
    """Make a folder in which reports find the jobs of several sweeps.

    Each sweep is named by the part of its path that others do not share.

    Raises:
        ConfigError: if a sweep is given twice, or has no results.
    """
    paths = [sweep.resolve() for sweep in sweeps]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"{sweeps[0]}: a sweep cannot be compared with itself")
    for sweep in sweeps:
        if not read_results(sweep):
            raise ConfigError(f"{sweep}: no job left a result")
    shared = Path(os.path.commonpath(paths))
    names = {}
    for path in paths:
        # of a sweep that has another inside, its own name
        name = path.name if path == shared else str(path.relative_to(shared))
        names[name] = os.path.relpath(path, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / COMPARED_FILE, json.dumps(names, indent=1))


def compared(folder: Path) -> dict[str, Path]:
    """Return the sweeps that a folder compares, by name; none if it is a sweep's own."""
    file = folder / COMPARED_FILE
    if not file.exists():
        return {}
    names = json.loads(file.read_text())
    return {name: folder / path for name, path in names.items()}


def loss_unit(jobs: Iterable[Mapping[str, Any]]) -> str:
    """Return the unit of the losses of some jobs: "nats" of a cross-entropy, "" of another loss.

    >>> loss_unit([{"config": {"loss": "mupl.training.setup.cross_entropy"}}])
    'nats'
    """
    names = {str(job.get("config", {}).get("loss")).rpartition(".")[2] for job in jobs}
    return "nats" if names == {"cross_entropy"} else ""


def _without_strays(
    results: list[dict[str, Any]], say: Callable[[str], object]
) -> list[dict[str, Any]]:
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
        say(f"left out, as copies or jobs of another sweep: {', '.join(strays)}")
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

"""The parts of a page on the runs: what each tensor got, how runs ended, how configs differ."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pandas as pd

from mupl.analysis.transfer import differing_columns
from mupl.figures.style import by_rank
from mupl.names import as_written
from mupl.report.page.contents import Contents
from mupl.report.page.elements import Charts, Finding, Section, Table, cell

WORST_FIRST = ("failed", "diverged", "completed")
MOST_VALUES = 12  # of one key, in one cell
MISSING = "-"


def runs_section(contents: Contents) -> tuple[Section, list[Finding]]:
    """Return the status of every run with its error, and how many ended how."""
    results = contents.results
    counts = results["status"].value_counts()
    ends = [f"{counts[word]} {word}" for word in WORST_FIRST[::-1] if word in counts]
    text = f"{len(results)} runs: {', '.join(ends)}."
    state = ""
    if contents.planned > len(results):
        state = "warn"
        text += f" The sweep's command asks for {contents.planned}; the others have not ended."
    if "failed" in counts:
        state = "fail"
    seconds = results["seconds"].sum() if "seconds" in results else 0
    parts: list[Finding | str | Charts | Table] = []
    if seconds:
        parts.append(f"Training took {_duration(float(seconds))} in all.")
    parts.append(Table.of("Status of every run", _status(results), "failed" in counts))
    return Section("Runs", parts), [Finding(text, state)]


def _status(results: pd.DataFrame) -> pd.DataFrame:
    rank = results["status"].map({word: i for i, word in enumerate(WORST_FIRST)})
    table = results.loc[rank.sort_values(kind="stable").index]
    swept = [key for key in differing_columns(table) if key in table]
    outcome = ["steps", "train_loss", "val_loss", "val_accuracy", "seconds", "error", "folder"]
    columns = dict.fromkeys(["status", *swept, *outcome])
    there = [column for column in columns if column in table]
    known = [column for column in there if table[column].notna().any()]
    return table[known]


def _duration(seconds: float) -> str:
    """Say a time, such as "3 min 5 s"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def parametrization_section(contents: Contents) -> Section | None:
    """Return what each tensor got, in the largest run of each parametrization and optimizer."""
    results = contents.results
    if "folder" not in results:
        return None
    ordered = results.assign(order=pd.to_numeric(results["width"], errors="coerce").fillna(0))
    keys = [key for key in ("table", "parametrization", "optimizer") if key in results]
    parts: list[Finding | str | Charts | Table] = []
    for names, runs in by_rank(ordered).groupby(keys, sort=False):
        for run in runs.sort_values("order", ascending=False).to_dict("records"):
            table = contents.job_table(str(run["folder"]), "parametrization.csv")
            if table is not None:
                title = ", ".join(as_written(str(name)) for name in names)
                caption = f"{title}: width {run['width']}, learning rate {cell(run['lr'])}"
                parts.append(Table.of(caption, table))
                break
    if not parts:
        return None
    return Section("What each tensor got", [f"At the largest width of each. {LEGEND}", *parts])


LEGEND = (
    "A module computes with mult * w; w is drawn with init_std, and its optimizer has lr, eps and "
    "weight decay as given."
)


def config_section(contents: Contents) -> Section | None:
    """Return the keys in which the runs differ, and what is the same in all."""
    if not contents.jobs:
        return None
    configs = []
    for job in contents.jobs:
        given = dict(_leaves(job.get("choices", {}), ""))
        given |= dict(_leaves(job.get("config", {}), ""))
        configs.append({key: text for key, text in given.items() if not _is_copy(key)})
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = []
    common = []
    for key in keys:
        values = list(dict.fromkeys(config.get(key, MISSING) for config in configs))
        if len(values) == 1:
            common.append([key, values[0]])
        else:
            differing.append([key, _listed(values), str(len(values))])
    parts: list[Finding | str | Charts | Table] = []
    if differing:
        columns = ["key", "values", "how many"]
        parts.append(Table("Keys that differ between runs", columns, differing, is_open=True))
    parts.append(Table("Keys that are the same in all runs", ["key", "value"], common))
    return Section("Configuration", parts)


def _is_copy(key: str) -> bool:
    """Return whether a key repeats others, as the columns that recorders write do."""
    return key.startswith("callbacks.coordinates.columns.")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the text of each entry of a config."""
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _leaves(entry, f"{key}.{name}" if key else str(name))
    else:
        yield key, str(value)


def _listed(values: list[str]) -> str:
    with suppress(ValueError):
        values = sorted(values, key=float)
    shown = ", ".join(values[:MOST_VALUES])
    rest = len(values) - MOST_VALUES
    return f"{shown} and {rest} more" if rest > 0 else shown


def made_by_section(contents: Contents) -> Section | None:
    """Return the commands, and the versions of code, packages and machine."""
    if not contents.jobs:
        return None
    rows: list[list[str]] = [["command", command] for command in contents.commands]
    versions: dict[str, dict[str, None]] = {}
    for job in contents.jobs:
        made_by = job.get("provenance") or {}
        entries = {**made_by.get("versions", {}), **made_by.get("packages", {})}
        entries["commit of mupl"] = made_by.get("commit")
        entries["accelerator"] = made_by.get("accelerator")
        for name, value in entries.items():
            if value:
                versions.setdefault(name, {})[str(value)] = None
    for name, values in versions.items():
        rows.append([name, ", ".join(values)])
    table = Table("Command and versions", ["what", "which"], rows, is_open=True)
    return Section("How it was made", [table])

"""The file that says that a job is done: written last, checked when it is read."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mupl.errors import ConfigError, enumerated
from mupl.files import DAMAGED, delete_stale_partials, set_aside, write_atomically
from mupl.identity.provenance import changes

RESULT_FILE = "result.json"  # in the folder of each job
STATES = "states"  # the folder of stacks' checkpoints, beside the folders of jobs
RERUN = ("missing", "failed", "changed", "keep", "all")

STATUSES = ("completed", "diverged", "dropped", "failed")
LOSSES = ("train_loss", "val_loss", "val_accuracy")  # null stands for NaN
# JSON has no words for these: a result holds null and texts, which any program can read
NOT_FINITE = {"NaN": None, "Infinity": "Infinity", "-Infinity": "-Infinity"}
SHOWN_PARTS = 4  # of those that changed, in one line


def write_result(folder: Path, row: Mapping[str, Any]) -> None:
    """Write a job's row, which marks it as done, and make its folder."""
    text = json.dumps(row, default=str)
    content = json.loads(text, parse_constant=NOT_FINITE.get)
    content["checksum"] = _checksum(content)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESULT_FILE, json.dumps(content, indent=1, allow_nan=False))


def read_result(file: Path) -> dict[str, Any] | None:
    """Return the row in a result's file; None if there is no file, or it is damaged.

    A damaged file is said in one line and set aside, so that the job runs again.
    """
    if not file.exists():
        return None
    try:
        row = _parse(file)
    except (IsADirectoryError, ValueError, RecursionError) as error:
        set_aside(file, str(error), "the same command runs the job again")
        return None
    row.pop("checksum", None)
    return row


def read_results(sweep_dir: Path) -> list[dict[str, Any]]:
    """Return the row of each job below a sweep's folder, with its "folder", in their order.

    Damaged results are no rows: each is said in one line.
    """
    for file in sorted(sweep_dir.glob(f"*/{RESULT_FILE}{DAMAGED}*")):
        if not file.with_name(RESULT_FILE).exists():
            text = f"warning: {file} is damaged and was set aside; the same command runs its job"
            print(text, file=sys.stderr, flush=True)
    rows = []
    for file in sorted(sweep_dir.glob(f"*/{RESULT_FILE}")):
        row = read_result(file)
        if row is not None:
            rows.append(row | {"folder": file.parent.name})
    return rows


def finished(folder: Path, job: str, rerun: str | None = None) -> dict[str, Any] | None:
    """Return the row that a job left earlier, or None if the job is to run (`finished_jobs`)."""
    return finished_jobs([(folder, job, rerun)])[0]


def finished_jobs(
    jobs: Iterable[tuple[Path, str, str | None]], halving: Mapping[str, Any] | None = None
) -> list[dict[str, Any] | None]:
    """Return the row that each job left earlier, or None if the job is to run.

    Args:
        jobs: for each job its folder, its id, and which jobs run again: missing (those without a
            result, and failed ones whose code, data or packages are others now), failed (all that
            failed too), changed (those whose code, data or packages are others now), keep (those
            without a result, whatever changed) or all. None takes results as they are. A result of
            another job, which the folder may hold if its name does not follow from the id, does not
            count.
        halving: of the sweep (`mupl.tuning.halving.Halving.plain`). A job that was dropped by
            another one, or where there is none, is to run, unless results are taken as they are.

    Raises:
        ConfigError: on another word, or, where missing jobs are to run, if what results were made
            by has changed.
    """
    rows: list[dict[str, Any] | None] = []
    refused: list[list[str]] = []
    again: list[list[str]] = []
    for folder, job, rerun in jobs:
        if rerun not in (None, *RERUN):
            raise ConfigError(f"rerun={rerun}: must be one of {', '.join(RERUN)}")
        row = read_result(folder / RESULT_FILE)
        if row is not None and row["job"] != job:
            row = None
        if row is not None and rerun is not None and row["status"] == "dropped":
            row = row if row.get("halving") == halving else None
        changed = []
        if row is not None and rerun is not None:
            changed = changes(row.get("provenance"))
            if _runs_again(row, changed, rerun):
                if rerun == "missing":
                    again.append(changed)
                row = None
        if row is None:
            delete_stale_partials(folder)
        elif changed and rerun == "missing":
            refused.append(changed)
        elif changed:
            _say_once(f"results of another version of {listed([changed])} are kept")
        rows.append(row)
    if refused:
        raise ConfigError(_refusal(refused, len(rows)))
    if again:
        _say_once(f"jobs that failed with another version of {listed(again)} are trained anew")
    return rows


def _runs_again(row: Mapping[str, Any], changed: list[str], rerun: str) -> bool:
    """Return whether a job that left this row is to run again."""
    failed = row["status"] == "failed"
    if rerun == "missing":  # there is no result to lose, and what changed may be what was wrong
        return failed and bool(changed)
    if rerun == "failed":
        return failed
    return rerun == "all" or (rerun == "changed" and bool(changed))


def _refusal(refused: list[list[str]], total: int) -> str:
    jobs = f"{len(refused)} of {total} jobs were" if total > 1 else "this job was"
    return (
        f"{jobs} done before with another version of {listed(refused)}: say rerun=changed to "
        "train what changed anew, or rerun=keep to keep the results"
    )


def listed(changed: list[list[str]]) -> str:
    """Name the parts that changed, the most frequent first."""
    counts: Counter[str] = Counter()
    for parts in changed:
        counts.update(parts)
    names = [part for part, _ in counts.most_common()]
    if len(names) > SHOWN_PARTS:
        names[SHOWN_PARTS:] = [f"{len(names) - SHOWN_PARTS} more"]
    return enumerated(names)


@cache
def _say_once(text: str) -> None:
    """Print a line once in a process, as the jobs of a sweep all say the same."""
    print(text, flush=True)


def _parse(file: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        ValueError: saying why it is damaged.
    """
    content = json.loads(file.read_bytes(), parse_constant=NOT_FINITE.get)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    if "checksum" not in content:
        content.pop("provenance", None)  # of an earlier version, which recorded neither
    elif content["checksum"] != _checksum(content):
        raise ValueError("its checksum does not fit its content")
    _check(content)
    row = {}
    for key, value in content.items():
        if value in ("Infinity", "-Infinity"):
            value = float(value)
        elif value is None and key in LOSSES:
            value = float("nan")
        row[key] = value
    return row


def _check(content: Mapping[str, Any]) -> None:
    """Check that a row holds what a job leaves.

    Raises:
        ValueError: naming the entry that cannot be.
    """
    status = content.get("status")
    if status not in STATUSES:
        raise ValueError(f"status={status}")
    texts = ["job", "error"] if status == "failed" else ["job"]
    for key in texts:
        if not isinstance(content.get(key), str):
            raise ValueError(f"{key}={content.get(key)}")
    if status == "failed":
        return
    steps = content.get("steps")
    if type(steps) is not int or steps < 0:
        raise ValueError(f"steps={steps}")
    for key in LOSSES:
        value = content.get(key)
        # a run without validation completes without the losses of one
        is_needed = key == "train_loss" and status == "completed"
        is_number = type(value) in (int, float) or value in ("Infinity", "-Infinity")
        if not is_number and (is_needed or value is not None):
            raise ValueError(f"{key}={value}")


def _checksum(content: Mapping[str, Any]) -> str:
    """Return a digest of a row but for its checksum, whatever the order of its entries."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Writing files that are there whole or not at all."""

import csv
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under another name in the same folder, and rename it once it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, str):
        content = content.encode()
    partial.write_bytes(content)
    partial.replace(path)


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write plain rows as a table, empty where a row lacks a column.

    Tables that are pandas frames already are written by `DataFrame.to_csv`; this is for processes
    that do without the import of pandas.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def set_aside(path: Path, why: str) -> None:
    """Rename a file (or folder) that is of no use, so that it can be looked at, and say so."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    print(f"warning: {path} {why}; it is kept as {aside.name}", file=sys.stderr, flush=True)

"""Writing files that are there whole or not at all."""

import csv
import io
import os
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

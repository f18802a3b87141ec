"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_table(rows: Sequence[Mapping[Any, Any]], title: str) -> None:
    """To the terminal, or whole into a file, where rich would assume 80 columns and cut cells off."""
    Console(width=None if Console().is_terminal else 200).print(rich_table(rows, title))


def rich_table(rows: Sequence[Mapping[Any, Any]], title: str) -> Table:
    """Rows of equal keys as a table for the terminal, numbers to four digits."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, value in rows[0].items():
        table.add_column(
            str(key), justify="left" if isinstance(value, str) else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return table

"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 200  # columns; rich would assume 80 where stdout is a file, and cut cells off


def print_table(rows: Sequence[Mapping[Any, Any]], title: str) -> None:
    """Print rows of equal keys as a table, as wide as the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    # Not as the table's own title, which rich would wrap where the table is narrow
    console.print(title, style="italic", highlight=False)
    console.print(rich_table(rows))


def rich_table(rows: Sequence[Mapping[Any, Any]]) -> Table:
    """Lay out rows of equal keys: texts on the left, numbers on the right with four digits."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, value in rows[0].items():
        side: Any = "left" if isinstance(value, str) else "right"
        table.add_column(str(key), justify=side, no_wrap=True)
    for row in rows:
        cells = [_cell(value) for value in row.values()]
        table.add_row(*cells)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)

"""Tables on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from mupl.plain_table import cell

FILE_WIDTH = 200  # columns; rich would assume 80 where stdout is a file, and cut cells off
WIDE = Console(width=10**4)  # on which tables have the width that they need


Rows = Sequence[Mapping[Any, Any]]


def print_table(rows: Rows, title: str) -> None:
    """Print rows of equal keys as a table, or as several if the terminal is too narrow for one."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    # Not as the table's own title, which rich would wrap where the table is narrow
    console.print(title, style="italic", highlight=False)
    for columns in fitting_columns(rows, console.width):
        part = [{key: row[key] for key in columns} for row in rows]
        console.print(rich_table(part))


def fitting_columns(rows: Rows, width: int) -> list[list[Any]]:
    """Divide the columns into tables of at most `width` signs, which all begin with the first one.

    Example:
        >>> fitting_columns([{"name": "weight", "shape": "64x64", "lr": 0.1}], width=18)
        [['name', 'shape'], ['name', 'lr']]
    """
    first, *others = rows[0]
    tables = [[first]]
    for key in others:
        columns = [*tables[-1], key]
        part = [{name: row[name] for name in columns} for row in rows]
        needed = Measurement.get(WIDE, WIDE.options, rich_table(part)).maximum
        if needed > width and len(columns) > 2:
            tables.append([first, key])
        else:
            tables[-1] = columns
    return tables


def rich_table(rows: Rows) -> Table:
    """Lay out rows of equal keys: texts on the left, numbers on the right with four digits."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, value in rows[0].items():
        side: Any = "left" if isinstance(value, str) else "right"
        table.add_column(str(key), justify=side, no_wrap=True)
    for row in rows:
        cells = [cell(value) for value in row.values()]
        table.add_row(*cells)
    return table

"""What a page is made of: plain values, which the template turns into HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

DIGITS = 4  # of numbers in tables and hover boxes


@dataclass(frozen=True)
class Finding:
    """One thing that a sweep shows.

    Args:
        text: a sentence, or a few.
        state: "pass", "fail", "warn" or "" (a statement that is neither good nor bad). The page
            says it as a word and a sign, not by a colour alone.
    """

    text: str
    state: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts and numbers.

    Args:
        caption: what its rows are.
        columns: the heads.
        rows: of as many cells.
        is_open: whether it is shown at once; else behind its caption.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_open: bool = False

    @classmethod
    def of(cls, caption: str, table: pd.DataFrame, is_open: bool = False) -> "Table":
        """Format a frame: numbers to four digits, and nothing where a value is missing.

        >>> Table.of("runs", pd.DataFrame({"lr": [0.12345678], "seed": [0]})).rows
        [['0.1235', '0']]
        """
        rows = [[cell(value) for value in row] for row in table.itertuples(index=False)]
        return cls(caption, [str(column) for column in table], rows, is_open)


@dataclass(frozen=True)
class Panel:
    """One chart.

    Args:
        title: above it.
        spec: of Vega-Lite.
        description: what it shows, for readers who do not see it.
    """

    title: str
    spec: Mapping[str, Any]
    description: str


@dataclass(frozen=True)
class Charts:
    """Charts side by side, with one legend whose entries switch series on and off.

    Args:
        caption: how to read them.
        panels: the charts.
        series: names in the order of their colours; fewer than two have no legend.
        legend: what the series are, such as "width".
        hidden: the series that are off at first.
        choices: values of the signal `choice`, such as the steps of a coordinate check.
        choice: what is chosen, such as "after update"; "" if there is nothing to choose.
        table: the numbers that the charts show.
        columns: how many charts belong side by side, where there is room.
    """

    caption: str
    panels: Sequence[Panel]
    series: Sequence[str] = ()
    legend: str = ""
    hidden: Sequence[str] = ()
    choices: Sequence[int] = ()
    choice: str = ""
    table: Table | None = None
    columns: int = 2


@dataclass(frozen=True)
class Section:
    """A part of the page, with a heading.

    Args:
        title: the heading.
        parts: findings, sentences, charts and tables, in their order.
    """

    title: str
    parts: Sequence[Finding | str | Charts | Table] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Return the name that links to this section use."""
        return self.title.lower().replace(" ", "-")


def cell(value: Any) -> str:
    """Format the value of a cell.

    >>> cell(0.000123456), cell(None), cell(True), cell(128.0)
    ('0.0001235', '', 'yes', '128')
    """
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if value != value else f"{value:.{DIGITS}g}"
    return str(value)

"""The numbers of a figure beside those that are expected."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

import pandas as pd

from mupl.errors import ConfigError
from mupl.reproduce.entries import Expectation

NAN = float("nan")


def compare(expected: Sequence[Expectation], numbers: pd.DataFrame) -> pd.DataFrame:
    """Measure each expectation.

    A number that is unknown, or whose rows are missing, does not pass. One that follows from an
    optimum at the edge of the grid is known up to a bound at best (`mupl.analysis.edges`). It
    passes if all values that it may have are in the range: a drift of -0.8 or less is at most -0.5,
    but it need not be -1.3 to -0.5.

    Args:
        expected: what must be.
        numbers: of a view. Beside a column NAME, NAME_least and NAME_most say between which values
            the number lies; without them, it is unknown where the column edges names a size.

    Returns:
        One row an expectation: says, measured, known ("", "or less", "or more" or "not known"),
        range, passes, and edges (sizes).

    >>> numbers = pd.DataFrame({"parametrization": ["sp", "mup"], "drift": [-1.0, 0.1]})
    >>> stays = Expectation("stays", "drift", "parametrization == 'mup'", low=-0.3, high=0.3)
    >>> compare([stays], numbers)
        says  measured known        range  passes edges
    0  stays       0.1        -0.3 to 0.3    True
    """
    rows = []
    for expectation in expected:
        number = _number(expectation, numbers, expectation.where)
        if expectation.minus:
            number = number.minus(_number(expectation, numbers, expectation.minus))
        passes = expectation.low <= number.least and number.most <= expectation.high
        row = (number.measured, number.known(), range_of(expectation), passes, number.edges)
        rows.append((expectation.says, *row))
    return pd.DataFrame(rows, columns=["says", "measured", "known", "range", "passes", "edges"])


@dataclass(frozen=True)
class Number:
    """A number as it was measured, and the least and the most that it may be; NaN: unknown.

    Args:
        measured, least, most: see above.
        edges: sizes whose optimum is at the edge of the grid.
    """

    measured: float
    least: float
    most: float
    edges: str = ""

    def minus(self, other: "Number") -> "Number":
        """Subtract another number.

        >>> Number(1.0, 1.0, float("inf"), "8").minus(Number(3.0, 3.0, 3.0))
        Number(measured=-2.0, least=-2.0, most=inf, edges='8')
        """
        return Number(
            self.measured - other.measured,
            self.least - other.most,
            self.most - other.least,
            ", ".join(filter(None, [self.edges, other.edges])),
        )

    def known(self) -> str:
        """Say what is known of it, if it is not known as it was measured.

        >>> Number(-0.8, float("-inf"), -0.8, "512").known(), Number(0.1, 0.1, 0.1).known()
        ('or less', '')
        """
        if self.least == self.most or not self.edges:
            return ""
        if isclose(self.most, self.measured):
            return "or less"
        return "or more" if isclose(self.least, self.measured) else "not known"


def _number(expectation: Expectation, numbers: pd.DataFrame, where: str) -> Number:
    """Return the number of the rows that are meant; NaN where there are none."""
    column = expectation.number
    try:
        rows = numbers.query(where)
        measured = _as_one(rows[column], expectation.of)
        edges = ", ".join(filter(None, rows.get("edges", ())))
        if edges and f"{column}_least" not in rows:
            return Number(measured, NAN, NAN, edges)
        ends = [rows.get(f"{column}_{end}", rows[column]) for end in ("least", "most")]
        least, most = (_as_one(end, expectation.of) for end in ends)
    except Exception as error:  # of many kinds, by what is wrong
        text = " ".join(str(error).split())
        raise ConfigError(f"expect: {column} where {where!r}: {text}") from error
    return Number(measured, least, most, edges)


def _as_one(values: pd.Series, of: str) -> float:
    """Make one number of several; NaN where there are none."""
    if values.empty:
        return NAN
    if of:
        return float(getattr(values, of)())
    if len(values) > 1:
        raise ConfigError(f"{len(values)} rows; say of: max, min, mean or sum")
    return float(values.iloc[0])


def range_of(expectation: Expectation) -> str:
    """Write the range in which a number must lie.

    >>> range_of(Expectation("", "drift", "", high=0.3)), range_of(Expectation("", "n", "", low=1))
    ('at most 0.3', 'at least 1')
    """
    low = expectation.low
    high = expectation.high
    if low == high:
        return f"{low:g}"
    if low == float("-inf"):
        return f"at most {high:g}"
    return f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"

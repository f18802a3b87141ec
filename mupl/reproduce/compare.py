"""The numbers of a figure beside those that are expected."""

from collections.abc import Sequence

import pandas as pd

from mupl.errors import ConfigError
from mupl.reproduce.entries import Expectation


def compare(expected: Sequence[Expectation], numbers: pd.DataFrame) -> pd.DataFrame:
    """Measure each expectation.

    Args:
        expected: what must be.
        numbers: of a view.

    Returns:
        One row an expectation: says, measured, range, and passes. A number that is unknown, or
        whose rows are missing, does not pass.

    >>> numbers = pd.DataFrame({"parametrization": ["sp", "mup"], "drift": [-1.0, 0.1]})
    >>> stays = Expectation("stays", "drift", "parametrization == 'mup'", low=-0.3, high=0.3)
    >>> compare([stays], numbers)
        says  measured        range  passes
    0  stays       0.1  -0.3 to 0.3    True
    """
    rows = []
    for expectation in expected:
        measured = _number(expectation, numbers, expectation.where)
        if expectation.minus:
            measured -= _number(expectation, numbers, expectation.minus)
        passes = expectation.low <= measured <= expectation.high
        rows.append((expectation.says, measured, range_of(expectation), passes))
    return pd.DataFrame(rows, columns=["says", "measured", "range", "passes"])


def _number(expectation: Expectation, numbers: pd.DataFrame, where: str) -> float:
    """Return the number of the rows that are meant, or NaN where there are none."""
    column = expectation.number
    try:
        chosen = numbers.query(where)[column]
    except Exception as error:  # of many kinds, by what is wrong
        text = " ".join(str(error).split())
        raise ConfigError(f"expect: {column} where {where!r}: {text}") from error
    if chosen.empty:
        return float("nan")
    if expectation.of:
        return float(getattr(chosen, expectation.of)())
    if len(chosen) > 1:
        raise ConfigError(
            f"expect: {column} where {where!r}: {len(chosen)} rows; say of: max, min, mean or sum"
        )
    return float(chosen.iloc[0])


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

"""Unit scaling, from the rows that recorders wrote to a verdict on each tensor."""

import numpy as np
import pandas as pd

BAND = (0.5, 2.0)  # of RMS over what is expected


def verdict(rows: pd.DataFrame) -> pd.DataFrame:
    """The RMS of each tensor before the first update beside what it must be, and whether it passes.

    That is 1, but for logits: width^-1/2, as a readout's forward multiplier is 1 / fan_in (of trained weights, which
    are no longer independent of what they multiply, the sum grows as fan_in).

    Returns:
        `rows` of statistic "rms" at t = 0, with `rms` for value, `expected`, and `passed`: rms / expected in `BAND`.
    """
    table = rows[(rows["statistic"] == "rms") & (rows["t"] == 0)].rename(columns={"value": "rms"})
    is_logits = (table["kind"] == "output") & (table["name"] == "readout")
    expected = np.where(is_logits, table["width"] ** -0.5, 1.0)
    passed: pd.Series = (table["rms"] / expected).between(*BAND)
    return (
        table.drop(columns=["statistic", "t"])
        .assign(expected=expected, passed=passed)
        .reset_index(drop=True)
    )

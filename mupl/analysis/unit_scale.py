"""Unit scaling, from the rows that recorders wrote to a verdict on each tensor."""

import numpy as np
import pandas as pd

BAND = (0.5, 2.0)  # of RMS over what is expected


def unit_scale_verdict(rows: pd.DataFrame) -> pd.DataFrame:
    """Judge the RMS of each tensor before the first update by what it must be.

    It must be 1, but for logits width^-1/2, as a readout's forward multiplier is 1 / fan_in: once
    weights are trained and no longer independent of what they multiply, the sum grows as fan_in.

    Args:
        rows: of recorders, with columns width, t, kind, name, statistic, value; any further columns
            are kept.

    Returns:
        The rows of statistic "rms" at t = 0, with `rms` for value, `expected`, and `passed`:
        whether rms / expected lies in `BAND`.

    >>> rows = pd.DataFrame({"name": ["up", "readout"], "value": [1.1, 1.0]})
    >>> rows = rows.assign(width=64, t=0, kind="output", statistic="rms")
    >>> unit_scale_verdict(rows)[["name", "rms", "expected", "passed"]]
          name  rms  expected  passed
    0       up  1.1     1.000    True
    1  readout  1.0     0.125   False
    """
    is_rms = rows["statistic"] == "rms"
    at_start = rows["t"] == 0
    table = rows[is_rms & at_start].reset_index(drop=True)
    table = table.drop(columns=["statistic", "t"])
    table = table.rename(columns={"value": "rms"})
    is_output = table["kind"] == "output"
    is_logits = is_output & (table["name"] == "readout")
    of_logits = table["width"] ** -0.5
    table["expected"] = np.where(is_logits, of_logits, 1.0)
    ratio: pd.Series = table["rms"] / table["expected"]
    table["passed"] = ratio.between(*BAND)
    return table

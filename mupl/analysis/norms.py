"""Which norm of a weight's update tells how far it moves the activations?"""

import numpy as np
import pandas as pd

NORMS = ("frobenius", "spectral", "rms_to_rms")


def update_norms(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a layer: the norms of its weight's first update and the RMS of the change of its output.

    Args:
        rows: a recorder's rows of one step, kinds `update` and `output_update`, with any further columns (say of the
            sweep), which are kept.

    Returns:
        Columns: the further columns, layer, `NORMS`, activation_change.
    """
    measured = ["t", "kind", "name", "statistic", "value"]
    keys = [column for column in rows.columns if column not in measured]
    rows = rows.assign(layer=rows["name"].str.removesuffix(".weight"))
    weights = rows[(rows["kind"] == "update") & rows["statistic"].isin(NORMS)]
    outputs = rows[(rows["kind"] == "output_update") & (rows["statistic"] == "rms")]
    index = [*keys, "layer"]
    norms = weights.pivot_table("value", index, "statistic", sort=False)
    change = outputs.set_index(index)["value"].rename("activation_change")
    return norms.join(change).reset_index()[[*index, *NORMS, "activation_change"]]


def correlations(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Pearson correlation over layers of log(norm) with log(activation change): a row a value of `by`, and `all`."""
    logs = table[[*NORMS, "activation_change"]].apply(np.log)
    groups = {
        str(key): logs.loc[index] for key, index in table.groupby(by, sort=False).groups.items()
    } | {"all": logs}
    rows = [
        {by: key, **group[list(NORMS)].corrwith(group["activation_change"])}
        for key, group in groups.items()
    ]
    return pd.DataFrame(rows)

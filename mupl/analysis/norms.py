"""Which norm of a weight's update tells how far it moves the activations?"""

import numpy as np
import pandas as pd

NORMS = ("frobenius", "spectral", "rms_to_rms")
_MEASURED = ("t", "kind", "name", "statistic", "value")


def update_norms(rows: pd.DataFrame) -> pd.DataFrame:
    """Tabulate, for each layer, the norms of its update and the RMS of the change of its output.

    Args:
        rows: a recorder's rows of one step, kinds `update` and `output_update`, with any further
            columns (say of the sweep), which are kept.

    Returns:
        One row a layer. Columns: the further columns, layer, `NORMS`, activation_change.
    """
    keys = [column for column in rows.columns if column not in _MEASURED]
    keys.append("layer")
    layers = rows["name"].str.removesuffix(".weight")
    rows = rows.assign(layer=layers)
    statistic = rows["statistic"]
    of_update = rows["kind"] == "update"
    of_output = rows["kind"] == "output_update"
    norms = rows[of_update & statistic.isin(NORMS)]
    norms = norms.pivot_table("value", keys, "statistic", sort=False)
    changes = rows[of_output & (statistic == "rms")]
    change = changes.set_index(keys)["value"]
    table = norms.join(change.rename("activation_change"))
    columns = [*keys, *NORMS, "activation_change"]
    return table.reset_index()[columns]


def correlations(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Correlate log(norm) with log(activation change) over layers, for each norm.

    Args:
        table: what `update_norms` returned.
        by: the column whose values are looked at one by one, such as "parametrization".

    Returns:
        Pearson's coefficients: a row for each value of `by` and one for "all", a column a norm.

    >>> table = pd.DataFrame({"optimizer": "adam", "activation_change": [1.0, 2.0, 4.0]})
    >>> table = table.assign(frobenius=[1.0, 2.0, 4.0], spectral=[4.0, 2.0, 1.0])
    >>> found = correlations(table.assign(rms_to_rms=[1.0, 4.0, 16.0]), by="optimizer").round(2)
    >>> print(found.to_string(index=False))
    optimizer  frobenius  spectral  rms_to_rms
         adam        1.0      -1.0         1.0
          all        1.0      -1.0         1.0
    """
    measured = table[[*NORMS, "activation_change"]]
    logs = measured.apply(np.log)
    groups = {}
    for key, group in logs.groupby(table[by], sort=False):
        groups[str(key)] = group
    groups["all"] = logs
    rows = []
    for key, group in groups.items():
        norms = group[list(NORMS)]
        change = group["activation_change"]
        coefficients = norms.corrwith(change)
        rows.append({by: key, **coefficients})
    return pd.DataFrame(rows)

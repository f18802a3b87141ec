"""What all figures share: names as people write them, units, and lines that are not too many."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mupl.names import AS_WRITTEN, as_written

NAMED = ("parametrization", "optimizer")  # columns whose values have names that people write
MOST_LINES = 10  # in one panel: more are not told apart


def with_written_names(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with parametrizations and optimizers as people write them.

    >>> with_written_names(pd.DataFrame({"parametrization": ["sp", "mup"], "width": 64}))
      parametrization  width
    0              SP     64
    1             muP     64
    """
    named = {key: table[key].map(str).map(as_written) for key in NAMED if key in table}
    return table.assign(**named)


def by_rank(table: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by parametrization, in the order of `mupl.names.AS_WRITTEN`: SP before muP.

    Those that have no name there, such as the stages of an ablation, come first in their own order.

    >>> by_rank(pd.DataFrame({"parametrization": ["mup", "sp"]}))["parametrization"].tolist()
    ['sp', 'mup']
    """
    if "parametrization" not in table:
        return table
    ranks = {name: rank for rank, name in enumerate(AS_WRITTEN)}
    of_rows = table["parametrization"].map(lambda name: ranks.get(name, -1))
    return table.loc[of_rows.sort_values(kind="stable").index]


def with_unit(name: str, unit: str = "") -> str:
    """Label an axis.

    >>> with_unit("val_loss", "nats"), with_unit("loss")
    ('validation loss (nats)', 'loss')
    """
    label = as_written(name)
    if label == name:
        label = name.replace("_", " ")
    return f"{label} ({unit})" if unit else label


def is_by_octaves(values: ArrayLike) -> bool:
    """Say whether positive values are powers of 2, of its root or of its fourth root.

    >>> is_by_octaves([0.25, 0.353553, 0.5]), is_by_octaves([0.1, 0.2, 0.3])
    (True, False)
    """
    quarters = 4 * np.log2(values)
    return bool(np.allclose(quarters, quarters.round(), rtol=0, atol=1e-3))


def chosen_lines(names: Sequence[str], first: Sequence[str] = ()) -> list[str]:
    """Choose the lines that a panel shows, in their order, where there are too many.

    Args:
        names: of all lines.
        first: those that matter most, such as layers that fail. The rest are taken at even
            distances.

    >>> chosen_lines(["a", "b"])
    ['a', 'b']
    >>> chosen_lines([str(i) for i in range(30)], first=["7"])
    ['0', '4', '7', '8', '11', '15', '19', '22', '25', '29']
    """
    if len(names) <= MOST_LINES:
        return list(names)
    kept = [name for name in names if name in first][:MOST_LINES]
    rest = [name for name in names if name not in first]
    room = MOST_LINES - len(kept)
    for i in range(room):
        kept.append(rest[round(i * (len(rest) - 1) / max(room - 1, 1))])
    return [name for name in names if name in kept]

"""What the columns of a table of transfer mean: said once, for pages, the terminal and rounding."""

from collections.abc import Iterable
from dataclasses import dataclass

from mupl.analysis.transfer import SIZES, hyperparameter_name

OCTAVES = "octaves"
LOSS = "loss"
TEXT = "text"


@dataclass(frozen=True)
class Column:
    """What a column means, and how it is written.

    Args:
        title: its name where there is room for one.
        meaning: what it is, with "{x}" for the hyperparameter and "{size}" for the size.
        kind: octaves (and other plain numbers), a difference or value of losses, or a text.
        unknown: what is said in its place if no value is known.
    """

    title: str
    meaning: str
    kind: str = OCTAVES
    unknown: str = ""

    def means(self, x: str, size: str) -> str:
        """Say what it is.

        >>> COLUMNS["drift"].means("lr", "width").partition(";")[0]
        'octaves (factors of 2) by which the best learning rate rises when width doubles'
        """
        return self.meaning.format(x=hyperparameter_name(x), size=SIZES.get(size, size))


# NAME_interval stands for the columns NAME_low and NAME_high
COLUMNS = {
    "drift": Column(
        "drift (octaves a doubling)",
        "octaves (factors of 2) by which the best {x} rises when {size} doubles; 0 transfers",
    ),
    "drift_interval": Column(
        "95 % over seeds",
        "a t-interval of the drift, from the drifts without each seed (jackknife)",
        unknown="too few seeds for an interval",
    ),
    "scatter_interval": Column(
        "95 % over sizes",
        "a t-interval of the drift, from the scatter of the optima about a line",
        unknown="fewer than three sizes: no interval by the scatter over sizes",
    ),
    "worst_regret": Column(
        "worst regret",
        "the largest loss that the best {x} of the smallest {size} costs at a larger one",
        LOSS,
    ),
    "grid_regret": Column(
        "worst regret of tried values",
        "the same of values that were tried, without the parabola between them",
        LOSS,
        "grids differ with size: no regret of values that were tried",
    ),
    "fit_error": Column(
        "fit error (octaves)",
        "RMS distance of the optima from the line whose slope is the drift",
    ),
    "robustness": Column(
        "robustness",
        "power of {size} by which the cost of an error in the {x} grows; below 0 larger models "
        "forgive more",
        unknown="fewer than two optima between finite losses: no robustness",
    ),
    "asymptotic_loss": Column(
        "asymptotic loss",
        "what the best losses fall to as {size} grows, if they follow a power law",
        LOSS,
        "fewer than four sizes: no asymptotic loss",
    ),
    "asymptotic_penalty": Column(
        "asymptotic penalty",
        "the asymptotic loss over the least one among the parametrizations",
        LOSS,
    ),
    "norm_drift": Column(
        "drift of the readout's norm",
        "octaves by which the readout's RMS to infinity norm rises at the optimum when {size} "
        "doubles",
    ),
    "norm_interval": Column(
        "95 % of it over sizes",
        "a t-interval of that drift, from the scatter of the norms about a line",
        unknown="fewer than three sizes: no interval of the drift of the readout's norm",
    ),
    "edges": Column(
        "optimum at the edge at",
        "values of {size} whose best {x} was the first or last one tried: neither it nor what "
        "follows is known",
        TEXT,
    ),
}


def in_tables(key: str) -> list[str]:
    """Return the columns that a key of `COLUMNS` stands for.

    >>> in_tables("drift"), in_tables("drift_interval")
    (['drift'], ['drift_low', 'drift_high'])
    """
    stem = key.removesuffix("_interval")
    return [key] if stem == key else [f"{stem}_low", f"{stem}_high"]


def of_kind(kind: str) -> list[str]:
    """List the columns of tables that are of a kind.

    >>> of_kind("text")
    ['edges']
    """
    found = []
    for key, column in COLUMNS.items():
        if column.kind == kind:
            found += in_tables(key)
    return found


def what_is_unknown(columns: Iterable[str], known: Iterable[str]) -> list[str]:
    """Say of each column of which no value is known, why.

    Args:
        columns: of the table.
        known: the columns of which a value is known.

    >>> what_is_unknown(["drift", "drift_low", "drift_high"], ["drift"])
    ['too few seeds for an interval']
    """
    missing = set(columns) - set(known)
    said = []
    for key, column in COLUMNS.items():
        if column.unknown and missing.intersection(in_tables(key)):
            said.append(column.unknown)
    return said

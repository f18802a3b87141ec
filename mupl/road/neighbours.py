"""Runs of the target beside the recommended one: is it the best, or as good as predicted?"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mupl.analysis.certificate import regret_sentence
from mupl.analysis.coordinates import records
from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.road.certificate import FILE


def compare_runs(folders: Sequence[Path]) -> tuple[pd.DataFrame, str]:
    """Compare runs of one recommendation, and add the answer to the recommended run's certificate.

    Args:
        folders: of a run with the recommended values, or several, and of runs with other ones, such
            as half and twice the learning rate.

    Returns:
        A row a run (the recommended values' keys, whether it has these values, the loss, and the
        predicted loss with its interval), and the answer as a sentence.

    Raises:
        ConfigError: if a folder has no certificate, they are of several recommendations, or there
            is nothing to compare.
    """
    found = {folder: _read(folder) for folder in folders}
    first = found[folders[0]]
    for folder, one in found.items():
        if [one["ladder"], one["recommended"]] != [first["ladder"], first["recommended"]]:
            raise ConfigError(f"{folder}: is a run of another recommendation than {folders[0]}")
    rows = pd.DataFrame([_row(folder, one) for folder, one in found.items()])
    table = rows.sort_values(list(first["recommended"]), ignore_index=True)
    if table["recommended"].all() or not table["recommended"].any():
        raise ConfigError(
            "mupl certificate: needs a run with the recommended values and one with others, such "
            "as half the learning rate: python train.py --config-dir SWEEP --config-name "
            "recommendation lr=..."
        )
    regret, scatter = (math.nan if first[k] is None else first[k] for k in ("regret", "scatter"))
    sentence, within = regret_sentence(table, first["metric"], regret, scatter)
    compared = {"runs": records(table), "sentence": sentence, "within": within}
    for folder, one in found.items():
        if not one["changed"]:
            text = json.dumps({**one, "compared": compared}, indent=1, allow_nan=False)
            write_atomically(folder / FILE, text)
    return table.drop(columns="run"), sentence


def _read(folder: Path) -> dict[str, Any]:
    """Read the certificate in the folder of a run."""
    file = folder / FILE
    if not file.exists():
        raise ConfigError(
            f"{folder}: has no {FILE}, which a run of a ladder's recommendation.yaml ends with"
        )
    certificate: dict[str, Any] = json.loads(file.read_text())
    if "values" not in certificate:
        raise ConfigError(f"{file}: was made by an older mupl; run the recommendation again")
    return certificate


def _row(folder: Path, certificate: Mapping[str, Any]) -> dict[str, Any]:
    values, measured = certificate["values"], certificate["measured"]
    predicted = certificate["predicted"] or {}
    return {
        "run": ", ".join(f"{key}={value}" for key, value in values.items()),
        **values,
        "recommended": not certificate["changed"],
        certificate["metric"]: math.inf if measured is None else measured,
        "predicted": predicted.get("value"),
        "low": predicted.get("low"),
        "high": predicted.get("high"),
        "folder": str(folder),
    }

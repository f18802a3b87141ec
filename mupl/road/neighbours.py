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
from mupl.identity import value_text
from mupl.road.certificate import FILE

OTHERS = "also differs"  # column: what is not as recommended beside the tuned values


def compare_runs(folders: Sequence[Path]) -> tuple[pd.DataFrame, str]:
    """Compare runs of one recommendation, and add the answer to the recommended run's certificate.

    Args:
        folders: of a run with the recommended values, or several, and of runs with other ones, such
            as half and twice the learning rate.

    Returns:
        A row a run (the tuned keys, whether it is as recommended, what else differs from that, the
        loss, and the predicted loss with its interval), and the answer as a sentence.

    Raises:
        ConfigError: if a folder has no certificate, they are of several recommendations, or there
            is nothing to compare.
    """
    found = {folder: _read(folder) for folder in folders}
    first = found[folders[0]]
    for folder, one in found.items():
        same_ladder = one["ladder"] == first["ladder"]
        if not same_ladder or one["recommended"] != first["recommended"]:
            raise ConfigError(f"{folder}: is a run of another recommendation than {folders[0]}")
    rows = pd.DataFrame([_row(folder, one) for folder, one in found.items()])
    table = rows.sort_values(list(first["recommended"]), ignore_index=True)
    if table["recommended"].all() or not table["recommended"].any():
        raise ConfigError(
            "mupl certificate: needs a run with the recommended values and one with others, such "
            "as half the learning rate: python train.py --config-dir SWEEP --config-name "
            "recommendation lr=..."
        )
    predicted = []
    for key in ("regret", "scatter"):
        value = first[key]
        predicted.append(math.nan if value is None else value)
    sentence, within = regret_sentence(table, first["metric"], *predicted)
    compared = {"runs": records(table), "sentence": sentence, "within": within}
    for folder, one in found.items():
        if not one["changed"]:
            certificate = {**one, "compared": compared}
            text = json.dumps(certificate, indent=1, allow_nan=False)
            write_atomically(folder / FILE, text)
    unneeded = ["run"] if table[OTHERS].any() else ["run", OTHERS]
    return table.drop(columns=unneeded), sentence


def _read(folder: Path) -> dict[str, Any]:
    """Read the certificate in the folder of a run."""
    file = folder / FILE
    if not file.exists():
        raise ConfigError(
            f"{folder}: has no {FILE}, which a run of a ladder's recommendation.yaml ends with"
        )
    certificate: dict[str, Any] = json.loads(file.read_text())
    if not isinstance(certificate.get("changed"), dict):
        raise ConfigError(
            f"{file}: was made by an older mupl, which compared tuned values only; give the run's "
            "command again with resume=true, which trains nothing anew where the run has ended"
        )
    return certificate


def _row(folder: Path, certificate: Mapping[str, Any]) -> dict[str, Any]:
    values = certificate["values"]
    measured = certificate["measured"]
    predicted = certificate["predicted"] or {}
    changed = {key: one["value"] for key, one in certificate["changed"].items()}
    others = {key: value for key, value in changed.items() if key not in values}
    return {
        "run": _settings_text(values | others),
        **values,
        "recommended": not changed,
        OTHERS: _settings_text(others),
        certificate["metric"]: math.inf if measured is None else measured,
        "predicted": predicted.get("value"),
        "low": predicted.get("low"),
        "high": predicted.get("high"),
        "folder": str(folder),
    }


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value_text(value)}" for key, value in settings.items())

"""The part of a page on a ladder: what it predicts of its target."""

from typing import Any

import pandas as pd

from mupl.analysis.transfer import SIZES, hyperparameter_name
from mupl.figures.style import with_unit
from mupl.report.page.contents import Contents
from mupl.report.page.elements import Charts, Finding, Section, Table, cell
from mupl.report.page.transfer import against_size

PREDICTION_FILE = "prediction.json"  # in the sweep's folder, by the report of a ladder
SERIES = ["ladder", "target"]


def prediction_section(contents: Contents) -> tuple[Section | None, list[Finding]]:
    """Return the section, and what is to be said at the top; None if the sweep is no ladder."""
    plain = contents.plain(PREDICTION_FILE)
    if plain is None:
        return None, []
    recommended = pd.DataFrame(plain["recommended"])
    text = f"Recommended at {plain['size']} {cell(plain['target'])}: {_values(recommended)}."
    findings = [Finding(f"{text} {_loss_text(plain)}")]
    findings += [Finding(f"{text[0].upper()}{text[1:]}.", "warn") for text in plain["warnings"]]
    parts: list[Finding | str | Charts | Table] = [
        "recommendation.yaml in this folder is the config of the target: "
        "python train.py --config-dir FOLDER --config-name recommendation.",
        _charts(plain, recommended, contents.unit),
    ]
    if plain["law_text"]:
        parts.append(f"{plain['law_text'][0].upper()}{plain['law_text'][1:]}.")
    text = plain["costs"]["text"]
    parts.append(f"{text[0].upper()}{text[1:]}.")
    parts.append(Table.of("Recommended values, and where they come from", recommended, True))
    rungs = pd.DataFrame(plain["rungs"])
    parts.append(Table.of("The best of each size", rungs, True))
    return Section("Prediction at the target", parts), findings


def _values(recommended: pd.DataFrame) -> str:
    said = []
    for row in recommended.to_dict("records"):
        text = f"{hyperparameter_name(row['hyperparameter'])} {cell(row['value'])}"
        if pd.notna(row["low"]):
            text += f" (95 % {cell(row['low'])} to {cell(row['high'])})"
        said.append(text)
    return ", ".join(said)


def _loss_text(plain: dict[str, Any]) -> str:
    loss = plain["loss"]
    if loss is None:
        return "No loss is predicted."
    text = f"Predicted {plain['metric']} of one run: {cell(loss['value'])}"
    if loss["low"] is not None:
        text += f" (95 % {cell(loss['low'])} to {cell(loss['high'])})"
    return f"{text}."


def _charts(plain: dict[str, Any], recommended: pd.DataFrame, unit: str) -> Charts:
    """Chart the best values against size, and the best losses against FLOPs, with the target."""
    size = plain["size"]
    rungs = pd.DataFrame(plain["rungs"]).assign(series="ladder")
    panels = []
    for row in recommended.to_dict("records"):
        key = str(row["hyperparameter"])
        if pd.isna(row["drift"]):
            continue
        target = {size: plain["target"], "series": "target", key: row["value"]}
        target |= {f"{key}_low": row["low"], f"{key}_high": row["high"]}
        table = pd.concat([rungs, pd.DataFrame([target])], ignore_index=True)
        name = hyperparameter_name(key)
        title = f"Best {name} against {SIZES.get(size, size)}"
        panels.append(against_size(title, name, table, size, key, SERIES))
    losses = rungs.rename(columns={"low": "loss_low", "high": "loss_high"})
    if plain["loss"] is not None:
        loss = plain["loss"]
        target = {"flops": plain["target_flops"], "series": "target", "loss": loss["value"]}
        target |= {"loss_low": loss["low"], "loss_high": loss["high"]}
        losses = pd.concat([losses, pd.DataFrame([target])], ignore_index=True)
    label = with_unit(plain["metric"], unit)
    panels.append(against_size("Best loss against FLOPs", label, losses, "flops", "loss", SERIES))
    caption = "Bars are 95 % intervals; the target's loss has the interval of a single run."
    return Charts(caption, panels, series=SERIES, legend="runs")

"""The part of a page on coordinate checks: slopes, what was predicted, and the verdict."""

import pandas as pd

from mupl.analysis import coordinates
from mupl.figures.coordinates import PANELS, STATISTICS, few_lines, has_failed, layers, predicted
from mupl.figures.style import chosen_lines
from mupl.report.coordinate_check import with_check_labels
from mupl.report.page.charts import (
    CROSS,
    HIGH,
    PER_SERIES,
    POINT,
    Axis,
    Spec,
    color,
    layer,
    panel,
    tooltip,
)
from mupl.report.page.contents import Contents
from mupl.report.page.elements import Charts, Finding, Panel, Section, Table

STATISTIC = "l1"  # the one that is judged and drawn
MOST_SENTENCES = 12  # of one series: the table has all
STATES = {coordinates.PASS: "pass", coordinates.FAIL: "fail", coordinates.NOT_JUDGED: "warn"}
COLUMNS = {
    "kind": "of",
    "name": "tensor or module",
    "t": "after update",
    "slope": "slope",
    "ci_low": "95 % low",
    "ci_high": "95 % high",
    "low": "predicted from",
    "high": "predicted to",
    "verdict": "verdict",
    "reason": "what it means",
}


def coordinate_section(contents: Contents) -> tuple[Section | None, list[Finding]]:
    """Return the section, and the verdict on each series; None if the sweep was no check."""
    rows = contents.table("coord_check.csv")
    plain = contents.plain("verdict.json")
    if rows is None or plain is None or not plain["rows"]:
        return None, []
    verdict = pd.DataFrame(plain["rows"])
    along = coordinates.swept_axis(rows)
    rows, verdict = with_check_labels(few_lines(rows), verdict, along)
    findings = []
    parts: list[Finding | str | Charts | Table] = [_charts(rows, verdict, along)]
    for check, of_check in verdict.groupby("check", sort=False):
        findings.append(_finding(str(check), of_check))
        parts += _sentences(str(check), of_check)
    parts.append(_table(verdict))
    return Section("Coordinate check", parts), findings


def _finding(check: str, verdict: pd.DataFrame) -> Finding:
    state = "pass"
    for word in (coordinates.NOT_JUDGED, coordinates.FAIL):
        if (verdict["verdict"] == word).any():
            state = STATES[word]
    return Finding(f"Coordinate check of {check}: {coordinates.count(verdict)}.", state)


def _sentences(check: str, verdict: pd.DataFrame) -> list[Finding]:
    """Say what fails and what is not judged, and why."""
    found = []
    for word in (coordinates.FAIL, coordinates.NOT_JUDGED):
        said = coordinates.sentences(verdict[verdict["verdict"] == word])
        for text in said[:MOST_SENTENCES]:
            found.append(Finding(f"{check}: {text}", STATES[word]))
        if len(said) > MOST_SENTENCES:
            rest = len(said) - MOST_SENTENCES
            found.append(Finding(f"{check}: and {rest} more, in the table below", STATES[word]))
    return found


def _table(verdict: pd.DataFrame) -> Table:
    order = {coordinates.FAIL: 0, coordinates.NOT_JUDGED: 1, coordinates.PASS: 2}
    table = verdict.sort_values("verdict", key=lambda words: words.map(order), kind="stable")
    for column in ("slope", "ci_low", "ci_high"):
        numbers = pd.to_numeric(table[column]).round(3) + 0.0
        table[column] = numbers
    table = table[["check", *COLUMNS]].rename(columns=COLUMNS)
    return Table.of("Every slope and its verdict", table)


def _charts(rows: pd.DataFrame, verdict: pd.DataFrame, along: str) -> Charts:
    table = rows[(rows["statistic"] == STATISTIC) & (rows["value"] > 0)].copy()
    is_bias = table["name"].str.endswith("bias")
    table["panel"] = [PANELS.get(key) for key in zip(table["kind"], is_bias, strict=True)]
    table = table.dropna(subset="panel")
    table["series"] = layers(table["name"])
    table["failed"] = has_failed(table, verdict)
    series = list(dict.fromkeys(table["series"]))
    shown = chosen_lines(series, list(table.loc[table["failed"], "series"].unique()))
    steps = sorted(int(step) for step in table["t"].unique())
    there = set(table["panel"])
    panels = []
    for title in [label for label in PANELS.values() if label in there]:
        of_kind = table[table["panel"] == title]
        height = Axis.of_size(STATISTICS[STATISTIC], of_kind["value"])
        for check, lines in of_kind.groupby("check", sort=False):
            name = f"{title}, {check}".replace("\n", " ")
            panels.append(_panel(name, lines, along, height, series, steps[-1]))
    caption = (
        f"Mean size of the entries against {along}. A line is the median over seeds, a band their "
        "range. The dashed line is the slope that the rule table predicts, from the line's first "
        "point; crosses mark lines that fail. Panels of one kind have the same axes."
    )
    return Charts(
        caption,
        panels,
        series=series,
        legend="layer",
        hidden=[name for name in series if name not in shown],
        choices=steps,
        choice="after update",
        columns=table["check"].nunique(),
    )


def _panel(
    title: str, lines: pd.DataFrame, along: str, height: Axis, series: list[str], last: int
) -> Panel:
    keys = ["series", "t", along, "failed"]
    groups = lines.groupby(keys, sort=False)
    points = groups["value"].agg(["median", "min", "max"])
    points["predicted"] = predicted(lines, keys, along)
    points = points.reset_index()
    points = points.rename(columns={along: "size", "min": "low", "max": "high", "t": "choice"})
    at_y = height.encode("median")
    encoding: Spec = {
        "x": Axis.of_values(along, points["size"]).encode("size"),
        "y": at_y,
        "color": color(series),
        "detail": PER_SERIES,
    }
    band = encoding | {"y": at_y | {"field": "low"}, "y2": HIGH}
    expected = encoding | {"y": at_y | {"field": "predicted"}}
    failed = encoding | {"color": {"value": "var(--fail)"}}
    hover = tooltip(
        series="layer",
        size=along,
        median="median",
        low="lowest",
        high="highest",
        predicted="predicted",
    )
    dashed = {"type": "line", "strokeWidth": 1.2, "strokeDash": [4, 4], "clip": True}
    layers = [
        layer({"type": "area", "opacity": 0.18}, band),
        layer(dashed, expected),
        layer({"type": "line", "strokeWidth": 2}, encoding),
        layer(POINT | {"size": 34}, encoding, "!datum.failed"),
        layer(CROSS | {"size": 110, "opacity": 1}, failed, "datum.failed"),
        layer(POINT | {"size": 320, "opacity": 0}, encoding | {"tooltip": hover}),
    ]
    wrong = points[(points["choice"] == last) & points["failed"]]["series"].unique()
    said = f"fails: {', '.join(wrong)}" if len(wrong) else "nothing fails"
    description = f"{title}, mean size of the entries against {along}; after update {last} {said}."
    return panel(title, points, layers, description, choice=last)

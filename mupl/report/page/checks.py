"""The parts of a page on norms of updates and on unit scaling."""

import pandas as pd

from mupl.analysis.unit_scale import BAND
from mupl.figures.norms import LABELS
from mupl.figures.style import by_rank, with_written_names
from mupl.names import block_pattern
from mupl.report.page.charts import (
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

LINE_HEIGHT = 20  # pixels a name on a vertical axis


def norms_section(contents: Contents) -> tuple[Section | None, list[Finding]]:
    """Return the norms of updates, and which tells the change of activations best."""
    norms = contents.table("update_norms.csv")
    correlations = contents.table("correlations.csv")
    if norms is None or correlations is None:
        return None, []
    by = str(correlations.columns[0])
    names = with_written_names(by_rank(norms))
    table = names.assign(series=names[by])
    series = list(dict.fromkeys(table["series"]))
    panels = []
    for key, label in LABELS.items():
        title = f"{label} norm" if key in correlations else label
        panels.append(_norm_panel(title, table, key, series))
    caption = (
        "Change of the activations and norms of the update, of each layer (in x out). A norm that "
        "runs parallel to the change tells how far an update moves the activations."
    )
    shown = with_written_names(correlations).rename(columns=LABELS)
    title = "Correlation over layers of log(norm) with log(change of activations)"
    best = correlations.set_index(by).loc["all"].astype(float)
    name = LABELS[str(best.idxmax())]
    text = f"Over all layers the {name} norm tells the change of activations best: r = "
    findings = [Finding(f"{text}{best.max():.2f}.")]
    parts: list[Charts | Table] = [
        Charts(caption, panels, series, by),
        Table.of(title, shown, is_open=True),
    ]
    return Section("Norms of updates", parts), findings


def _norm_panel(label: str, table: pd.DataFrame, key: str, series: list[str]) -> Panel:
    points = table.groupby(["series", "shape"], sort=False)[key].median().reset_index()
    points = points.rename(columns={"shape": "note", key: "value"})
    layers_in_order = list(dict.fromkeys(points["note"]))
    names = Axis("layer, in x out", {"domain": layers_in_order}, "ordinal")
    encoding: Spec = {
        "x": names.encode("note"),
        "y": Axis.of_size(label, points["value"], base=10).encode("value"),
        "color": color(series),
        "detail": PER_SERIES,
    }
    hover = tooltip(series="of", note="layer", value=label)
    layers = [
        layer({"type": "line", "strokeWidth": 1.5}, encoding),
        layer(POINT | {"size": 60}, encoding | {"tooltip": hover}),
    ]
    return panel(label, points, layers, f"{label} of each layer, for {', '.join(series)}.")


def unit_scale_section(contents: Contents) -> tuple[Section | None, list[Finding]]:
    """Return RMS over what unit scaling wants, and how many tensors lie in the band."""
    table = contents.table("unit_scale.csv")
    if table is None:
        return None, []
    low, high = BAND
    passed = int(table["passed"].sum())
    state = "pass" if passed == len(table) else "fail"
    text = f"Unit scale: {passed} of {len(table)} tensors have an RMS within {low:g} to {high:g}."
    of_modules = table["kind"].str.startswith("output")
    dots = table.assign(
        value=table["rms"] / table["expected"],
        note=table["name"].map(block_pattern),
        series=table["kind"].str.contains("grad").map({True: "gradients", False: "values"}),
    )
    panels = []
    for title, rows in (("Parameters", dots[~of_modules]), ("Modules", dots[of_modules])):
        if not rows.empty:
            panels.append(_scale_panel(title, rows))
    caption = "RMS over what unit scaling wants: a dot a block and run. The shaded band passes."
    failed = table[~table["passed"]].drop(columns="passed")
    parts: list[Charts | Table] = [Charts(caption, panels, ["gradients", "values"], "of")]
    if len(failed):
        parts.append(Table.of("Outside the band", failed, is_open=True))
    return Section("Unit scale", parts), [Finding(text, state)]


def _scale_panel(title: str, rows: pd.DataFrame) -> Panel:
    names = list(dict.fromkeys(rows["note"]))
    ends = pd.concat([rows["value"], pd.Series(BAND)])
    horizontal = Axis.of_size("RMS over what is wanted", ends)
    shapes = {"domain": [True, False], "range": ["circle", "cross"]}
    encoding = {
        "x": horizontal.encode("value"),
        "y": Axis("", {"domain": names}, "ordinal").encode("note"),
        "color": color(["gradients", "values"]),
        "shape": {"field": "passed", "type": "nominal", "scale": shapes, "legend": None},
        "tooltip": tooltip(series="of", note="name", value="RMS"),
    }
    dots = layer(POINT | {"size": 60, "opacity": 0.8}, encoding)
    low, high = BAND
    shade = layer(
        {"type": "rect", "opacity": 0.12, "color": "var(--pass)"},
        {"x": horizontal.encode("low"), "x2": HIGH},
        rows=pd.DataFrame({"low": [low], "high": [high], "series": ""}),
    )
    wrong = sorted(rows.loc[~rows["passed"], "note"].unique())
    said = f"outside the band: {', '.join(wrong)}" if wrong else "all lie in the band"
    height = max(80, LINE_HEIGHT * len(names))
    points = rows[["series", "note", "value", "passed"]]
    return panel(title, points, [shade, dots], f"{title}: {said}.", height=height)

"""The runs of a project on W&B: as the table that a sweep's folder gives, and views of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mupl.errors import ConfigError
from mupl.identity import OUTCOMES
from mupl.sweep.results import tabulate

NOT_FINITE = ("NaN", "Infinity", "-Infinity")  # as W&B writes them
# Kinds of tensors in the view of coordinates: what the section of their metrics is called -> title
COORDINATES = {
    "output_l1": "outputs of layers: mean |x|",
    "update_l1": "updates of weights: mean |x|",
    "change_l1": "weights minus initial weights: mean |x|",
    "update_spectral": "updates of weights: spectral norm",
    "update_rms_to_rms": "updates of weights: RMS to RMS norm",
    "param_spectral": "weights: spectral norm",
}


def pull(project: str, group: str | None = None, api: Any = None) -> pd.DataFrame:
    """Return a row for each run of a project that has ended, as `mupl.sweep.results.collect` does.

    Args:
        project: "ENTITY/PROJECT".
        group: of the runs, which is the name of a sweep's folder; None: all runs.
        api: what gives the runs; by default `wandb.Api()`, which needs a key.

    Raises:
        ConfigError: if the project cannot be read, or has no such run.
    """
    runs = _runs(project, {"group": group} if group else None, api)
    rows = [row for row in map(_result, runs) if row]
    if not rows:
        of_group = f" with group={group}" if group else ""
        raise ConfigError(f"{project}: has no run of mupl{of_group} that ended")
    if len(rows) < len(runs):
        print(f"{len(runs) - len(rows)} of {len(runs)} runs left out: not of mupl, or not ended")
    return tabulate(rows)


def _runs(project: str, filters: dict[str, Any] | None, api: Any) -> list[Any]:
    import wandb

    try:
        return list((api or wandb.Api()).runs(project, filters=filters))
    except (wandb.Error, ValueError) as error:  # no key, no network, or no such project
        raise ConfigError(f"{project}: {' '.join(str(error).split())}") from error


def _result(run: Any) -> dict[str, Any] | None:
    """Return what `result.json` of a run holds; None for one not of mupl, or that has not ended."""
    summary = dict(run.summary)
    config = dict(run.config)
    if "job" not in config or "status" not in summary:
        return None
    outcome: dict[str, Any] = {}
    for key in OUTCOMES:
        if key in summary:
            value = summary[key]
            outcome[key] = float(value) if value in NOT_FINITE else value
    return config | outcome | {"folder": run.name}


def write_views(project: str, file: Path | None) -> list[str]:
    """Make a view of transfer and one of coordinates; write them as JSON, or save them on W&B.

    Args:
        project: "ENTITY/PROJECT".
        file: for the JSON; nothing is sent then.

    Returns:
        The address of each view that was saved.

    Raises:
        ConfigError: if wandb-workspaces is not installed, or W&B cannot be reached.
    """
    import wandb

    entity, slash, name = project.partition("/")
    if not (entity and slash and name):
        raise ConfigError(f"{project}: must be ENTITY/PROJECT, as in the address of a project")
    views = list(_views(entity, name))
    if file is not None:
        # the only way to the JSON that `save` sends
        texts = [view._to_model().model_dump_json(by_alias=True, indent=1) for view in views]
        file.write_text(f"[{','.join(texts)}]\n")
        return []
    try:
        return [view.save().url for view in views]
    except (wandb.Error, ValueError) as error:
        raise ConfigError(f"{project}: {' '.join(str(error).split())}") from error


def _views(entity: str, project: str) -> Iterable[Any]:
    try:
        from wandb_workspaces import workspaces
    except ModuleNotFoundError as error:
        raise ConfigError(
            "mupl workspace: needs wandb-workspaces: pip install 'mupl[workspaces]'"
        ) from error
    sections = {"mupl: transfer": _transfer_sections(), "mupl: coordinates": _coordinates()}
    for title, of_view in sections.items():
        yield workspaces.Workspace(
            entity=entity,
            project=project,
            name=title,
            sections=of_view,
            runset_settings=workspaces.RunsetSettings(
                groupby=[workspaces.Metric("Group"), workspaces.Config("parametrization")]
            ),
        )


def _transfer_sections() -> list[Any]:
    """Panels of how the best learning rate moves with width."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as panels

    lr, width = panels.Config("lr"), panels.Config("width")
    loss = panels.SummaryMetric("val_loss")
    optimum = [
        panels.ScatterPlot(
            title="validation loss (nats) against learning rate, by width",
            x=lr,
            y=loss,
            z=width,
            log_x=True,
        ),
        panels.ParallelCoordinatesPlot(
            title="parametrization, width, learning rate and validation loss (nats)",
            columns=[
                panels.ParallelCoordinatesPlotColumn(panels.Config("parametrization")),
                panels.ParallelCoordinatesPlotColumn(width, log=True),
                panels.ParallelCoordinatesPlotColumn(lr, log=True),
                panels.ParallelCoordinatesPlotColumn(loss),
            ],
        ),
    ]
    curves = []
    for metric, title in (("train_loss", "training"), ("val_loss", "validation")):
        curves.append(
            panels.LinePlot(
                title=f"{title} loss (nats) by step",
                x="trainer/global_step",
                y=[metric],
                title_x="updates",
                title_y="loss (nats)",
                groupby=width,
                groupby_aggfunc="min",
            )
        )
    return [
        workspaces.Section(name="best learning rate", panels=optimum, is_open=True),
        workspaces.Section(name="losses", panels=curves, is_open=True),
    ]


def _coordinates() -> list[Any]:
    """Panels of the statistics that `callbacks=coordinates` logs: a line for each tensor."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as panels

    plots = []
    for section, title in COORDINATES.items():
        plots.append(
            panels.LinePlot(
                title=title,
                x="trainer/global_step",
                metric_regex=f"^{section}/.*",
                log_y=True,
                title_x="updates",
                title_y=title.partition(": ")[2],
            )
        )
    return [workspaces.Section(name="coordinates", panels=plots, is_open=True)]

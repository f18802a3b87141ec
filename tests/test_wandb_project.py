"""A project on W&B as the table of a sweep, and views of it."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from mupl.errors import ConfigError
from mupl.identity import read_results, write_result
from mupl.sweep.results import collect
from mupl.sweep.wandb_project import pull, write_views
from tests.commands import row_of

pytest.importorskip("wandb")


class Api:
    """What `wandb.Api` gives of a project: runs with the config and summary that mupl logs."""

    def __init__(self, sweep_dir: Path) -> None:
        self.filters: Any = None
        self._runs = []
        for result in read_results(sweep_dir):
            config = {key: value for key, value in result.items() if key not in OUTCOME}
            summary = {key: result[key] for key in OUTCOME if result.get(key) is not None}
            for key, value in summary.items():
                if value != value:
                    summary[key] = "NaN"  # as W&B's server says it
            name = result["folder"]
            self._runs.append(SimpleNamespace(name=name, config=config, summary=summary))
        self._runs.append(SimpleNamespace(name="going on", config={"job": "x"}, summary={}))
        self._runs.append(SimpleNamespace(name="another's", config={}, summary={"status": "done"}))

    def runs(self, project: str, filters: Any = None) -> list[SimpleNamespace]:
        assert project == "me/mupl"
        self.filters = filters
        return self._runs


OUTCOME = ("status", "steps", "train_loss", "val_loss", "val_accuracy", "seconds", "error")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for i, status in enumerate(("completed", "diverged", "failed")):
        losses = {} if status == "completed" else dict.fromkeys(OUTCOME[2:5], float("nan"))
        settings = {"width": 8, "lr": 0.1 * (i + 1), "seed": 0, "config": {"depth": 3}}
        names = {"parametrization": "mup", "optimizer": "adamw", "choices": {"data": "digits"}}
        error = {"error": "lr"} if status == "failed" else {}
        row = row_of(f"job{i}", status=status, seconds=1.0, **settings, **names, **losses, **error)
        write_result(tmp_path / f"lr={i}-job{i}", row)
    return tmp_path


def test_a_project_gives_the_table_of_its_sweep(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api = Api(sweep)
    table = pull("me/mupl", group="lr-771b", api=api)
    assert_frame_equal(table, collect(sweep), check_dtype=False)
    assert api.filters == {"group": "lr-771b"}
    assert "2 of 5 runs left out" in capsys.readouterr().out


def test_a_project_without_runs_is_refused(sweep: Path) -> None:
    api = SimpleNamespace(runs=lambda project, filters=None: [])
    with pytest.raises(ConfigError, match="me/empty: has no run of mupl with group=a"):
        pull("me/empty", "a", api)


def test_a_project_that_cannot_be_read_is_one_line() -> None:
    def refuse(project: str, filters: Any = None) -> None:
        raise ValueError("Could not find project\nme/none")

    with pytest.raises(ConfigError, match="me/none: Could not find project me/none"):
        pull("me/none", api=SimpleNamespace(runs=refuse))


def test_views_are_written_as_json_that_wandb_reads_back(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    internal = importlib.import_module("wandb_workspaces.workspaces.internal")
    file = tmp_path / "views.json"
    assert write_views("me/mupl", file) == []
    views = [internal.View.model_validate(view) for view in json.loads(file.read_text())]
    assert [view.display_name for view in views] == ["mupl: transfer", "mupl: coordinates"]
    text = file.read_text()
    for title in ("validation loss (nats) against learning rate", "updates of weights: spectral"):
        assert title in text


@pytest.mark.parametrize("project", ["mupl", "/mupl", "me/"])
def test_a_project_has_an_entity(project: str) -> None:
    with pytest.raises(ConfigError, match="must be ENTITY/PROJECT"):
        write_views(project, None)


def test_a_run_of_no_loss_is_a_row_too(sweep: Path) -> None:
    table = pull("me/mupl", api=Api(sweep))
    assert table.loc[table["status"] == "diverged", "val_loss"].isna().all()
    assert isinstance(table, pd.DataFrame)

"""From a ladder of proxies to a run of the target with its certificate, by the command line."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mupl.analysis.coordinates import verdict
from mupl.data.modules import data_module
from mupl.errors import ConfigError
from mupl.road.configs import resolved
from mupl.road.export import export
from mupl.road.first_check import check_widths
from mupl.road.neighbours import compare_runs
from mupl.training.compose import compose
from mupl.training.config import load_data, setup_arguments
from mupl.training.coord_check import coord_check
from tests.commands import IGNORED, ROOT, command, environment, train, train_here

pytestmark = IGNORED

TINY = ["trainer=cpu", "max_steps=16", "base_width=8", "width=8,16,32"]
LADDER = [
    *("-m", "hydra/launcher=stacked", "experiment=tune", *TINY, "target.width=64"),
    *("lr=0.004,0.008,0.016,0.032", "halving.rungs=[]"),
]
RECOMMENDED = ["--config-name", "recommendation"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny ladder."""
    folder = tmp_path_factory.mktemp("road") / "sweep"
    done = train(*LADDER, "check=false", "model.activation=tanh", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "check=false: no coordinate check of the model comes first" in done.stdout
    assert "predicted at width 64: val_loss " in done.stdout
    return folder


def recommendation(sweep: Path) -> dict[str, object]:
    return yaml.safe_load((sweep / "recommendation.yaml").read_text())


def test_a_ladder_ends_with_a_prediction(sweep: Path) -> None:
    found = json.loads((sweep / "prediction.json").read_text())
    assert [rung["width"] for rung in found["rungs"]] == [8, 16, 32]
    assert found["loss"]["low"] < found["loss"]["value"] < found["loss"]["high"]
    # 6 N D of the matrices 64 x 8, two 8 x 8 and 8 x 10, 16 steps of 64 examples
    assert found["rungs"][0]["flops"] == 6 * (64 * 8 + 2 * 8 * 8 + 8 * 10) * 16 * 64
    assert found["parameters"]["8"] == 64 * 8 + 2 * 8 * 8 + 8 * 10 + 3 * 8 + 10
    for file in ("prediction.png", "report.html", "proxies.csv"):
        assert (sweep / file).exists()
    assert "Prediction at the target" in (sweep / "report.html").read_text()


def test_a_recommendation_has_what_is_no_default_and_nothing_else(sweep: Path) -> None:
    config = recommendation(sweep)
    found = json.loads((sweep / "prediction.json").read_text())
    assert config["defaults"] == [
        *("train", "_self_", {"override /callbacks": "coordinates"}),
        *({"override /trainer": "cpu"}, {"override /scheduler": "cosine"}),
    ]
    assert config["width"] == 64
    assert config["lr"] == found["recommended"][0]["value"]
    assert config["model"] == {"activation": "tanh"}
    assert set(config) == {
        *("defaults", "width", "depth", "base_width", "lr", "batch_size", "max_steps", "seed"),
        *("model", "callbacks", "hydra"),
    }
    text = (sweep / "recommendation.yaml").read_text()
    assert "# lr " in text
    assert "# Predicted: val_loss " in text


def test_a_run_of_the_recommendation_ends_with_its_certificate(
    sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [f"--config-dir={sweep}", *RECOMMENDED, f"hydra.run.dir={tmp_path}"]
    done = train_here(capfd, *given)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "result.json").read_text())
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["measured"] == row["val_loss"]
    predicted = certificate["predicted"]
    inside = predicted["low"] <= row["val_loss"] <= predicted["high"]
    assert certificate["inside"] == inside
    assert certificate["changed"] == {}
    assert certificate["coordinates"]["compared"] > 20
    assert f"certificate: val_loss {row['val_loss']:.4g}, predicted" in done.stdout
    folders = [tmp_path]
    for lr in (0.0005, 0.5):
        folders.append(tmp_path / f"lr{lr}")
        again = train_here(capfd, *given[:-1], f"hydra.run.dir={folders[-1]}", f"lr={lr}")
        assert f"other values than the recommended ones: lr={lr} (recommended: " in again.stdout
    folders.append(tmp_path / "sp")  # with the recommended lr, and yet no recommended run
    given[-1] = f"hydra.run.dir={folders[-1]}"
    said = "parametrization=sp (recommended: mup)\n"
    # neither the seed nor what only looks on is other than recommended
    others = ("parametrization=sp", "seed=1", "callbacks.coordinates.steps=[0]")
    assert (
        f"other values than the recommended ones: {said}"
        in train_here(capfd, *given, *others).stdout
    )
    found, _ = compare_runs([folders[0], folders[-1]])
    assert found.set_index("recommended")["also differs"].to_dict() == {
        True: "",
        False: "parametrization=sp",
    }
    table, sentence = compare_runs(folders[2::-1])
    assert table["lr"].tolist() == [0.0005, certificate["recommended"]["lr"], 0.5]
    assert sentence.startswith("the recommended run is the best of 3: val_loss ")
    compared = json.loads((tmp_path / "certificate.json").read_text())["compared"]
    assert (compared["sentence"], compared["within"]) == (sentence, True)
    with pytest.raises(ConfigError, match="needs a run with the recommended values and one with"):
        compare_runs(folders[1:])
    with pytest.raises(ConfigError, match=r"has no certificate\.json"):
        compare_runs([tmp_path, sweep])
    old = json.dumps(certificate | {"changed": []})
    (folders[1] / "certificate.json").write_text(old)
    with pytest.raises(ConfigError, match="made by an older mupl"):
        compare_runs(folders[:2])


@pytest.mark.parametrize("form", ["table", "torchtitan", "megatron"])
def test_a_recommendation_is_exported_from_the_ladders_folder(
    form: str, sweep: Path, tmp_path: Path
) -> None:
    assert not GlobalHydra().is_initialized()
    file, _ = export(sweep, form, tmp_path)
    lr = float(str(recommendation(sweep)["lr"]))
    if form == "table":  # muP's readout of a model that is 64 / 8 times as wide as the base
        table = pd.read_csv(file).set_index("name")
        assert sorted(table["lr"].unique()) == pytest.approx([lr / 8, lr])
    assert file.stat().st_size > 0


def test_the_same_ladder_serves_another_target(
    sweep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    given = [*LADDER, "check=false", "model.activation=tanh", f"hydra.sweep.dir={folder}"]
    done = train_here(capfd, *given, "target.width=128", "target.max_steps=32")
    assert "24 of 24 jobs were done before" in done.stdout
    assert "the target has max_steps 32, and every proxy 16" in done.stdout
    config = recommendation(folder)
    assert (config["width"], config["max_steps"]) == (128, 32)


def test_sizes_grow_in_proportion(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = [
        *("experiment=tune", "trainer=cpu", "base_width=8", "width=8,16", "check=false"),
        *("target.width=64", "target.depth=8", "target.max_steps=32", "lr=0.01", "seed=0"),
        *("target.in_proportion=[depth,max_steps]", "halving.rungs=[]"),
        "hydra.callbacks.sweep_report.report=tests.commands.table_only",
    ]
    done = train_here(capfd, "-m", *given, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "results.csv")
    sizes = table[["width", "depth", "max_steps", "steps"]].to_numpy().tolist()
    assert sizes == [[8, 1, 4, 4], [16, 2, 8, 8]]


def test_a_ladder_whose_model_fails_its_check_is_not_trained(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [*LADDER, "parametrization=sp", "lr=0.02", f"hydra.sweep.dir={tmp_path}"]
    done = train_here(capfd, *given)
    assert done.returncode == 1
    assert "error: the coordinate check fails: " in done.stderr
    assert "nothing was trained (check=false trains all the same)" in done.stderr
    assert not list(tmp_path.glob("*/result.json"))
    assert json.loads((tmp_path / "check/verdict.json").read_text())["failures"] > 0


def words_of_a_check(parametrization: str, widths: list[int]) -> dict[str, int]:
    """How many slopes pass, fail and are not judged, of a GPT on 32 tokens under SGD."""
    given = ["model=gpt", "data=text", "optimizer=sgd", "lr=0.1", "depth=2", "base_width=16"]
    given += ["width=16", "batch_size=4", "data.context=8", "model.d_head=8", "trainer=cpu"]
    config = resolved(compose([*given, f"parametrization={parametrization}"]))
    splits = load_data(config)
    batches = islice(iter(data_module(splits, batch_size=4, seed=1).train_dataloader()), 3)
    build, arguments = setup_arguments(config, splits.model_args)
    del arguments["seed"]
    rows = coord_check(build, widths, batches, seeds=range(3, 6), **arguments)
    words = verdict(rows)["verdict"].value_counts().to_dict()
    print(parametrization, widths, words)
    return words


@pytest.mark.slow
def test_the_check_of_a_narrow_ladder_is_of_networks_that_are_wide_enough() -> None:
    """The gain of the last norm gets gradients of which a part, the logits' variance, falls as
    1 / width: right networks fail by it where they are narrow."""
    wide = check_widths(16)
    right, wrong = (words_of_a_check(name, wide) for name in ("mup", "sp"))
    assert "fail" not in right
    assert right["pass"] > 0.95 * sum(right.values())
    assert wrong["fail"] > 40
    assert words_of_a_check("mup", [16, 32, 64])["fail"] > 0


def test_a_config_is_composed_as_the_command_line_does() -> None:
    assert not GlobalHydra().is_initialized()
    config = compose(["model=gpt", "lr=0.5"])
    assert (config.lr, config.model.d_head) == (0.5, 32)
    assert OmegaConf.select(config, "hydra.runtime.choices.model") == "gpt"


def killed(arguments: list[str], until: str, number: int, file: Path | None = None) -> None:
    """Start a command, and kill it half a second after it printed a text, or made a file then."""
    with subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if until in line:
                break
        while file is not None and not any(file.glob("step-*")):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(process.pid, number)
        process.stdout.read()
        assert process.wait() != 0


@pytest.mark.slow
def test_the_whole_road_though_it_is_killed_twice(tmp_path: Path) -> None:
    folder, run = tmp_path / "sweep", tmp_path / "run"
    ladder = [
        *("-m", "hydra/launcher=stacked", "experiment=tune", "model=gpt", "data=text"),
        *("trainer=cpu", "optimizer=adam", "width=16,32,64", "base_width=16", "depth=2"),
        *("max_steps=150", "batch_size=8", "data.context=32", "model.d_head=8"),
        *("target.width=128", "hydra.launcher.save_every=0", f"hydra.sweep.dir={folder}"),
    ]
    killed(ladder, "stack 1 of", signal.SIGKILL)
    assert not (folder / "recommendation.yaml").exists()
    done = train(*ladder)
    assert done.returncode == 0, done.stderr
    assert "the coordinate check has passed before" in done.stdout
    table = pd.read_csv(folder / "results.csv")
    assert len(table) == 72
    assert set(table["status"]) == {"completed", "dropped"}
    given = [f"--config-dir={folder}", *RECOMMENDED, f"hydra.run.dir={run}", "resume=true"]
    given += ["checkpoint.every_steps=20"]
    killed(given, "parametrization", signal.SIGKILL, run / "checkpoints")
    assert not (run / "certificate.json").exists()
    ended = train(*given)
    assert ended.returncode == 0, ended.stderr
    assert "resume: goes on from" in ended.stdout
    certificate = json.loads((run / "certificate.json").read_text())
    assert certificate["inside"] in (True, False)
    assert abs(certificate["measured"] - certificate["predicted"]["value"]) < 0.3
    coordinates = certificate["coordinates"]
    assert coordinates["same"] >= 0.7 * coordinates["compared"]


SWEEPERS = {
    "draws": [
        *("hydra/sweeper=draws", "hydra.sweeper.settings=4", "width=8,16,32", "seed=0,1"),
        "tune.hidden.lr=tag(log,interval(0.5,2))",
    ],
    "optuna": ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "width=8", "seed=0"],
}


@pytest.mark.parametrize("sweeper", ["draws", pytest.param("optuna", marks=pytest.mark.slow)])
def test_other_sweepers_choose_the_settings_of_a_ladder(
    sweeper: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [*LADDER[:3], "trainer=cpu", "max_steps=8", "base_width=8", "halving.rungs=[]"]
    given += ["check=false", "target.width=64", "lr=tag(log,interval(1e-3,1e-1))"]
    # not here, as Optuna warns while it is imported
    start = train if sweeper == "optuna" else partial(train_here, capfd)
    done = start(*given, *SWEEPERS[sweeper], f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    config = recommendation(tmp_path)
    best = pd.read_csv(tmp_path / "results.csv").groupby(["width", "lr"])["val_loss"].mean()
    if sweeper == "draws":  # the best setting at the largest width, as a whole
        assert config["lr"] == pytest.approx(best[32].idxmin(), rel=1e-3)
        assert 0.5 < config["tune"]["hidden"]["lr"] < 2  # type: ignore[index]
    else:
        assert "one size: no law of the loss" in done.stdout
        assert 1e-3 < float(str(config["lr"])) < 1e-1

"""What makes two jobs the same, and what their rows of results say."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from mupl.identity import (
    IGNORED_KEYS,
    differing_settings,
    job_id,
    job_row,
    jobs,
    sweep_id,
    write_result,
)
from mupl.identity.results import LOSSES
from mupl.models import MLP
from mupl.sweep.results import collect
from mupl.training.registration import register
from mupl.training.setup import Setup
from tests.commands import ROOT


@pytest.fixture(autouse=True, scope="module")
def configs() -> Iterator[None]:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def config(*overrides: str) -> DictConfig:
    return compose("train", [*overrides], return_hydra_config=True)


def sweep_name(*overrides: str) -> str:
    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)
    return sweep_id(master)


SAME = {
    "download": ["data=mnist", "data=mnist data.download=true"],
    "root": ["data=mnist", "data=mnist data.root=/elsewhere"],
    "cache": ["data=image_folder", "data=image_folder data.cache=false"],
    "threads": ["threads=auto", "threads=2"],
    "progress": ["seed=0", "trainer.enable_progress_bar=true", "trainer.enable_model_summary=true"],
    "learning rate of one": ["lr=1", "lr=1.0"],
    "widths": ["width=8", "width=[8,8,8]"],
    "base widths": ["base_width=8", "base_width=[8,8,8]"],
    "folder of Lightning": ["seed=0", "+trainer.default_root_dir=/elsewhere"],
    "spelling": ["lr=1e-3", "lr=0.001", "lr=1.0e-3", "lr=10e-4"],
    "zero": ["weight_decay=0", "weight_decay=0.0", "weight_decay=-0.0"],
    "one": ["model.output_mult=1", "model.output_mult=1.0", "model.output_mult=1e0"],
    "order": ["+x={a:1,b:2}", "+x={b:2,a:1.0}"],
}


@pytest.mark.parametrize("name", SAME)
def test_one_training_has_one_id_however_it_is_said(name: str) -> None:
    commands = [text.split() for text in SAME[name]]
    assert len({job_id(config(*command)) for command in commands}) == 1
    swept = [[*command, "model.init_std=1,2"] for command in commands]
    assert len({sweep_name(*command) for command in swept}) == 1


DIFFERENT = {
    "images": ["data=image_folder data.root=cats", "data=image_folder data.root=dogs"],
    "tokens": ["data=tokens data.root=a", "data=tokens data.root=b"],
    "own source": [f"data._target_=tests.models.digits_of data.root={root}" for root in "ab"],
    "text": ["data=text", "data=text data.file=a.txt", "data=text data.file=b.txt"],
    "share or number": ["+trainer.limit_val_batches=1", "+trainer.limit_val_batches=1.0"],
    "truth": ["+x=1", "+x=true", "+x='1'"],
    "order of globs": ["+roles={a*:input,a.*:output}", "+roles={a.*:output,a*:input}"],
    "widths": ["width=8", "width=[8,8]", "width=[8,8,16]", "width=[8,8,8,8]"],
    "widths in depth": ["width=8 base_depth=1", "width=[8,8,8] base_depth=1"],
    "whole numbers": ["width=8", "width=8.0"],  # the latter is refused
    "logged rows": ["seed=0", "trainer.log_every_n_steps=1"],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_trainings_have_different_ids(name: str) -> None:
    commands = [text.split() for text in DIFFERENT[name]]
    for one, other in combinations(commands, 2):
        assert job_id(config(*one)) != job_id(config(*other))


DIFFERING: dict[str, tuple[list[str], dict[str, Any]]] = {
    "nothing": (["name=a", "seed=1", "trainer.devices=2", "lr=1e-3"], {}),
    "what other keys follow from": (["max_steps=7"], {"max_steps": (7, 1000)}),
    "a choice": (["optimizer=sgd", "optimizer.momentum=0.5"], {"optimizer": ("sgd", "adamw")}),
    "a value of a group": (["model.bias=false"], {"model.bias": (False, True)}),
    "a key more": (["tune.hidden.lr=2"], {"tune.hidden.lr": (2, None)}),
}


@pytest.mark.parametrize("name", DIFFERING)
def test_the_settings_in_which_trainings_differ_are_named(name: str) -> None:
    overrides, differing = DIFFERING[name]
    assert differing_settings(config(*overrides), config(), ("seed",)) == differing


def test_widths_that_are_all_the_same_train_as_one_width() -> None:
    def setup(width: int | list[int]) -> Setup:
        return Setup(partial(MLP, 4, 3), width, base_width=2, lr=0.1)

    one, listed = setup(8), setup([8, 8, 8])
    assert one.table() == listed.table()
    for a, b in zip(one.model.parameters(), listed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("has_gpu", "same"), [(False, "cpu"), (True, "gpu")])
def test_the_accelerator_is_the_one_that_is_there(
    has_gpu: bool, same: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_accelerator", lambda: "gpu" if has_gpu else "cpu")
    ids = {name: job_id(config(f"trainer={name}")) for name in ("auto", "cpu", "gpu")}
    assert ids["cpu"] != ids["gpu"]
    assert ids["auto"] == ids[same]
    assert sweep_name("trainer=auto") == sweep_name(f"trainer={same}")


def with_hydra(number: int, cwd: str, *overrides: str) -> str:
    """The id of a job of that number, started in that folder."""
    job = config(*overrides)
    with read_write(job.hydra), open_dict(job.hydra):
        job.hydra.job.num = number
        job.hydra.runtime.cwd = cwd
        job.hydra.runtime.output_dir = f"{cwd}/{number}"
    return job_id(job)


@pytest.mark.parametrize(
    "trained",
    [
        "lr=${hydra:job.num}",
        "data=image_folder data.root=${hydra:runtime.cwd}/x",
        "+a=${hydra:job.num} lr=${a}",
        "+callbacks.mine.name=run${hydra:job.num}",
    ],
)
def test_values_of_hydra_in_what_is_trained_tell_jobs_apart(trained: str) -> None:
    one, same, other = (
        with_hydra(number, cwd, *trained.split())
        for number, cwd in ((1, "/a"), (1, "/a"), (2, "/b"))
    )
    assert one == same != other


@pytest.mark.parametrize(
    "output",
    ["callbacks=coordinates", "+callbacks.mine.folder=${hydra:sweep.dir}/x",
     "logger.csv.name=${hydra:job.num}"],
)  # fmt: skip
def test_folders_of_output_do_not_tell_jobs_apart(output: str) -> None:
    assert with_hydra(1, "/a", output) == with_hydra(2, "/b", output)


def row(*overrides: str) -> dict[str, Any]:
    job = config(*overrides)
    return job_row(job, job.hydra)


def test_a_row_says_what_tells_its_run_from_one_elsewhere() -> None:
    said = row("lr=0.1", "data=mnist", "data.root=/x", "model.bias=false", "metric=train_loss",
               "logger.csv.name=x", "~scheduler.warmup", "+case={a:1}", "threads=1")  # fmt: skip
    assert said.pop("job") == job_id(config(*["lr=0.1", "data=mnist", "model.bias=false",
                                              "~scheduler.warmup", "+case={a:1}"]))  # fmt: skip
    whole, choices = said.pop("config"), said.pop("choices")
    assert set(said.pop("provenance")["packages"]) == {"python", "torch", "lightning"}
    assert said == {
        "width": 128, "lr": 0.1, "seed": 0, "parametrization": "mup", "optimizer": "adamw",
        "model": "mlp", "data": "mnist", "depth": 3, "batch_size": 64, "max_steps": 1000,
        "model.bias": False, "scheduler.warmup": None, "case": {"a": 1},
    }  # fmt: skip
    assert (whole["model"]["depth"], whole["trainer"]["max_steps"]) == (3, 1000)
    assert not {key.split(".")[0] for key in IGNORED_KEYS if "." not in key} & set(whole)
    assert choices["scheduler"] == "constant"


def test_a_default_counts_where_another_sweep_set_the_key(tmp_path: Path) -> None:
    outcome = {"status": "completed", "steps": 1} | dict.fromkeys(LOSSES, 1.0)
    commands = [
        [],
        ["depth=2"],
        ["model.init_std=0.5"],
        ["scheduler=cosine"],
        ["optimizer=sgd", "optimizer.momentum=0.5"],
    ]
    for i, command in enumerate(commands):
        write_result(tmp_path / str(i), row(*command) | outcome)
    table = collect(tmp_path).sort_values("folder", ignore_index=True)
    assert table["depth"].tolist() == [3, 2, 3, 3, 3]
    assert table["model.init_std"].tolist() == [1, 1, 0.5, 1, 1]
    assert table["scheduler"].tolist() == ["constant"] * 3 + ["cosine", "constant"]
    assert table["optimizer.momentum"].isna().tolist() == [True] * 4 + [False]
    assert table["data"].tolist() == ["digits"] * 5

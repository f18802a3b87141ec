"""Folders are named so that a person recognises them, and found again by what is trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mupl.identity import job_id, remember_sweep, write_result
from mupl.identity.folders import earlier_folder, job_folder, sweep_folder
from mupl.identity.jobs import sweep_id
from mupl.training.registration import register
from tests.commands import ROOT, row_of


@pytest.fixture(autouse=True, scope="module")
def configs() -> Iterator[None]:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def multirun(*overrides: str) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)


def folder_of(sweep_dir: Path, sweep: str, *overrides: str) -> str:
    """The folder of a job of a sweep, which lies in `sweep_dir`."""
    job = compose("train", [*overrides], return_hydra_config=True)
    with read_write(job.hydra), open_dict(job.hydra):
        job.hydra.sweep.dir = str(sweep_dir)
    master = multirun(*sweep.split())
    remember_sweep(master)
    OmegaConf.copy_cache(from_config=master, to_config=job)
    return job_folder(job, job_id(job))


SWEEP = "parametrization=sp,mup width=64,256 lr=0.008,0.016"


@pytest.mark.parametrize("lr", ["0.016", "1.6e-2", "16e-3", "0.0160"])
def test_a_job_is_named_by_what_is_swept_however_it_is_spelled(tmp_path: Path, lr: str) -> None:
    said = ["width=256", f"lr={lr}"]
    name = folder_of(tmp_path, SWEEP, *said)
    assert name == f"mup_width=256_lr=0.016-{job_id(compose('train', said))[:4]}"


def test_values_of_any_kind_make_a_name_that_a_shell_takes(tmp_path: Path) -> None:
    sweep = "parametrization=absolute/groups,mup width=[8,16],8 "
    sweep += "model.init_std=0.5,1 model.bias=true,false"
    said = ["parametrization=absolute/groups", "base_width=1", "width=[8,16]", "model.init_std=1.0",
            "model.bias=false"]  # fmt: skip
    name = folder_of(tmp_path, sweep, *said).rpartition("-")[0]
    assert name == "absolute-groups_width=8-16_bias=false_init_std=1"


def test_a_job_is_found_by_its_id_whatever_else_is_swept(tmp_path: Path) -> None:
    said = ["width=256", "lr=0.016", "seed=0"]
    first = folder_of(tmp_path, SWEEP, *said)
    write_result(tmp_path / first, row_of(job_id(compose("train", said))))
    assert folder_of(tmp_path, f"{SWEEP} seed=0,1", *said) == first
    other = folder_of(tmp_path, f"{SWEEP} seed=0,1", "width=256", "lr=0.016", "seed=1")
    assert other.startswith("mup_width=256_lr=0.016_seed=1-")


def test_folders_of_before_are_found(tmp_path: Path) -> None:
    said = ["width=256", "lr=0.016"]
    job = job_id(compose("train", said))
    write_result(tmp_path / job, row_of(job))
    assert folder_of(tmp_path, SWEEP, *said) == job


def test_the_folder_of_another_job_is_left_alone(tmp_path: Path) -> None:
    said = ["width=256", "lr=0.016"]
    job = job_id(compose("train", said))
    taken = folder_of(tmp_path, SWEEP, *said)
    write_result(tmp_path / taken, row_of("another"))
    assert folder_of(tmp_path, SWEEP, *said) == f"mup_width=256_lr=0.016-{job}"


def test_a_sweep_is_named_by_its_experiment_and_data_or_as_it_is_told() -> None:
    plain = multirun("lr=0.1,0.2")
    digits = sweep_id(plain)[:4]
    assert sweep_folder(plain) == f"digits-{digits}"
    assert sweep_folder(multirun("lr=0.1,0.2", "name=first try")) == f"first-try-{digits}"
    named = sweep_folder(multirun("experiment=lr_transfer", "data=mnist"))
    assert named.startswith("lr_transfer_mnist-")
    assert sweep_folder(multirun("experiment=lr_transfer_mnist")).startswith("lr_transfer_mnist-")


def test_a_sweep_under_its_name_of_before_is_pointed_out(tmp_path: Path) -> None:
    config = multirun("lr=0.1,0.2", f"hydra.sweep.dir={tmp_path}/${{sweep_folder:}}")
    before = tmp_path / f"lr_transfer-{sweep_id(config)[:8]}"
    assert earlier_folder(config) is None
    before.mkdir()
    assert earlier_folder(config) == before
    Path(config.hydra.sweep.dir).mkdir()
    assert earlier_folder(config) is None

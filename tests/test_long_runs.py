"""A long run goes on bit for bit, also after a signal, and devices share its batches."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from mupl.data import Tokens, TrainLoader, digits
from mupl.errors import ConfigError
from mupl.identity import job_id
from mupl.models import GPT
from mupl.training.blocks import blocks, checkpoint_activations
from mupl.training.progress import device_flops
from tests.commands import IGNORED, command, environment, start, train, train_here

pytestmark = IGNORED

GPT_RUN = (
    "model=gpt", "data=text", "data.context=8", "width=8", "base_width=8", "model.d_head=4",
    "depth=2", "batch_size=8", "scheduler=cosine", "max_steps=12", "trainer.log_every_n_steps=2",
    "trainer.val_check_interval=4", "sample.tokens=12",
)  # fmt: skip
CPU = ("trainer=cpu",)
EVERY_STEP = ("checkpoint.every_steps=1", "checkpoint.keep=99")


def checkpoint_of(folder: Path, step: int) -> dict[str, object]:
    return torch.load(folder / "checkpoints" / f"step-{step}.ckpt", weights_only=True)


def equal(a: object, b: object) -> bool:
    """Whether two values of a checkpoint are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))  # type: ignore[arg-type]
    return a == b


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(*GPT_RUN, *CPU, *EVERY_STEP, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


# Steps of which nothing, a logged loss, or a validation is last
@pytest.mark.parametrize(
    "step", [1, 2, 4, *(pytest.param(step, marks=pytest.mark.slow) for step in (7, 11))]
)
def test_a_resumed_run_is_the_whole_run(
    step: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(whole / "checkpoints" / f"step-{step}.ckpt", tmp_path / "checkpoints")
    shutil.copy(whole / "metrics.csv", tmp_path)  # which has rows of later steps too
    here = f"hydra.run.dir={tmp_path}"
    done = train_here(capfd, *GPT_RUN, *CPU, *EVERY_STEP, here, "resume=true")
    assert done.returncode == 0, done.stderr
    assert f"resume: goes on from {tmp_path}/checkpoints/step-{step}.ckpt" in done.stdout
    assert (tmp_path / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert (tmp_path / "sample.txt").read_text() == (whole / "sample.txt").read_text()
    ours, theirs = checkpoint_of(tmp_path, 12), checkpoint_of(whole, 12)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "mupl_losses", "mupl_run"):
        assert equal(ours[key], theirs[key]), key
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path, whole)]
    for key in ("job", "status", "steps", "train_loss", "val_loss", "val_accuracy"):
        assert results[0][key] == results[1][key], key


def test_masks_of_torch_s_dropout_go_on_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    run = (
        "model=hf_gpt2", "data=text", "data.context=8", "width=8", "base_width=8", "depth=1",
        "model.sizes.num_attention_heads=1", "model.options.resid_pdrop=0.5", "max_steps=6",
        "trainer.log_every_n_steps=1", "batch_size=4", "checkpoint.every_steps=3",
    )  # fmt: skip
    folders = tmp_path / "whole", tmp_path / "rest"
    (folders[1] / "checkpoints").mkdir(parents=True)
    for folder, more in zip(folders, ((), ("resume=true",)), strict=True):
        done = train_here(capfd, *run, *CPU, "checkpoint.keep=9", f"hydra.run.dir={folder}", *more)
        assert done.returncode == 0, done.stderr
        if not more:
            shutil.copy(folder / "checkpoints/step-3.ckpt", folders[1] / "checkpoints")
            shutil.copy(folder / "metrics.csv", folders[1])
    whole, rest = ((folder / "metrics.csv").read_text() for folder in folders)
    assert whole == rest


def test_a_run_that_is_done_is_not_run_again(
    whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "metrics.csv").stat().st_mtime_ns
    done = train_here(capfd, *GPT_RUN, *CPU, f"hydra.run.dir={whole}", "resume=true")
    assert done.stdout.startswith("done before: completed: train_loss")
    assert (whole / "metrics.csv").stat().st_mtime_ns == before


def test_checkpoints_of_another_setup_are_refused_and_other_settings_said(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    there = (f"hydra.run.dir={tmp_path}", f"resume={whole}/checkpoints/step-4.ckpt")
    done = train_here(capfd, *GPT_RUN, *CPU, *there, "lr=0.5")
    assert done.returncode == 1
    assert "checkpoint: it was saved under lr=0.001 (now 0.5)" in done.stderr
    done = train_here(
        capfd, *GPT_RUN, *CPU, *there, "seed=0", "batch_size=16", "trainer.log_every_n_steps=7"
    )
    assert done.returncode == 0, done.stderr
    said = "batch_size=16 (was 8), trainer.log_every_n_steps=7 (was "
    assert f"note: resume: goes on with {said}" in done.stdout


def test_the_last_and_the_best_checkpoint_are_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("checkpoint.every_steps=2", "checkpoint.keep=2", "checkpoint.best=true")
    done = train_here(capfd, *GPT_RUN, *CPU, *options, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.ckpt", "step-10.ckpt", "step-12.ckpt"]


def test_a_short_run_saves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train_here(capfd, *GPT_RUN, *CPU, f"hydra.run.dir={tmp_path}").returncode == 0
    assert not (tmp_path / "checkpoints").exists()
    by_time = ("checkpoint.every_minutes=1e-9", "checkpoint.keep=99")
    assert train_here(capfd, *GPT_RUN, *CPU, *by_time, f"hydra.run.dir={tmp_path}").returncode == 0
    assert len(list((tmp_path / "checkpoints").iterdir())) == 12


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_same_command_goes_on(number: int, tmp_path: Path) -> None:
    """Whatever the folder is: `resume=true` finds the run of the same settings."""
    steps = 100_000
    run = (*CPU, "width=8", "base_width=8", "checkpoint.every_steps=200", "resume=true")
    process = start(*run, f"max_steps={steps}", cwd=tmp_path)
    end = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/*/*/checkpoints/*.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    (folder,) = tmp_path.glob("outputs/*/[0-9]*")
    said = f"{signal.Signals(number).name}: saved at step "
    assert err.startswith(said), err
    assert "the same command with resume=true goes on" in err
    step = int(err.removeprefix(said).partition(";")[0])
    assert (folder / "checkpoints" / f"step-{step}.ckpt").exists()
    assert not (folder / "result.json").exists()
    time.sleep(1.1)  # another folder would have another second in its name
    process = start(*run, f"max_steps={steps}", cwd=tmp_path)
    newer = folder / "checkpoints" / f"step-{200 * (step // 200 + 2)}.ckpt"
    while not newer.exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert f"goes on from {folder.relative_to(tmp_path)}" in out or str(folder) in out
    assert err.startswith(said)
    assert list(tmp_path.glob("outputs/*/[0-9]*")) == [folder]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["step"].tolist() == list(range(49, metrics["step"].max() + 1, 50))


# --- batches in parts


@pytest.mark.parametrize("kind", ["text", "images"])
def test_processes_and_micro_batches_share_the_batch_of_one(kind: str) -> None:
    data: Tokens | object = digits()
    if kind == "text":
        data = Tokens(torch.arange(500), torch.arange(50), 500, context=4)
    (whole,) = [TrainLoader(data.train_batches(12, [3]))]  # type: ignore[attr-defined]
    loaders = []
    for rank in range(2):
        batches = data.train_batches(12, [3], parts=6)  # type: ignore[attr-defined]
        loaders.append(iter(TrainLoader(batches, micro_batches=3, rank=rank, world_size=2)))
    for x, y in [batch for batch, _ in zip(whole, range(3), strict=False)]:
        parts = [next(loaders[i % 2]) for i in range(6)]
        assert torch.equal(torch.cat([part for part, _ in parts]), x)
        assert torch.equal(torch.cat([part for _, part in parts]), y)


def test_micro_batches_compute_the_same(
    whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("micro_batches=4", "checkpoint_activations=true", f"hydra.run.dir={tmp_path}")
    done = train_here(capfd, *GPT_RUN, *CPU, *options)
    assert done.returncode == 0, done.stderr
    ours, theirs = (pd.read_csv(folder / "metrics.csv") for folder in (tmp_path, whole))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path, whole)]
    assert results[0]["job"] == results[1]["job"]


def test_devices_are_no_part_of_a_job_s_id() -> None:
    base = {"batch_size": 8, "trainer": {"devices": 1, "max_steps": 3}}
    more = {"batch_size": 8, "micro_batches": 2, "resume": True, "compile": True}
    more["trainer"] = {"devices": 4, "num_nodes": 2, "strategy": "ddp", "max_steps": 3}
    assert job_id(OmegaConf.create(base)) == job_id(OmegaConf.create(more))
    assert job_id(OmegaConf.create(base)) != job_id(OmegaConf.create(base | {"batch_size": 16}))


def run_of(folder: Path, *arguments: str) -> pd.DataFrame:
    done = subprocess.run(
        command(*GPT_RUN, "trainer.accelerator=cpu", f"hydra.run.dir={folder}", *arguments),
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.count("completed:") == 1
    return pd.read_csv(folder / "metrics.csv")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_two_processes_train_what_one_trains(optimizer: str, tmp_path: Path) -> None:
    options = (f"optimizer={optimizer}", "trainer.precision=64-true")
    if optimizer == "muon":  # bfloat16 amplifies rounding
        options += ("optimizer.method=accurate",)
    one = run_of(tmp_path / "one", *options)
    two = run_of(tmp_path / "two", *options, "trainer=ddp", "trainer.devices=2")
    pd.testing.assert_frame_equal(one, two, rtol=1e-10)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    assert results[0]["job"] == results[1]["job"]
    assert results[0]["train_loss"] == pytest.approx(results[1]["train_loss"], rel=1e-10)


@pytest.mark.slow
def test_sharded_weights_train_the_same_and_go_on_on_one_device(
    whole: Path, tmp_path: Path
) -> None:
    sharded = ("trainer=fsdp2", "trainer.devices=2")
    expected = pd.read_csv(whole / "metrics.csv")
    steps = ("checkpoint.every_steps=6", "checkpoint.keep=9")
    pd.testing.assert_frame_equal(run_of(tmp_path / "a", *sharded, *steps), expected, rtol=1e-5)
    for name, options in (("one", CPU), ("two", sharded)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        shutil.copy(tmp_path / "a/checkpoints/step-6.ckpt", tmp_path / name / "checkpoints")
        shutil.copy(tmp_path / "a/metrics.csv", tmp_path / name)
        metrics = run_of(tmp_path / name, *options, "resume=true")
        pd.testing.assert_frame_equal(metrics, expected, rtol=1e-5)
        row = json.loads((tmp_path / name / "result.json").read_text())
        whole_row = json.loads((whole / "result.json").read_text())
        assert row["train_loss"] == pytest.approx(whole_row["train_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_matrix_optimizer_is_refused_where_weights_are_sharded() -> None:
    options = ("trainer=fsdp2", "trainer.devices=2", "trainer.accelerator=cpu", "optimizer=muon")
    done = subprocess.run(
        command(*GPT_RUN, *options), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1, done.stderr
    assert "(orthogonal) need the whole matrix" in lines[0]
    assert "say trainer=ddp" in lines[0]


# --- samples


def test_a_sample_takes_the_most_likely_tokens_only() -> None:
    torch.manual_seed(0)
    model = GPT(vocabulary=50, context=8, width=16, depth=1, d_head=4)
    prompt = torch.zeros(1, 1, dtype=torch.long)
    greedy = model.generate(prompt, 20, temperature=0)
    assert torch.equal(model.generate(prompt, 20, temperature=3.0, top_k=1), greedy)
    for _ in range(20):
        allowed = model(prompt)[0, -1].topk(3).indices.tolist()
        assert model.generate(prompt, 1, temperature=9.0, top_k=3)[0, -1].item() in allowed


def test_a_model_that_diverged_writes_no_sample(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wild = ("lr=1e30", "optimizer=sgd", f"hydra.run.dir={tmp_path}")
    assert train_here(capfd, *GPT_RUN, *CPU, *wild).returncode == 3
    assert not (tmp_path / "sample.txt").exists()


def test_the_blocks_of_a_gpt_are_found() -> None:
    model = GPT(vocabulary=50, context=8, width=16, depth=3, d_head=4)
    assert blocks(model) == list(model.blocks)
    with pytest.raises(ConfigError, match="the model has no list of blocks"):
        checkpoint_activations(torch.nn.Linear(2, 2))


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_ends_both_with_a_checkpoint(tmp_path: Path) -> None:
    two = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "max_steps=100000")
    options = ("width=8", "base_width=8", "checkpoint.every_steps=50")
    process = subprocess.Popen(
        command(*two, *options, f"hydra.run.dir={tmp_path}"), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoints/*.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("SIGTERM: saved at step ")


def test_the_flops_of_an_h200_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_flops(torch.device("cuda"), torch.bfloat16) == 989.5e12
    assert device_flops(torch.device("cuda"), "tfloat32") == 494.7e12
    assert device_flops(torch.device("cpu"), torch.float32) is None

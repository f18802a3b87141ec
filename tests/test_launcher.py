"""Sweeps under `hydra/launcher=stacked`: what the basic launcher leaves, and nothing is lost."""

import contextlib
import importlib
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from mupl.stacked.stack import Stack
from tests.commands import (
    IGNORED,
    ROOT,
    SMALL,
    TABLE_ONLY,
    Done,
    command,
    environment,
    start,
    train_anew,
    train_here,
)

pytestmark = IGNORED

SLOW = pytest.mark.slow
Train = Callable[..., Done]

EXACT = [*SMALL, "trainer.precision=64-true", "trainer.log_every_n_steps=5"]
ONE_BY_ONE = "one by one"  # part of the lines that say that jobs were not stacked


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str]) -> Train:
    return lambda *arguments: train_here(capfd, *arguments)


@pytest.fixture
def sweep(train: Train) -> Train:
    """A multirun in a folder, under a launcher, that ends with its table."""

    def start(folder: Path, launcher: str, *arguments: str) -> Done:
        return train(
            "-m", f"hydra/launcher={launcher}", TABLE_ONLY, *arguments, f"hydra.sweep.dir={folder}"
        )

    return start


def results(folder: Path) -> pd.DataFrame:
    """results.csv without what no two sweeps have in common."""
    return pd.read_csv(folder / "results.csv").drop(columns="seconds")


def hydra_config(file: Path) -> Any:
    """hydra.yaml without the launcher and the paths."""
    config: Any = OmegaConf.to_container(OmegaConf.load(file))
    hydra = config["hydra"]
    hydra.pop("launcher")
    hydra["sweep"].pop("dir")
    hydra["runtime"].pop("output_dir")
    hydra["runtime"]["choices"].pop("hydra/launcher")
    hydra["overrides"].pop("hydra")
    return hydra


def assert_same(basic: Path, other: Path) -> None:
    """The same files in every job's folder, and the same results."""
    jobs = {folder.name for folder in basic.iterdir() if folder.is_dir()}
    assert jobs == {folder.name for folder in other.iterdir() if folder.is_dir()}
    for job in jobs:
        files = {file.relative_to(basic) for file in (basic / job).rglob("*")}
        assert files == {file.relative_to(other) for file in (other / job).rglob("*")}
        for file in ("config.yaml", "overrides.yaml"):
            assert (basic / job / ".hydra" / file).read_text() == (
                other / job / ".hydra" / file
            ).read_text()
        assert hydra_config(basic / job / ".hydra/hydra.yaml") == hydra_config(
            other / job / ".hydra/hydra.yaml"
        )
        table = "parametrization.csv"
        if (basic / job / table).exists():  # not of a job that failed
            assert (basic / job / table).read_text() == (other / job / table).read_text()
            for file in (basic / job).rglob("metrics.csv"):
                metrics, others = (
                    pd.read_csv(path) for path in (file, other / file.relative_to(basic))
                )
                # the basic launcher takes accuracies in float32
                pd.testing.assert_frame_equal(metrics, others, rtol=1e-6)
    exact = [c for c in results(basic) if c != "val_accuracy"]
    pd.testing.assert_frame_equal(results(basic)[exact], results(other)[exact], rtol=1e-9)
    pd.testing.assert_frame_equal(results(basic), results(other), rtol=1e-6)


SWEEPS: dict[str, tuple[list[str], int]] = {
    # overrides, number of stacks
    "diverging": (
        ["width=8", "lr=0.05,1e30", "parametrization=sp,mup", "optimizer=sgd"],
        1,
    ),
    "regularised": (
        [
            "width=8",
            "weight_decay=0.1",
            "weight_decay_mode=coupled,decoupled,independent",
            "trainer.gradient_clip_val=null,0.1",
        ],
        1,
    ),
    "shapes": (["width=8,[8,4]", "batch_size=32,64"], 4),
    "biases": (["width=8", "model.bias=true,false", "seed=0,1"], 2),
    "multipliers": (
        ["width=8", "model.init_std=0.5,1", "model.input_mult=1,2", "model.output_mult=4"],
        1,
    ),
    "options": (
        ["width=8", "optimizer.betas=[0.9,0.999],[0.8,0.9]", "scheduler=cosine,linear", "eps=1e-3"],
        1,
    ),
    "momentum": (
        [
            "width=8",
            "optimizer=sgd",
            "optimizer.momentum=0.5,0.9",
            "+optimizer.nesterov=true,false",
        ],
        2,
    ),
    "validated": (["width=8", "lr=0.01,1e30", "optimizer=sgd", "trainer.val_check_interval=7"], 1),
    "not validated": (
        ["width=8", "lr=0.01,1e30", "optimizer=sgd", "+trainer.limit_val_batches=0"],
        1,
    ),
    "not logged": (
        [
            "width=8",
            "+trainer.limit_val_batches=0",
            "trainer.log_every_n_steps=50",
            "logger.csv.name=x",
        ],
        1,
    ),
    "logged otherwise": (["width=8", "logger.csv.version=null", "logger.csv.name=x"], 1),
    "tuned by module": (
        [
            *("width=16", "model=gpt", "data=text", "data.context=8", "model.d_head=4", "depth=1"),
            *("batch_size=2", "weight_decay=0.1", "parametrization=mup,mup_table9"),
            *("tune.hidden.lr=0.5,2", "tune.hidden.weight_decay=3", "tune.attention.mult=2"),
            *("tune.residual.mult=0.5", "tune.head.of=readout.*", "tune.head.init=2"),
        ],
        1,
    ),
    "overridden": (
        [
            "width=16",
            "base_width=4,8",
            '+parametrization.overrides={layers.1.*:{lr:"m_in^-1/2"}}',
            "+roles={layers.1.bias:hidden}",
            "+init={readout.*:{name:normal,std:0.02}}",
        ],
        1,
    ),
    "recorded": (
        [
            "width=8",
            "seed=0,1",
            "weight_decay=0.1",
            "callbacks=coordinates",
            "callbacks.coordinates.steps=3",
        ],
        1,
    ),
}


# the others differ in numbers of the members, which tests/test_stack.py compares
OFTEN = ("diverging", "shapes", "validated", "tuned by module", "recorded")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else SLOW) for name in SWEEPS]
)
def test_a_sweep_leaves_what_the_basic_launcher_leaves(
    name: str, sweep: Train, tmp_path: Path
) -> None:
    overrides, stacks = SWEEPS[name]
    for launcher in ("basic", "stacked"):
        done = sweep(tmp_path / launcher, launcher, *EXACT, *overrides)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ONE_BY_ONE not in done.stdout
    assert f"stack {stacks} of {stacks}" in done.stdout
    assert_same(tmp_path / "basic", tmp_path / "stacked")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["callbacks=lr_monitor"], "callbacks.lr_monitor: a stack does not know lightning"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: a stack does not know it"),
        (["+optimizer.amsgrad=true"], "optimizer.amsgrad=True: a stack knows betas"),
        (["+trainer.detect_anomaly=true"], "trainer.detect_anomaly=True: a stack does not know it"),
    ],
)
def test_jobs_that_cannot_be_stacked_run_alone_with_a_line_saying_why(
    overrides: list[str], reason: str, sweep: Train, tmp_path: Path
) -> None:
    done = sweep(tmp_path, "stacked", *SMALL, "width=8,16", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"2 of 2 jobs run one by one: {reason}" in done.stdout
    assert "stack 1" not in done.stdout
    assert (results(tmp_path)["status"] == "completed").all()


def test_the_rest_of_the_jobs_is_stacked(sweep: Train, tmp_path: Path) -> None:
    done = sweep(tmp_path, "stacked", *SMALL, "width=8", "seed=0,1", "callbacks=none,lr_monitor")
    assert "2 of 4 jobs run one by one" in done.stdout
    assert "stack 1 of 1: 2 jobs" in done.stdout
    assert [f"[{i}/4] seed=" in done.stdout for i in (1, 2, 3, 4)] == [True] * 4
    assert (results(tmp_path)["status"] == "completed").all()


def written(folder: Path) -> dict[str, int]:
    """When each job's result was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in folder.glob("*/result.json")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("basic", "stacked"), ("stacked", "stacked")),
        *(pytest.param(first, "basic", marks=SLOW) for first in ("basic", "stacked")),
    ],
)
def test_the_same_command_again_trains_nothing_and_a_larger_one_what_is_new(
    first: str, second: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the folder of a sweep is not said
    arguments = ["-m", *SMALL, TABLE_ONLY, "lr=0.01,0.02"]
    train(*arguments, "width=8", f"hydra/launcher={first}")
    (folder,) = tmp_path.glob("multirun/digits-*")
    before, table = written(folder), (folder / "results.csv").read_text()
    (folder / "results.csv").unlink()
    again = train(
        *arguments, "width=8", f"hydra/launcher={second}", "logger={}", "metric=train_loss"
    )
    assert "2 of 2 jobs were done before" in again.stdout
    assert "stack 1" not in again.stdout
    assert written(folder) == before
    assert (folder / "results.csv").read_text() == table
    larger = train(*arguments, "width=8,16", "seed=0,1", f"hydra/launcher={second}")
    assert "2 of 8 jobs were done before" in larger.stdout, larger.stderr
    assert list(tmp_path.glob("multirun/*")) == [folder]
    assert {job: when for job, when in written(folder).items() if job in before} == before
    assert len(results(folder)) == 8


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=SLOW), "stacked"])
def test_failed_jobs_or_all_run_again_on_request(
    launcher: str, sweep: Train, tmp_path: Path
) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "broken").touch()
    folder = tmp_path / "sweep"
    roots = f"data.root={tmp_path}/whole,{tmp_path}/broken"
    arguments = [
        folder,
        launcher,
        *SMALL,
        "width=8",
        "seed=0,1",
        "data._target_=tests.models.digits_of",
        roots,
    ]
    done = sweep(*arguments)
    assert done.returncode == 1
    assert "2 completed, 2 failed" in done.stdout
    failed = results(folder).query("status == 'failed'")
    assert set(failed["error"]) == {
        "InstantiationException: " + failed["error"].iloc[0].partition(": ")[2]
    }
    before = written(folder)
    (tmp_path / "broken" / "broken").unlink()
    said = sweep(*arguments).stdout
    assert "4 of 4 jobs were done before (" in said
    assert "rerun=failed trains again what failed" in said
    assert written(folder) == before
    again = sweep(*arguments, "rerun=failed")
    assert again.returncode == 0
    assert "2 of 4 jobs were done before" in again.stdout
    assert {job for job, when in written(folder).items() if when != before[job]} == set(
        failed["folder"]
    )
    table = results(folder)
    said = sweep(*arguments).stdout
    assert "(rerun=all trains them anew)" in said
    assert "rerun=failed" not in said  # none has failed now
    assert "were done before" not in sweep(*arguments, "rerun=all").stdout
    assert all(when > before[job] for job, when in written(folder).items())
    pd.testing.assert_frame_equal(results(folder), table)


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_job_that_failed_in_another_command_is_named_and_does_not_fail_this_one(
    launcher: str, sweep: Train, tmp_path: Path
) -> None:
    arguments = [tmp_path, launcher, *SMALL, "width=8"]
    assert sweep(*arguments, "lr=abc,0.1").returncode == 1
    done = sweep(*arguments, "lr=0.1,0.2")
    assert done.returncode == 0
    assert "2 completed, 1 failed" in done.stdout
    assert "failed in an earlier command: job lr=abc-" in done.stdout
    assert "rerun=failed" not in done.stdout
    again = sweep(*arguments, "lr=abc,0.1")  # it asks for the job, which fails as it did
    assert again.returncode == 1
    assert "\nfailed: job lr=abc-" in again.stdout


@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_wrong_word_for_what_to_run_again_is_one_clear_line(
    launcher: str, sweep: Train, tmp_path: Path
) -> None:
    done = sweep(tmp_path, launcher, *SMALL, "width=8,16", "rerun=some")
    assert done.returncode == 1
    assert done.stderr == "error: rerun=some: must be one of missing, failed, changed, keep, all\n"


def test_a_wrong_option_of_the_launcher_is_one_clear_line(sweep: Train, tmp_path: Path) -> None:
    for option, words in (
        ("executor=carrier", "must be null or one of submitit_local"),
        ("max_members=0", "whole number"),
    ):
        done = sweep(tmp_path, "stacked", *SMALL, "width=8,16", f"hydra.launcher.{option}")
        assert done.stderr.startswith(f"error: hydra.launcher.{option}: must be "), done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "at", "callbacks"),
    [
        (signal.SIGINT, 33, "none"),
        pytest.param(signal.SIGTERM, 70, "none", marks=SLOW),
        (signal.SIGTERM, 70, "coordinates"),
    ],
)
def test_a_sweep_that_is_interrupted_goes_on_where_it_was(
    number: signal.Signals,
    at: int,
    callbacks: str,
    sweep: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = ["width=8,16", "lr=0.01,1e30", "seed=0,1", "optimizer=sgd"]
    arguments = [
        "stacked",
        *EXACT,
        *grid,
        "max_steps=50",
        "trainer.val_check_interval=20",
        f"callbacks={callbacks}",
    ]
    steps = []
    step = Stack._step

    def counted(stack: Stack) -> Any:
        steps.append(stack.k)
        if len(steps) == at:
            signal.raise_signal(number)
        return step(stack)

    monkeypatch.setattr(Stack, "_step", counted)
    done = sweep(tmp_path / "interrupted", *arguments)
    assert done.returncode == 128 + number
    assert len(steps) == at
    title, k = f"stack {1 + at // 50} of 2", at % 50
    assert done.stderr.startswith(f"{number.name}: {title}, step {k} of 50: it")
    assert done.stderr.endswith("the same command goes on from here\n")
    states = list(tmp_path.glob("interrupted/states/*"))
    assert {str(file) in done.stderr for file in states if file.suffix == ".pt"} == (
        {True} if states else set()
    )
    done = sweep(tmp_path / "interrupted", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps[at] == (k if states else 0)
    assert bool(states) is (callbacks == "none")
    assert not list(tmp_path.glob("interrupted/states/*"))
    sweep(tmp_path / "whole", *arguments)
    assert results(tmp_path / "whole").equals(results(tmp_path / "interrupted"))
    for file in tmp_path.glob("whole/*/*.csv"):
        assert (
            file.read_text()
            == (tmp_path / "interrupted" / file.relative_to(tmp_path / "whole")).read_text()
        )


def stopping_at(number: int, steps: list[int] | None = None) -> Any:
    """Return a step of stacks that is interrupted the so-manieth time, counting from 1."""
    steps = [] if steps is None else steps
    step = Stack._step

    def counted(stack: Stack) -> Any:
        steps.append(stack.k)
        if len(steps) == number:
            signal.raise_signal(signal.SIGTERM)
        return step(stack)

    return counted


def test_a_stack_that_other_code_began_starts_anew_on_request(
    sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Stack, "_step", stopping_at(7, steps))
    arguments = [tmp_path, "stacked", *SMALL, "width=8", "seed=0,1"]
    assert sweep(*arguments).returncode == 128 + signal.SIGTERM
    assert list(tmp_path.glob("states/*.pt"))
    monkeypatch.setattr("mupl.stacked.checkpoint.changes", lambda provenance: ["torch 1 (now 2)"])
    refused = sweep(*arguments)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "was begun with another version of torch 1 (now 2): say rerun=changed" in refused.stderr
    assert sweep(*arguments, "rerun=changed").returncode == 0
    assert steps[7] == 0


def test_a_stack_that_other_code_began_goes_on_if_it_is_to_be_kept(
    sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [tmp_path, "stacked", *SMALL, "width=8", "seed=0,1"]
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "_step", stopping_at(7))
        assert sweep(*arguments).returncode == 128 + signal.SIGTERM
    monkeypatch.setattr("mupl.stacked.checkpoint.changes", lambda provenance: ["torch 1 (now 2)"])
    assert sweep(*arguments, "rerun=keep").returncode == 0


def test_a_process_that_is_interrupted_says_so_and_ends(tmp_path: Path) -> None:
    endless = ["-m", "hydra/launcher=stacked", *SMALL, "max_steps=200000", "width=8", "seed=0,1"]
    process = start(*endless, f"hydra.sweep.dir={tmp_path}", "hydra.launcher.save_every=0")
    while not list(tmp_path.glob("states/*.pt")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == f"2 jobs in {tmp_path}\nstack 1 of 1: 2 jobs, 200000 steps\n"
    assert re.fullmatch(
        r"SIGINT: stack 1 of 1, step \d+ of 200000: its state is in .*[.]pt; the same .*\n", err
    )


@pytest.fixture
def python_handles_sigint() -> Iterator[None]:
    """As in a process of its own; pytest-xdist's workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_sigint")
@pytest.mark.parametrize(
    "moment",
    [
        "mupl.stacked.plan.shape_key",
        "mupl.stacked.describe.build_setup",
        "mupl.stacked.output.outcome_of",
    ],
)
def test_an_interrupt_while_nothing_is_trained_is_one_line_too(
    moment: str, sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [tmp_path, "stacked", *SMALL, "width=8", "seed=0,1"]
    with monkeypatch.context() as patch:
        module, _, name = moment.rpartition(".")
        function = getattr(importlib.import_module(module), name)

        def interrupted(*arguments: Any, **options: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return function(*arguments, **options)

        patch.setattr(moment, interrupted)
        patch.setattr("mupl.stacked.describe._SETUPS", {})
        done = sweep(*arguments)
    assert done.returncode == 130
    kept = "SIGINT: (what is done is kept|stack 1 of 1, at its end: its results are written).*\n"
    assert re.fullmatch(kept, done.stderr), done.stderr
    assert sweep(*arguments).returncode == 0
    assert (results(tmp_path)["status"] == "completed").all()


@SLOW
def test_a_sweep_that_is_killed_twenty_times_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    chance = random.Random(0)
    grid = [
        "width=8,16,32",
        "lr=0.01,0.02,0.04,0.08,1e30",
        "seed=0,1",
        "parametrization=sp,mup",
        "optimizer=sgd",
    ]
    options = [
        "max_steps=10000",
        "trainer=cpu",
        "hydra.launcher.save_every=0",
        "hydra/launcher=stacked",
    ]

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        arguments = command("-m", *grid, *options, f"hydra.sweep.dir={folder}")
        return subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)

    def training(folder: Path) -> bool:
        return bool(list(folder.glob("states/*.pt"))) or not list(folder.glob("*/result.json"))

    killed_in_training = 0
    for _ in range(20):
        process = start(tmp_path / "killed")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(3, 9))
        killed_in_training += training(tmp_path / "killed")
        process.kill()
        process.wait()
    assert killed_in_training >= 10
    assert start(tmp_path / "killed").wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    assert len(results(tmp_path / "whole")) == 60
    assert results(tmp_path / "whole").equals(results(tmp_path / "killed"))


GOOD = {
    "lr": "0.01",
    "width": "8",
    "batch_size": "32",
    "data": "tests.models.digits_of",
    "betas": "[0.9,0.99]",
}
BAD = [
    # what is wrong, and what its row's error says
    ({"lr": "fast"}, "ConfigError: lr=fast: must be a finite number"),
    ({"width": "0"}, "ConfigError: width=0: must be a whole number >= 1, or a list of them"),
    ({"betas": "[0.9, 7]"}, "ConfigError: optimizer=AdamW: Invalid beta parameter at index 1: 7"),
    ({"data": "tests.models.burning"}, "OSError('the disk is on fire')"),
    ({"lr": "1e+30"}, None),  # diverges
]


@pytest.mark.parametrize(
    "launchers", [["stacked"], pytest.param(["stacked", "basic"], marks=SLOW)], ids="-".join
)
def test_ten_bad_jobs_among_fifty_leave_forty_good_rows_and_say_what_was_wrong(
    launchers: list[str], sweep: Train, tmp_path: Path
) -> None:
    cases = [GOOD | {"lr": f"{0.001 * (i + 1):.3f}"} for i in range(20)] + [
        GOOD | change for change, _ in BAD
    ]
    texts = [
        "{" + ",".join(f"{key}:{value}" for key, value in case.items()) + "}" for case in cases
    ]
    keys = [f"{key}=${{case.{key}}}" for key in ("lr", "width", "batch_size")]
    keys += ["data._target_=${case.data}", "optimizer.betas=${case.betas}"]
    arguments = [*SMALL[1:], "max_steps=5", "seed=0,1", *keys, f"+case={','.join(texts)}"]
    tables = []
    for launcher in launchers:
        done = sweep(tmp_path / launcher, launcher, *arguments)
        assert done.returncode == 1, done.stderr
        assert "40 completed, 2 diverged, 8 failed" in done.stdout
        assert launcher == "basic" or "stack 1 of 1: 42 jobs" in done.stdout, done.stdout
        tables.append(results(tmp_path / launcher))
        for change, error in BAD:
            ((key, value),) = change.items()
            rows = tables[-1][tables[-1]["case"].str.contains(f"'{key}': '?{re.escape(value)}")]
            assert rows["status"].tolist() == ["failed" if error else "diverged"] * 2
            assert error is None or rows["error"].str.contains(error, regex=False).all(), rows[
                "error"
            ].tolist()
        for job in tables[-1]["folder"]:
            assert (tmp_path / launcher / job / ".hydra" / "config.yaml").exists()
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-4)


def raise_above(members: int, error: Exception) -> Callable[[Stack], Any]:
    step = Stack._step

    def limited(stack: Stack) -> Any:
        if len(stack.members) > members or any(member.seed == 13 for member in stack.members):
            raise error
        return step(stack)

    return limited


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_out_of_memory_halves_a_stack_and_all_results_are_there(
    sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["stacked", *EXACT, "width=8", "lr=0.01,0.02,0.03", "seed=0,1,2"]
    sweep(tmp_path / "whole", *arguments)
    on_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for name, error in (("GPU", OUT_OF_MEMORY), ("Python", MemoryError()), ("CPU", on_cpu)):
        with monkeypatch.context() as patch:
            patch.setattr(Stack, "_step", raise_above(3, error))
            done = sweep(tmp_path / name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        said = [
            f"stack 1 of 1: out of memory with {n} members: going on with halves" for n in (9, 4, 5)
        ]
        assert [line for line in done.stdout.splitlines() if "out of memory" in line] == said
        assert ONE_BY_ONE not in done.stdout
        whole, halved = results(tmp_path / "whole"), results(tmp_path / name)
        pd.testing.assert_frame_equal(whole, halved, rtol=1e-9)


def test_a_job_that_is_out_of_memory_alone_is_a_failed_row(
    sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "_step", raise_above(4, OUT_OF_MEMORY))
    done = sweep(tmp_path, "stacked", *SMALL, "width=8", "seed=0,13,1,2")
    assert done.returncode == 1
    assert ONE_BY_ONE not in done.stdout
    table = results(tmp_path).set_index("seed")
    assert table["status"].to_dict() == {
        0: "completed",
        1: "completed",
        2: "completed",
        13: "failed",
    }
    assert table.loc[13, "error"] == f"OutOfMemoryError: {OUT_OF_MEMORY}"


def test_jobs_of_a_stack_that_fails_run_alone_with_a_line_saying_why(
    sweep: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "_step", raise_above(1, RuntimeError("no such kernel")))
    done = sweep(tmp_path, "stacked", *SMALL, "width=8", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert "stack 1 of 1: RuntimeError: no such kernel: its jobs run one by one" in done.stdout
    assert (results(tmp_path)["status"] == "completed").all()


def test_a_sweep_is_split_by_memory_and_by_the_number_of_members(
    sweep: Train, tmp_path: Path
) -> None:
    grid = [*EXACT, "width=8", "lr=0.01,0.02", "seed=0,1,2"]
    for folder, option, stacks in (
        ("members", "max_members=2", 3),
        ("memory", "memory_gb=1e-9", 6),
        ("whole", "", 1),
    ):
        done = sweep(
            tmp_path / folder, "stacked", *grid, *([f"hydra.launcher.{option}"] if option else [])
        )
        assert f"stack {stacks} of {stacks}" in done.stdout
    for folder in ("members", "memory"):
        pd.testing.assert_frame_equal(
            results(tmp_path / folder), results(tmp_path / "whole"), rtol=1e-9
        )


@SLOW
def test_a_coordinate_check_is_one_stack_a_width_and_gives_the_same_verdict(
    train: Train, tmp_path: Path
) -> None:
    grid = [
        "experiment=coord_check",
        "trainer=cpu",
        "width=32,64,128",
        "base_width=32",
        "seed=0,1",
        "parametrization=sp,mulinear",
        "optimizer=adam",
    ]
    codes = []
    for launcher in ("basic", "stacked"):
        done = train(
            "-m", *grid, f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path / launcher}"
        )
        codes.append(done.returncode)
    assert codes == [1, 1], done.stderr  # sp fails
    assert "stack 3 of 3: 4 jobs" in done.stdout
    assert ONE_BY_ONE not in done.stdout
    rows, others = (
        pd.read_csv(tmp_path / launcher / "coord_check.csv") for launcher in ("basic", "stacked")
    )
    pd.testing.assert_frame_equal(rows, others, rtol=1e-5, atol=1e-9)
    verdict, other = (
        json.loads((tmp_path / x / "verdict.json").read_text()) for x in ("basic", "stacked")
    )
    assert [row["verdict"] for row in verdict["rows"]] == [row["verdict"] for row in other["rows"]]


# at import, of what the sweeper's old Optuna needs
@pytest.mark.filterwarnings("ignore:.*declarative_base")
def test_trials_of_optuna_are_stacked(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install mupl[optuna]")
    done = train(
        "-m",
        "hydra/sweeper=optuna",
        "hydra/launcher=stacked",
        TABLE_ONLY,
        *SMALL,
        "width=8",
        "lr=tag(log,interval(1e-3,1e-1))",
        "weight_decay=choice(0,0.1)",
        "hydra.sweeper.n_trials=8",
        "hydra.sweeper.n_jobs=4",
        "hydra.sweeper.direction=minimize",
        "hydra.sweeper.sampler.seed=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stack 1 of 1: 4 jobs") == 2
    table = results(tmp_path)
    assert (table["status"] == "completed").all()
    assert len(table) == 8
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert best.best_value == pytest.approx(table["val_loss"].min())
    assert [f"[{i}/?] lr=" in done.stdout for i in range(1, 9)] == [True] * 8


SUBMITIT = (
    "stacked",
    "hydra.launcher.executor=submitit_local",
    "+hydra.launcher.resources.timeout_min=5",
)
PLUGINS = [
    # what it needs, the extra that brings it, the launcher and its options
    pytest.param(
        "hydra_plugins.hydra_joblib_launcher",
        "joblib",
        ("joblib", "hydra.launcher.n_jobs=2"),
        marks=SLOW,
    ),
    pytest.param(
        "hydra_plugins.hydra_submitit_launcher", "submitit", ("submitit_local",), marks=SLOW
    ),
    pytest.param(
        "hydra_plugins.hydra_ray_launcher",
        "ray",
        ("ray", "+hydra.launcher.ray.init.num_cpus=2"),
        marks=SLOW,
    ),
    pytest.param("submitit", "submitit", SUBMITIT, marks=SLOW),
    pytest.param("ray", "ray", ("stacked", "hydra.launcher.executor=ray"), marks=SLOW),
]


@pytest.mark.parametrize(("plugin", "extra", "launcher"), PLUGINS, ids=str)
def test_jobs_may_be_sent_elsewhere_and_go_on_with_a_sweep_that_was_begun_here(
    plugin: str, extra: str, launcher: tuple[str, ...], sweep: Train, tmp_path: Path
) -> None:
    pytest.importorskip(plugin, reason=f"pip install mupl[{extra}]")
    grid = [*EXACT, "width=8", "lr=0.01,0.02"]
    sweep(tmp_path / "here", "basic", *grid, "seed=0,1,2")
    sweep(tmp_path / "there", "basic", *grid, "seed=0,1")
    before = written(tmp_path / "there")
    done = train_anew(
        "-m",
        f"hydra/launcher={launcher[0]}",
        *launcher[1:],
        TABLE_ONLY,
        *grid,
        "seed=0,1,2",
        f"hydra.sweep.dir={tmp_path / 'there'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ONE_BY_ONE not in done.stdout
    assert "4 of 6 jobs were done before" in done.stdout
    assert launcher[0] != "stacked" or "stack 1 of 1: 2 jobs" in done.stdout
    if launcher[0] in ("stacked", "joblib"):  # whose workers print here
        assert sorted(re.findall(r"^\[\d/6\]", done.stdout, re.MULTILINE)) == ["[3/6]", "[6/6]"]
    pd.testing.assert_frame_equal(
        results(tmp_path / "here"), results(tmp_path / "there"), rtol=1e-6
    )
    assert {
        job: when for job, when in written(tmp_path / "there").items() if job in before
    } == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
def test_an_interrupt_ends_the_tasks_that_were_sent_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install mupl[submitit]")
    arguments = [
        *SMALL,
        "max_steps=200000",
        "width=8",
        "lr=0.01,0.02",
        f"hydra.sweep.dir={tmp_path}",
    ]
    launcher = [
        f"hydra/launcher={SUBMITIT[0]}",
        *SUBMITIT[1:],
        "hydra.launcher.save_every=0.1",
        TABLE_ONLY,
    ]
    process = subprocess.Popen(
        command("-m", *launcher, *arguments),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60

    def processes() -> list[Path]:
        found = [
            file
            for file in Path("/proc").glob("[0-9]*/cmdline")
            if int(file.parent.name) != process.pid
        ]
        return [file for file in found if str(tmp_path).encode() in _read(file)]

    while not list(tmp_path.glob("states/*.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    assert processes()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.startswith("SIGINT: what is done is kept"), (
        err
    )  # submitit's own process may say so too
    while processes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_result_of_another_job_in_the_same_folder_is_not_taken_for_its_own(
    sweep: Train, tmp_path: Path
) -> None:
    numbered = [*SMALL, "hydra.sweep.subdir=${hydra.job.num}", "width=8"]
    for launcher in ("stacked", "basic"):
        for lr in (0.001, 0.002):
            assert sweep(tmp_path, launcher, *numbered, f"lr={lr},0.01").returncode == 0
            assert sorted(results(tmp_path)["lr"]) == [lr, 0.01]

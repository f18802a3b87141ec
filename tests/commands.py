"""The command line, as tests start it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mupl.report.common import conclude, read_results
from tests.processes import Process, run

ROOT = Path(__file__).parents[1]
# Losses that others measured; the README beside them says who. They are not part of a checkout.
FOREIGN = ROOT.parent / "shared" / "data" / "foreign"
# Sweeps end with their tables: figures, and under `train_here` a page, take longer than a small
# sweep
TABLE_ONLY = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
SMALL = ["max_steps=20", "base_width=8", "trainer=cpu"]

# What mupl.training.run ignores, which pytest undoes: the marks of tests that call `train_here`
IGNORED = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (".*exists and is not empty", ".*is smaller than the logging interval")
]

Done = subprocess.CompletedProcess[str]


def train(*arguments: str) -> Done:
    """Run the command in a process of its own, which has the large libraries already."""
    return run(command(*arguments)[1:], cwd=ROOT, env=environment())


def train_anew(*arguments: str) -> Done:
    """Run the command in a process that imports all, as a user's does, in four seconds more."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def start(*arguments: str, cwd: Path = ROOT, **variables: str) -> Process:
    """Start the command in a process of its own, and do not wait for its end."""
    return Process(command(*arguments)[1:], cwd=cwd, env=environment() | variables)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def environment() -> dict[str, str]:
    """The environment of a process that a test starts.

    It has one thread, as the tensors are tiny and another worker has the other core. It finds the
    Hydra plugin of this checkout, wherever the package is installed from.
    """
    paths = [str(ROOT), str(ROOT / "mupl/stacked/plugin"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run_twice(*arguments: str) -> Done:
    """Run Python in two processes on the CPU, as `torchrun` starts them."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return subprocess.run(
        [sys.executable, *launch, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
    )


def train_here(capfd: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run the command in this process, without the four seconds that a new one imports."""
    capfd.readouterr()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command(*arguments)[1:])
        patch.setattr(sys, "path", [*sys.path])
        if TABLE_ONLY in arguments:
            patch.setattr("mupl.sweep.callback.write_page", lambda *page: None)
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
    out, err = capfd.readouterr()
    if isinstance(code, str):  # what Python itself does with it
        code, err = 1, f"{err}{code}\n"
    assert isinstance(code, int)
    return Done(list(arguments), code, out, err)


def row_of(job: str, **outcome: object) -> dict[str, object]:
    """The row that a job leaves."""
    losses = {"train_loss": 0.5, "val_loss": 0.5, "val_accuracy": 0.5}
    return {"job": job, "status": "completed", "steps": 3} | losses | outcome


def table_only(sweep_dir: Path, metric: str) -> int:
    """End a sweep with its tables only."""
    return conclude(read_results(sweep_dir), sweep_dir)

"""In which order a stack's files are written: the one that says that a job is done comes last."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from mupl.data import digits
from mupl.identity import RESULT_FILE, write_result
from mupl.stacked import output
from mupl.stats.recorder import Recorder
from tests.test_stack import build, setup_of, stack_of

TRAINER = {"log_every_n_steps": 1, "val_check_interval": 2}


class Job(SimpleNamespace):
    """What `write_members` asks of a job."""

    def is_done(self) -> bool:
        return False

    def write(self, outcome: dict[str, Any]) -> None:
        write_result(self.folder, {"job": "id", **outcome})


def test_a_job_is_marked_as_done_after_all_its_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tmp_path / "metrics.csv"
    logger = {
        "_target_": "lightning.pytorch.loggers.CSVLogger",
        "save_dir": str(tmp_path),
        "name": "",
        "version": "",
    }
    arguments = {"lr": 0.01, "seed": 0}
    config = OmegaConf.create({"trainer": TRAINER, "logger": {"csv": logger}})
    job: Any = Job(folder=tmp_path, config=config, setup=setup_of(build, arguments))
    stack = stack_of(build, [arguments], digits(), train=2)
    validation = {2: stack.evaluate()}
    rows = tmp_path / "coordinates.csv"
    written: list[tuple[bool, bool, bool]] = []

    def mark(folder: Path, row: dict[str, Any]) -> None:
        table = folder / "parametrization.csv"
        written.append((table.exists(), metrics.exists(), rows.exists()))
        write(folder, row)

    write = write_result
    monkeypatch.setitem(globals(), "write_result", mark)
    with Recorder(stack.model, columns=[{}], steps=[2], kinds=("param",)) as recorder:
        stack.train(3, recorder=recorder)
        output.write_members([job], stack, validation, recorder, rows.name, seconds=1.0)
    assert written == [(True, True, True)]
    assert (tmp_path / RESULT_FILE).exists()

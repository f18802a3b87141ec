"""Settings that are drawn: evenly, the same at every call, and an ordinary list of jobs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mupl.errors import ConfigError
from mupl.tuning.draws import Range, draw
from tests.commands import IGNORED, train_anew, train_here
from tests.test_launcher import TABLE_ONLY

pytestmark = IGNORED
RANGES = {"lr": Range(1e-4, 1, log=True), "mult": Range(0, 2), "act": ["relu", "tanh", "gelu"]}


@pytest.mark.parametrize("sampler", ["sobol", "random"])
def test_draws_are_in_their_ranges_and_a_larger_count_begins_with_them(sampler: str) -> None:
    many = draw(RANGES, 64, seed=3, sampler=sampler)
    assert draw(RANGES, 20, seed=3, sampler=sampler) == many[:20]
    assert draw(RANGES, 64, seed=4, sampler=sampler) != many
    table = pd.DataFrame(many)
    assert table["lr"].between(1e-4, 1).all()
    assert table["mult"].between(0, 2).all()
    assert set(table["act"]) == {"relu", "tanh", "gelu"}


def test_a_sobol_sequence_takes_every_part_of_each_range_equally_often() -> None:
    table = pd.DataFrame(draw(RANGES, 64, seed=0))
    octaves = np.histogram(np.log10(table["lr"]), bins=8, range=(-4, 0))[0]
    assert set(octaves) == {8}
    assert set(np.histogram(table["mult"], bins=8, range=(0, 2))[0]) == {8}


@pytest.mark.parametrize(
    ("ranges", "count", "sampler", "message"),
    [
        (RANGES, 0, "sobol", "hydra.sweeper.settings=0: must be a whole number >= 1"),
        (RANGES, 4, "halton", "hydra.sweeper.sampler=halton: must be one of sobol, random"),
        ({}, 4, "sobol", "nothing is drawn; say a range"),
        ({"lr": Range(0, 1, log=True)}, 4, "sobol", "must go up from one number above 0"),
        ({"lr": Range(2, 1)}, 4, "sobol", r"lr: interval\(2,1\) must go up"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    ranges: dict, count: int, sampler: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(ranges, count, 0, sampler)


def test_drawn_settings_are_jobs_of_a_stack_and_grow(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["width=8", "base_width=8", "max_steps=4", "trainer=cpu", "seed=0,1", TABLE_ONLY]
    ranges = ["lr=tag(log,interval(1e-3,1e-1))", "tune.hidden.lr=tag(draw,choice(0.5,1,2))"]
    stacked = ["-m", "hydra/launcher=stacked", "hydra/sweeper=draws", f"hydra.sweep.dir={tmp_path}"]
    command = [*stacked, *small, *ranges]
    done = train_here(capfd, *command, "hydra.sweeper.settings=4")
    assert done.returncode == 0, done.stderr
    assert "stack 1 of 1: 8 jobs" in done.stdout
    results = pd.read_csv(tmp_path / "results.csv")
    assert results.groupby(["lr", "tune.hidden.lr"])["seed"].nunique().tolist() == [2] * 4
    done = train_here(capfd, *command, "hydra.sweeper.settings=6")
    assert "stack 1 of 1: 4 jobs" in done.stdout
    assert len(pd.read_csv(tmp_path / "results.csv")) == 12


def test_a_wrong_range_is_one_line() -> None:
    # anew, as Hydra finds its plugins once in a process, and this one may have imported theirs
    done = train_anew("-m", "hydra/sweeper=draws", "lr=tag(log,interval(0,1))")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: lr: interval(0,1) must go up from one number above 0 to a larger one\n"
    )

"""Killed at every file operation and at random moments: the same command ends as if nothing was."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.sweeps import LAUNCHERS, arguments, at_change, difference, end, fork, kill, start

pytestmark = pytest.mark.slow
MOST = 300  # file operations of these sweeps: there are fewer
PARTS = 6  # of the operations, so that workers share them


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_killed_at_each_file_operation(
    launcher: str, part: int, tmp_path: Path, tally: Tally
) -> None:
    whole = tmp_path / "whole"
    assert fork(arguments(launcher, whole), tmp_path / "log").code == 0
    for number in range(part, MOST, PARTS):
        folder = tmp_path / f"killed{number}"
        hurt = at_change(number, folder, kill)
        killed = fork(arguments(launcher, folder), tmp_path / "log", hurt)
        if killed.code == 0:
            break
        assert killed.code == -9, killed
        again = fork(arguments(launcher, folder), tmp_path / "log")
        wrong = f"{number}: {again}" if again.code else difference(whole, folder)
        tally(f"killed at a file operation, {launcher}", wrong)
    assert 20 < number < MOST - PARTS


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_killed_at_random(launcher: str, tmp_path: Path, tally: Tally) -> None:
    chance = random.Random(0)
    longer = ["max_steps=400", "trainer.val_check_interval=100"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert fork(arguments(launcher, whole, *longer), tmp_path / "log").code == 0
    for _ in range(12):
        process = start(*arguments(launcher, folder, *longer))
        time.sleep(chance.uniform(2, 12))
        process.kill()
        end(process)
    again = fork(arguments(launcher, folder, *longer), tmp_path / "log")
    tally(f"killed twelve times at random, {launcher}", again.err or difference(whole, folder))

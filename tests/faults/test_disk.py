"""A full or read-only disk: one line, exit code 1, nothing lost, and the same command goes on."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.sweeps import LAUNCHERS, Ended, arguments, at_change, difference, fork, full

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for launcher in LAUNCHERS:
        folders[launcher] = tmp_path_factory.mktemp(launcher)
        log = folders[launcher].parent / "log"
        assert fork(arguments(launcher, folders[launcher]), log).code == 0
    return folders


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*options: str) -> None:
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a disk")


def refusal(ended: Ended, strerror: str) -> str:
    """Say how this is not the one line about a disk."""
    lines = ended.err.splitlines()
    if ended.code != 1 or len(lines) != 1 or f": {strerror}; what is done is kept" not in lines[0]:
        return str(ended)
    return ""


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("kilobytes", [8, 16, 24, 40, 64, 88, 120, 160, 200, 240])
def test_a_full_disk(
    kilobytes: int, launcher: str, whole: dict[str, Path], small_disk: Path, tally: Tally
) -> None:
    mount("-o", f"remount,size={kilobytes}k", str(small_disk))
    folder, log = small_disk / "sweep", small_disk.parent / "log"
    ended = fork(arguments(launcher, folder), log)
    wrong = refusal(ended, os.strerror(errno.ENOSPC)) if ended.code else ""
    mount("-o", "remount,size=64m", str(small_disk))
    again = fork(arguments(launcher, folder), log)
    tally(f"small disk, {launcher}", wrong or again.err or difference(whole[launcher], folder))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_disk_that_is_full_at_each_fifth_file_operation(
    launcher: str, whole: dict[str, Path], tmp_path: Path, tally: Tally
) -> None:
    for number in range(0, 300, 5):
        folder = tmp_path / f"full{number}"
        ended = fork(arguments(launcher, folder), tmp_path / "log", at_change(number, folder, full))
        if ended.code == 0:
            break
        wrong = refusal(ended, os.strerror(errno.ENOSPC))
        again = fork(arguments(launcher, folder), tmp_path / "log")
        wrong = wrong or again.err or difference(whole[launcher], folder)
        tally(f"disk full at a file operation, {launcher}", wrong and f"{number}: {wrong}")
    assert number > 20


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_read_only_disk(launcher: str, small_disk: Path, tally: Tally) -> None:
    mount("-o", "remount,ro", str(small_disk))
    for command in (arguments(launcher, small_disk / "a"), [f"hydra.run.dir={small_disk}/b"]):
        ended = fork(command, small_disk.parent / "log")
        tally("read-only disk", refusal(ended, os.strerror(errno.EROFS)))

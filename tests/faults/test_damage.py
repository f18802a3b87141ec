"""Damaged files: one warning each, the file is set aside, and the sweep ends as if nothing was."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mupl.claims import CLAIM_FILE
from mupl.identity import RESULT_FILE
from mupl.stacked.checkpoint import checksum
from tests.faults.conftest import Tally
from tests.faults.sweeps import Ended, arguments, at_change, difference, fork, kill

pytestmark = pytest.mark.slow
Damage = Callable[[Path], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def into_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def with_entry(key: str, value: Any) -> Damage:
    def damage(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))

    return damage


def without(key: str) -> Damage:
    def damage(file: Path) -> None:
        row = json.loads(file.read_text())
        del row[key]
        file.write_text(json.dumps(row))

    return damage


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/mupl_evil",)


def saved_again(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change what a state holds, with a checksum in its name that is right."""

    def damage(file: Path) -> None:
        state = torch.load(file, weights_only=True)
        change(state)
        torch.save(state, file)
        file.rename(file.with_name(f"{file.stem.partition('-')[0]}-{checksum(file)}.pt"))

    return damage


def broadcasting(state: dict[str, Any]) -> None:
    weights = state["stack"]["weights"]
    name = next(iter(weights))
    weights[name] = weights[name][:, :1]


WHOLES: dict[str, Damage] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "garbage": lambda file: file.write_bytes(os.urandom(500)),
    "a flipped byte": flip,
}
RESULTS = WHOLES | {
    "a list": lambda file: file.write_text("[1, 2]"),
    "an empty dict": lambda file: file.write_text("{}"),
    "a folder": into_folder,
    "no status": without("status"),
    "status unknown": with_entry("status", "fine"),
    "a loss that is a text": with_entry("val_loss", "low"),
    "-1 steps": with_entry("steps", -1),
    "another loss": with_entry("val_loss", 0.5),
    "another job": with_entry("job", "0123456789ab"),
}
STATES = WHOLES | {
    "no key stack": saved_again(lambda state: state.pop("stack")),
    "a weight missing": saved_again(lambda state: state["stack"]["weights"].popitem()),
    "a weight that broadcasts": saved_again(broadcasting),
    "k too large": saved_again(lambda state: state["stack"].update(k=10**6)),
    "k changed": lambda file: torch.save(
        torch.load(file, weights_only=True) | {"validation": {}}, file
    ),
    "an evil pickle": lambda file: file.write_bytes(pickle.dumps(Evil())),
}
CLAIMS = {
    "an empty claim": lambda file: file.write_text(""),
    "a claim that is a list": lambda file: file.write_text("[]"),
    "a claim of a dead process": lambda file: file.write_text(
        json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1, "since": 0.0})
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert fork(arguments("stacked", folder), folder.parent / "log").code == 0
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was killed right after it had saved a state."""
    folder = tmp_path_factory.mktemp("begun")
    hurt = at_change(3, folder / "states", kill)
    assert fork(arguments("stacked", folder), folder.parent / "log", hurt).code == -9
    assert list(folder.glob("states/*.pt"))
    return folder


def goes_on(folder: Path, whole: Path, warnings: int) -> tuple[Ended, str]:
    """Repeat the command; say what is wrong with how it ends."""
    ended = fork(arguments("stacked", folder), folder.parent / "log")
    lines = ended.err.splitlines()
    if ended.code or len(lines) != warnings or not all(x.startswith("warning: ") for x in lines):
        return ended, str(ended)
    for file in folder.rglob("*.damaged*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    return ended, difference(whole, folder)


@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_result(name: str, whole: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(whole, folder)
    file = sorted(folder.glob(f"*/{RESULT_FILE}"))[1]
    RESULTS[name](file)
    _, wrong = goes_on(folder, whole, warnings=1)
    tally("damaged results", wrong)


@pytest.mark.parametrize("name", STATES)
def test_a_damaged_state(name: str, begun: Path, whole: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(begun, folder)
    [file] = folder.glob("states/*.pt")
    STATES[name](file)
    ended, wrong = goes_on(folder, whole, warnings=1)
    assert "one by one" not in ended.out  # a stack stays a stack
    assert not Path("/tmp/mupl_evil").exists()
    tally("damaged states", wrong)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_damaged_claim(name: str, begun: Path, whole: Path, tmp_path: Path, tally: Tally) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(begun, folder)
    for file in folder.glob(f"*/{CLAIM_FILE}"):
        CLAIMS[name](file)
    _, wrong = goes_on(folder, whole, warnings=0)
    tally("damaged claims", wrong)

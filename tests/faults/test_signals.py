"""Signals: one line, 128 + the number, and what was done is kept."""

import re
import signal
import time
from pathlib import Path

import pytest

from mupl.claims import CLAIM_FILE
from tests.faults.conftest import Tally
from tests.faults.sweeps import arguments, difference, end, run, start

pytestmark = pytest.mark.slow
POLITE = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LONG = ["max_steps=3000", "trainer.val_check_interval=1000", "width=8"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for launcher in ("basic", "stacked"):
        folders[launcher] = tmp_path_factory.mktemp(launcher)
        assert run(*arguments(launcher, folders[launcher], *LONG)).code == 0
    return folders


@pytest.mark.parametrize("number", [*POLITE, signal.SIGKILL, signal.SIGUSR1])
@pytest.mark.parametrize("launcher", ["basic", "stacked"])
def test_a_signal_to_a_sweep(
    launcher: str, number: signal.Signals, whole: dict[str, Path], tmp_path: Path, tally: Tally
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:  # which its children inherit
        pytest.skip(f"{number.name} is ignored by who started the tests")
    process = start(*arguments(launcher, tmp_path, *LONG))
    while not list(tmp_path.glob(f"*/{CLAIM_FILE}")):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    ended = end(process)
    if number in POLITE:
        assert ended.code == 128 + number, ended
        assert re.fullmatch(rf"{number.name}: .*the same command.*\n", ended.err), ended.err
    else:
        assert ended.code == -number
    again = run(*arguments(launcher, tmp_path, *LONG))
    tally(f"{number.name}, {launcher}", again.err or difference(whole[launcher], tmp_path))


@pytest.mark.parametrize("number", POLITE)
def test_a_signal_to_a_single_run(number: signal.Signals, tmp_path: Path, tally: Tally) -> None:
    process = start(f"hydra.run.dir={tmp_path}", "trainer=cpu", "max_steps=100000", "width=8")
    while not (tmp_path / CLAIM_FILE).exists():
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(number)
    ended = end(process)
    assert ended.code == 128 + number, ended
    assert re.fullmatch(rf"{number.name}: .*\n", ended.err), ended.err
    assert not (tmp_path / CLAIM_FILE).exists()
    tally(f"{number.name}, single run", "Traceback" if "Traceback" in ended.out else "")

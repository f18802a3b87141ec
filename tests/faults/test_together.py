"""Several processes in the folder of one sweep share its jobs, and end with the same table."""

import json
import re
import time
from pathlib import Path

import pytest

from mupl.claims import CLAIM_FILE
from tests.faults.conftest import Tally
from tests.faults.sweeps import arguments, difference, end, run, start

pytestmark = pytest.mark.slow
LONGER = ["max_steps=400", "trainer.val_check_interval=100", "seed=0,1,2"]


@pytest.mark.parametrize(
    "launchers",
    [
        ["stacked", "stacked"],
        ["basic", "basic"],
        ["stacked", "basic"],
        ["stacked", "stacked", "stacked"],
        ["basic", "basic", "basic"],
    ],
    ids="-".join,
)
def test_processes_that_start_at_once_share_the_jobs(
    launchers: list[str], tmp_path: Path, tally: Tally
) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert run(*arguments(launchers[0], whole, *LONGER)).code == 0
    processes = []
    for launcher in launchers:
        processes.append(start(*arguments(launcher, shared, *LONGER)))
        time.sleep(0.5)
    ended = [end(process) for process in processes]
    for each in ended:
        assert each.code == 0, each
    if len(set(launchers)) == 1:  # else a job's last digits depend on who trained it
        tally("processes at once: table and files", difference(whole, shared))
    # seconds are the one thing in a result that a second training of the job would change
    trained = re.findall(r"completed val_loss", "".join(each.out for each in ended))
    assert len(trained) >= 6


def test_a_process_takes_over_the_jobs_of_one_that_was_killed(tmp_path: Path, tally: Tally) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert run(*arguments("stacked", whole, *LONGER)).code == 0
    first = start(*arguments("stacked", shared, *LONGER, "hydra.launcher.save_every=1000"))
    while not list(shared.glob(f"*/{CLAIM_FILE}")):
        time.sleep(0.05)
    second = start(*arguments("stacked", shared, *LONGER))
    time.sleep(1)
    first.kill()
    end(first)
    ended = end(second)
    tally("killed while another waits", ended.err or difference(whole, shared))


def test_a_single_run_refuses_the_folder_of_another(tmp_path: Path) -> None:
    one = [f"hydra.run.dir={tmp_path}", "trainer=cpu", "max_steps=20000"]
    first = start(*one)
    while not (tmp_path / CLAIM_FILE).exists():
        time.sleep(0.05)
    pid = json.loads((tmp_path / CLAIM_FILE).read_text())["pid"]
    refused = run(*one)
    first.terminate()
    assert end(first).code == 128 + 15
    assert refused.code == 1
    assert re.fullmatch(
        rf"error: hydra.run.dir=.*: process {pid} on .* writes there.*\n", refused.err
    )

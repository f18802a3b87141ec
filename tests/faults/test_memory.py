"""Little memory: stacks are halved, and end with the same numbers."""

import resource
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.sweeps import arguments, difference, fork

pytestmark = pytest.mark.slow
WIDE = ["width=1024,1032", "seed=0,1,2,3", "max_steps=4", "trainer.val_check_interval=2"]


def limit(megabytes: int) -> None:
    """Allow this process so many more megabytes than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@pytest.mark.parametrize("megabytes", [1500, 700, 400])
def test_a_limit_of_memory(megabytes: int, tmp_path: Path, tally: Tally) -> None:
    wide = [*WIDE, "hydra.launcher.memory_gb=8"]
    whole, limited = tmp_path / "whole", tmp_path / "limited"
    assert fork(arguments("stacked", whole, *wide), tmp_path / "log").code == 0
    command = arguments("stacked", limited, *wide)
    ended = fork(command, tmp_path / "log", lambda: limit(megabytes))
    tally("memory limits", str(ended) if ended.code else difference(whole, limited))

"""Memory of a stack on a CPU: what one step frees is there for the next."""

import subprocess
import sys
from pathlib import Path

import pytest

from mupl.stacked import memory, train
from tests.commands import IGNORED, SMALL, TABLE_ONLY, train_here

pytestmark = IGNORED

PAGES = 2 * 8_000_000 // 4096  # of two arrays
ROUNDS = 20
FAULTS = f"""
import resource
import numpy as np
from mupl.stacked.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use_memory():
    first = np.ones(1_000_000)
    second = first + 1

keep_freed_memory()
use_memory()
before = faults()
for _ in range({ROUNDS}):
    use_memory()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as on Linux")
def test_the_system_clears_pages_once() -> None:
    faults = {}
    for name, program in {
        "with": FAULTS,
        "without": FAULTS.replace("\nkeep_freed_memory()", ""),
    }.items():
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        faults[name] = int(done.stdout)
    if faults["without"] < PAGES:
        pytest.skip("this C library keeps freed memory by itself")
    assert faults["with"] < PAGES / 10


def test_a_stack_on_a_cpu_keeps_freed_memory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls = []
    monkeypatch.setattr(train, "keep_freed_memory", lambda: calls.append("kept"))
    sweep = ["-m", "hydra/launcher=stacked", TABLE_ONLY, *SMALL, "lr=1e-3,1e-2"]
    train_here(capfd, *sweep, f"hydra.sweep.dir={tmp_path}")
    assert calls == ["kept"]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("was loaded"))
    memory.keep_freed_memory()

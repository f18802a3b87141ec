"""Fixtures shared by the tests."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Workers and the processes that tests start find compiled what the first one imported, whatever
# the shell says: without, each compiles all of torch and Lightning anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import torch
from filelock import FileLock

from mupl.training.registration import register_configs
from tests.composing import remembering

UNPACK = Path(__file__).parents[2] / "shared" / "data" / "unpack"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what a test trains is the same beside any load
if not torch.cuda.is_available():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or torch's optimizers look for a GPU at each step


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what the imports made, which stays as long as the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data sets, unpacked once a session.

    Holds MNIST/raw, cifar10/{train,test}/<class>/*.jpg and tinyshakespeare.txt.
    """
    if not UNPACK.exists():
        pytest.skip(f"the real data sets are not here ({UNPACK})")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers' common folder
    target = base / "real_data"
    with FileLock(base / "real_data.lock"):  # a worker that comes later waits
        if not target.exists():
            partial = tmp_path_factory.mktemp("unpacking")
            subprocess.run([UNPACK, partial], check=True, stdout=subprocess.DEVNULL)
            partial.rename(target)
    return target


@pytest.fixture(autouse=True, scope="session")
def configs_of_the_command_line() -> None:
    """Tests that compose a config find what the command line adds to those in conf/."""
    register_configs()


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Hydra composes each choice of config groups once a session."""
    with remembering():
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The tensors of the tests are tiny: threads only get in the way of the other worker."""
    torch.set_num_threads(1)

"""Fixtures shared by the tests."""

import gc
import lzma
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

DATA = Path(__file__).parents[2] / "shared" / "data"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what a test trains is the same beside any load
if not torch.cuda.is_available():
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or torch's optimizers look for a GPU at each step


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what the imports made, which stays as long as the tests."""
    gc.collect()
    gc.freeze()


def skip_without_data() -> None:
    if not DATA.exists():
        pytest.skip(f"the real data sets are not here ({DATA})")


def unpacked(factory: pytest.TempPathFactory, name: str, *command: str | Path) -> Path:
    """The folder of real data that a command fills, once a session; the command ends with it."""
    skip_without_data()
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers' common folder
    target = base / name
    with FileLock(base / f"{name}.lock"):  # a worker that comes later waits
        if not target.exists():
            partial = factory.mktemp("unpacking")
            subprocess.run([*command, partial], check=True, stdout=subprocess.DEVNULL)
            partial.rename(target)
    return target


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All real data sets, of which CIFAR-10 has 60,000 files.

    Holds MNIST/raw, cifar10/{train,test}/<class>/*.jpg and tinyshakespeare.txt.
    """
    return unpacked(tmp_path_factory, "real_data", DATA / "unpack")


@pytest.fixture(scope="session")
def real_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds MNIST/raw."""
    return unpacked(tmp_path_factory, "mnist", "tar", "-xJf", DATA / "mnist.tar.xz", "-C")


@pytest.fixture(scope="session")
def real_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file tinyshakespeare.txt."""
    skip_without_data()
    file = tmp_path_factory.mktemp("text") / "tinyshakespeare.txt"
    file.write_bytes(lzma.decompress((DATA / f"{file.name}.xz").read_bytes()))
    return file


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

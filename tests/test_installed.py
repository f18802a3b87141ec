"""A wheel in an empty environment, without the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = """
import torch, mupl
def build(width):
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
infos = mupl.describe(build, width=64, base_width=16)
scales = mupl.scale(infos, "mup", torch.optim.AdamW, lr=1e-2)
model = mupl.initialize_(build(64), scales, seed=0)
optimizer = torch.optim.AdamW(mupl.param_groups(model, scales))
print("example:", len(optimizer.param_groups), mupl.__file__)
"""
MINE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, in_features, num_classes, width):
        super().__init__(
            nn.Flatten(), nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

def build(width):
    return Net(64, 10, width)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, ROOT], check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_holds_code_configs_and_the_launcher_where_hydra_finds_it(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    package = {
        str(p.relative_to(ROOT)) for p in (ROOT / "mupl").rglob("*.py") if "plugin" not in p.parts
    }
    configs = {f"mupl/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert set(files) >= package | configs | {"mupl/py.typed"}
    plugins = {file for file in files if "hydra_plugins" in file}
    assert plugins == {f"hydra_plugins/mupl_{name}/__init__.py" for name in ("draws", "stacked")}
    assert len(files) == len(set(files))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and of this one what mupl depends on, but not mupl."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_what_a_new_user_does(environment: Path, tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [environment / command[0], *command[1:]],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    example = run("python", "-c", EXAMPLE)
    assert example.startswith("example: 2 ")
    assert str(ROOT) not in example  # the wheel's code, not the checkout's
    assert "1/m_in" in run("mupl", "table", "mup", "--optimizer", "adam")
    assert "1/m_in" in run("python", "-m", "mupl", "table", "mup", "--optimizer", "adam")
    assert "completed" in run("mupl", "train", "max_steps=20", "width=32")
    swept = run("mupl", "train", "-m", "width=16,32", "lr=1e-3,1e-2", "max_steps=20")
    assert "4 completed" in swept
    stacked = ["hydra/launcher=stacked", "width=16,32", "lr=1e-3,1e-2", "max_steps=21"]
    assert "4 completed" in run("mupl", "train", "-m", *stacked)
    # another repository: its own model beside mupl's configs
    (tmp_path / "my_package.py").write_text(MINE)
    config = tmp_path / "my_conf" / "model" / "mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("_target_: my_package.Net\n_partial_: true\n")
    own = ["--config-dir", "my_conf", "model=mine", "width=32", "max_steps=20"]
    assert "completed" in run("mupl", "train", *own)
    sizes = ["--width", "64", "--base-width", "16"]
    assert "1.weight" in run("mupl", "describe", "my_package:build", *sizes)

"""Imports point one way, and what need not be imported is not."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mupl"

# part -> the parts that it may not import, at any level of nesting
FORBIDDEN = {
    "errors": {"*"},
    "layers": {"*"},
    "factors": {"roles", "parametrization", "models", "optim", "data", "stats", "training", "sweep"},
    "unit_scaling": {"roles", "parametrization", "models", "optim", "data", "stats", "training", "sweep"},
    "initializers": {"roles", "parametrization", "models", "optim", "data", "stats", "training", "sweep"},
    "roles": {"parametrization", "models", "optim", "data", "stats", "training", "sweep"},
    "parametrization": {"models", "optim", "data", "stats", "training", "sweep", "analysis", "figures"},
    "models": {"parametrization", "optim", "data", "stats", "training", "sweep", "analysis", "figures"},
    "data": {"parametrization", "models", "optim", "stats", "training", "sweep", "analysis", "figures"},
    "optim": {"models", "data", "stats", "training", "sweep", "analysis", "figures"},
    "jobs": {"roles", "parametrization", "models", "optim", "data", "stats", "training", "sweep", "analysis", "torch"},
    "stats": {"models", "data", "training", "sweep", "analysis", "figures"},
    "training": {"sweep", "figures"},
    "analysis": {"models", "data", "training", "sweep", "figures", "torch"},
    "figures": {"models", "data", "optim", "training", "torch", "lightning"},
}


def imports(file: Path) -> set[str]:
    """First names that a file imports, with `mupl.` taken off; `errors` is everybody's."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix("mupl.").split(".")[0] for name in names if name != "mupl.errors"}
    return found


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_point_one_way(part: str) -> None:
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).glob("**/*.py"))
    assert files
    parts = {path.stem for path in PACKAGE.iterdir()}
    for file in files:
        banned = parts if FORBIDDEN[part] == {"*"} else FORBIDDEN[part]
        assert not imports(file) & banned, file


def printed(code: str) -> str:
    """What code prints in a process of its own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_composing_a_config_imports_no_training_and_a_run_no_plots() -> None:
    code = (
        "import sys, train; from mupl.training.cli import register_parametrizations as r; r();"
        "assert not {'torch', 'lightning'} & set(sys.modules), 'composing';"
        "import lightning; before = set(sys.modules);"
        "import mupl.training.run;"
        "heavy = {'wandb', 'tensorboard', 'seaborn', 'matplotlib', 'pandas', 'sklearn', 'torchvision'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert printed(code) == "[]"


def test_a_sweep_in_stacks_imports_what_it_needs_only() -> None:
    code = (
        "import sys, mupl.data, mupl.models, mupl.sweep.launcher, mupl.training.recipe as recipe;"
        "from mupl.initializers import on_meta;"
        "on_meta().__enter__(); recipe.Recipe(lambda w: mupl.models.MLP(4, 2, w), 8, base_width=4, lr=0.1);"
        "heavy = {'lightning', 'torchvision', 'torch._dynamo', 'pandas', 'matplotlib', 'sklearn', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert printed(code) == "[]"


def test_a_wheel_holds_the_launcher_where_hydra_finds_it(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, as building leaves files behind
    shutil.copytree(PACKAGE, source / "mupl", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(PACKAGE.parent / file, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path]
    subprocess.run([*build, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert [file for file in files if "hydra_plugins" in file] == ["hydra_plugins/mupl_stacked/__init__.py"]
    code = {str(file.relative_to(PACKAGE.parent)) for file in PACKAGE.rglob("*.py") if "plugin" not in file.parts}
    assert {file for file in files if file.startswith("mupl/")} >= code
    assert len(files) == len(set(files))

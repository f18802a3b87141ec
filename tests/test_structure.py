"""Imports point one way, and what need not be imported is not."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mupl"

# Each part imports only parts before it, so that a reader can start anywhere and look up, never
# down.
ORDER = [
    "errors",
    "names",
    "files",
    "signals",
    "plain_table",
    "terminal",
    "hydra_internals",
    "identity",
    "claims",
    "initializers",
    "roles",
    "parametrization",
    "nn",
    "optim",
    "models",
    "data",
    "analysis",
    "figures",
    "stats",
    "tuning",
    "training",
    "sweep",
    "road",
    "report",
    "reproduce",
    "stacked",
    "cli",
]
# What a part does not need although it comes later: the theory knows no modules' code, tables and
# figures no tensors.
ALSO_FORBIDDEN = {
    "parametrization": {"torch"},
    "nn": {"optim"},
    "models": {"parametrization", "optim"},
    "data": {"roles", "parametrization", "nn", "optim", "models"},
    "analysis": {"torch", "lightning", "nn", "optim", "models", "data"},
    "figures": {"torch", "lightning", "nn", "optim", "models", "data"},
    "stats": {"models", "data", "analysis", "figures"},
    "training": {"figures"},
}


def imports(file: Path) -> set[str]:
    """First names that a file imports, with `mupl.` taken off."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = (
                [f"mupl.{alias.name}" for alias in node.names]
                if node.module == "mupl"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        found |= {module.removeprefix("mupl.").split(".")[0] for module in modules}
    return found


def files_of(part: str) -> list[Path]:
    module = PACKAGE / f"{part}.py"
    return [module] if module.exists() else sorted((PACKAGE / part).rglob("*.py"))


@pytest.mark.parametrize("part", ORDER)
def test_imports_point_one_way(part: str) -> None:
    later = set(ORDER[ORDER.index(part) + 1 :])
    banned = later | ALSO_FORBIDDEN.get(part, set())
    for file in files_of(part):
        assert not imports(file) & banned, file


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.name[0] != "_" and path.suffix in ("", ".py")
    }
    assert parts == set(ORDER)


def printed(code: str) -> str:
    """What code prints in a process of its own."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_composing_a_config_imports_no_training_and_a_run_no_plots() -> None:
    code = (
        "import sys, train; from mupl.training.registration import register_configs as r; r();"
        "assert not {'torch', 'lightning'} & set(sys.modules), 'composing';"
        "import lightning; before = set(sys.modules);"
        "import mupl.training.run;"
        "heavy = {'wandb', 'tensorboard', 'seaborn', 'matplotlib', 'pandas', 'sklearn'};"
        "heavy.add('torchvision');"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert printed(code) == "[]"


def test_a_sweep_in_stacks_imports_what_it_needs_only() -> None:
    code = (
        "import sys, torch, mupl.data, mupl.models, mupl.stacked.stacks;"
        "from mupl.initializers import on_meta;"
        "from mupl.training.setup import Setup;"
        "on_meta().__enter__();"
        "setup = Setup(lambda w: mupl.models.MLP(4, 2, w), 8, base_width=4, lr=0.1);"
        "setup.loss(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long));"
        "heavy = {'lightning', 'torchvision', 'torch._dynamo', 'pandas', 'matplotlib', 'sklearn'};"
        "heavy |= {'scipy', 'sympy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert printed(code) == "[]"


def test_the_report_of_a_sweep_imports_what_it_needs_only() -> None:
    code = (
        "import sys, matplotlib.pyplot as plt, mupl.report.page;"
        "from mupl.figures.look import styled;"
        "styled().__enter__();"
        "print(sorted({'torch', 'seaborn', 'altair', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    assert printed(code) == "[]"


def test_private_parts_of_hydra_are_named_in_one_module() -> None:
    named = re.compile(r"\b(hydra|omegaconf)\._")
    files = [file for file in PACKAGE.rglob("*.py") if named.search(file.read_text())]
    assert files == [PACKAGE / "hydra_internals.py"]

"""The notebooks run from top to bottom, and what they assert holds."""

import re
from pathlib import Path

import pytest

from tests.commands import ROOT, environment
from tests.processes import run as run_script

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
QUICK = "5_tables"  # less than ten seconds


def parameters() -> list[object]:
    """A parameter for each notebook; those that take more than ten seconds are slow."""
    found = []
    for notebook in NOTEBOOKS:
        marks = [] if notebook.stem == QUICK else [pytest.mark.slow]
        found.append(pytest.param(notebook, id=notebook.stem, marks=marks))
    return found


def run(notebook: Path, folder: Path, **variables: str) -> str:
    """Run a notebook as plain Python in a process of its own, and return what it printed."""
    own = {"MPLBACKEND": "agg", "TMPDIR": str(folder)} | variables
    done = run_script([str(notebook)], cwd=folder, env=environment() | own)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("notebook", parameters())
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    assert run(notebook, tmp_path)


@pytest.mark.slow
def test_the_first_holds_on_mnist_too(real_data: Path, tmp_path: Path) -> None:
    assert "784x8" in run(NOTEBOOKS[0], tmp_path, MNIST_ROOT=str(real_data))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_listed_and_says_for_whom_it_is_and_what_is_next(notebook: Path) -> None:
    assert f"]({notebook.name})" in (notebook.parent / "README.md").read_text()
    text = notebook.read_text()
    cells = text.split("# %% [markdown]")
    assert "\n# For " in cells[1]
    assert "**Next:**" in cells[-1]
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (notebook.parent / target).exists(), target

"""The notebooks run from top to bottom, and what they assert holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(notebook)],
        cwd=tmp_path,
        env=environment() | {"MPLBACKEND": "agg", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_notebook_is_listed_and_ends_with_what_next() -> None:
    listed = (ROOT / "notebooks" / "README.md").read_text()
    for notebook in NOTEBOOKS:
        assert f"]({notebook.name})" in listed
        cells = notebook.read_text().split("# %% [markdown]")
        assert "For whoever" in cells[1]
        assert "**Next:**" in cells[-1]

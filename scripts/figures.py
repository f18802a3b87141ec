"""Make the figures of README and docs again, and say which differ from the committed ones.

    python scripts/figures.py                        # those that are drawn from committed tables
    python scripts/figures.py --write                # and replace those that differ
    python scripts/figures.py --run "*unit_scale*"   # make others by their commands, too

docs/figures.yaml lists them. A figure differs if the root mean square of the differences of its
pixels is above a tolerance. Exits with 1 if one differs, and is not replaced.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import yaml
from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure

from mupl.analysis.transfer import swept_hyperparameter, swept_size
from mupl.figures.look import styled
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.report.common import save

ROOT = Path(__file__).parents[1]
LIST = ROOT / "docs" / "figures.yaml"
TOLERANCE = 5.0  # of 255; anti-aliasing of another version of matplotlib is below
SAME, DIFFERS = "same", "differs"
Entry = Mapping[str, str]


def entries() -> list[Entry]:
    """Read the list of figures."""
    return yaml.safe_load(LIST.read_text())


def draw(table: Path, file: Path) -> None:
    """Draw loss against the hyperparameter that a table of results sweeps."""
    results = pd.read_csv(table)
    size = swept_size(results) or "width"
    x = swept_hyperparameter(results)
    with styled():
        save(plot_hyperparameter_transfer(results, "val_loss", size, x, "nats"), [file])


@cache
def run(command: str) -> Path:
    """Run a command that leaves figures in a folder, and return the folder.

    Coordinate checks of SP exit with 1, as they should; a figure that is missing tells failures.
    """
    folder = Path(mkdtemp(prefix="figures_"))
    arguments = shlex.split(command)
    if arguments[0] == "python":
        arguments[0] = sys.executable
    is_sweep = "train.py" in arguments
    arguments += [f"hydra.sweep.dir={folder}"] if is_sweep else ["--folder", str(folder)]
    subprocess.run(arguments, cwd=ROOT, check=False)
    return folder


def compare(committed: Path, made: Path) -> str:
    """Say whether two images show the same."""
    try:
        difference = compare_images(str(committed), str(made), TOLERANCE)
    except ImageComparisonFailure:  # of another size
        return DIFFERS
    return DIFFERS if difference else SAME


def make(entry: Entry, pattern: str, data: str, folder: Path) -> Path | None:
    """Make a figure, and return its file; None if it is not asked for.

    Args:
        entry: of the list.
        pattern: glob on the files of figures that are made by commands.
        data: the folder with data.
        folder: for what is drawn.
    """
    made = folder / entry["file"].replace("/", "_")
    if "table" in entry:
        draw(ROOT / entry["table"], made)
        return made
    if "command" not in entry or not fnmatch(entry["file"], pattern):
        return None
    output = run(entry["command"].replace("FOLDER", data)) / entry["output"]
    shutil.copy(output, made)  # a comparison leaves files beside the image
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace figures that differ")
    parser.add_argument("--run", default="", metavar="GLOB", help="run the commands of these files")
    parser.add_argument("--data", default="data", help="the folder that FOLDER stands for")
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="figures_"))
    left = 0
    for entry in entries():
        made = make(entry, options.run, options.data, folder)
        committed = ROOT / entry["file"]
        if made is None:
            how = entry.get("command", "a screenshot")
            print(f"not made: {entry['file']}: {how}")
            continue
        outcome = compare(committed, made) if committed.exists() else "new"
        print(f"{outcome}: {entry['file']}", flush=True)
        if outcome != SAME and options.write:
            shutil.copy(made, committed)
        elif outcome != SAME:
            left += 1
    sys.exit(f"{left} figures differ; --write replaces them" if left else 0)


if __name__ == "__main__":
    main()

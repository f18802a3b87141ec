"""Making one figure: its table, by training or from the repository, its image and its numbers."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.report.common import show
from mupl.reproduce.compare import compare
from mupl.reproduce.entries import ROOT, Entry, Size
from mupl.reproduce.images import draw, draw_kept
from mupl.reproduce.run import train
from mupl.reproduce.views import VIEWS


@dataclass(frozen=True)
class How:
    """How a figure is made.

    Args:
        folder: in which each figure and size has a folder of its own, for runs and the image.
        size: its name; None for the first one of the figure.
        redraw: whether from the kept table, without training; None: of size=paper where there is
            one, as that takes a GPU.
        keep: whether table and images go to where the repository has them.
        data: the folder with data that FOLDER stands for in commands.
        overrides: of the config of what is trained.
    """

    folder: Path
    size: str | None = None
    redraw: bool | None = None
    keep: bool = False
    data: str = "data"
    overrides: Sequence[str] = ()


def make(entry: Entry, how: How) -> bool:
    """Make a figure, print its numbers, and return whether all are as expected.

    Raises:
        ConfigError: if there is no table to draw it from.
    """
    name, size = entry.size(how.size)
    folder = how.folder / f"{entry.name}_{name}"  # one table each, whatever else lies beside it
    print(f"{entry.name}, size {name}: {entry.about} ({entry.paper}, {entry.figure})", flush=True)
    redraw = how.redraw
    if redraw is None:
        redraw = name == "paper" and size.kept_table() is not None and not how.overrides
    code = 0
    if redraw:
        file = size.kept_table()
        if file is None:
            raise ConfigError(f"{entry.name}: of size {name} no table is kept; --run trains it")
        print(f"drawn from {size.table}; --run trains it ({size.cost})")
    else:
        print(f"takes {size.cost}", flush=True)
        code = train(size, folder, how.data, how.overrides)
        file = folder / VIEWS[entry.view].file
        if not file.is_file():
            raise ConfigError(f"{entry.name}: its runs left no {file}; see above for why")
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(file, low_memory=False)
    image = folder / f"{entry.name}.png"
    draw(entry.view, table, image)
    if how.keep:
        keep(entry, size, table)
    return _say(entry, size, table, image) and code == 0


def _say(entry: Entry, size: Size, table: pd.DataFrame, image: Path) -> bool:
    """Print the numbers and whether they are as expected; return that."""
    print(f"figure: {image}")
    print(f"the paper: {entry.claim}")
    if not size.expect:
        print(f"{entry.name}: no numbers are expected at this size yet")
        return True
    found = outcomes(entry, size, table)
    passes = found["passes"]
    bounds = found[found["known"] != ""]
    hidden = ["edges"] if len(bounds) else ["edges", "known"]
    shown = found.drop(columns=hidden).assign(passes=passes.map({True: "pass", False: "NO"}))
    show(shown, "numbers", None)
    for row in bounds.itertuples():
        print(
            f"{row.says}: {row.known}, as the optimum at {row.edges} lies at the edge of the grid; "
            "values beyond it, said after the figure's name as KEY=VALUES, would tell"
        )
    print(f"{entry.name}: {passes.sum()} of {len(found)} numbers are as expected")
    return bool(passes.all())


def outcomes(entry: Entry, size: Size, table: pd.DataFrame) -> pd.DataFrame:
    """Measure what is expected of a figure on its table (see `compare`)."""
    return compare(size.expect, VIEWS[entry.view].numbers(table))


def keep(entry: Entry, size: Size, table: pd.DataFrame) -> None:
    """Write a small table and the images to where the repository has them.

    Raises:
        ConfigError: outside of a checkout, or if the config names no table.
    """
    if not size.table or not (ROOT / "docs").is_dir():
        raise ConfigError(f"--keep: {entry.name} has no table in docs/results, or is no checkout")
    file = ROOT / size.table
    text = VIEWS[entry.view].kept(table).encode()
    write_atomically(file, gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)
    print(f"kept: {size.table}")
    by_folder = {(ROOT / image).parent for image in size.images}
    for folder in by_folder:
        for image in draw_kept(entry, size, pd.read_csv(file), folder):
            print(f"kept: {image}")

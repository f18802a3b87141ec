"""Drawing the images of a figure, and comparing them with those that are committed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
from matplotlib.testing.compare import compare_images
from matplotlib.testing.exceptions import ImageComparisonFailure

from mupl.figures.look import styled
from mupl.report.common import save
from mupl.reproduce.entries import ROOT, Entry, Size
from mupl.reproduce.views import VIEWS

TOLERANCE = 5.0  # of 255; anti-aliasing of another version of matplotlib is below
SAME = "same"
DIFFERS = "differs"
NEW = "new"


def draw(view: str, table: pd.DataFrame, file: Path) -> None:
    """Draw the figure of a table."""
    with styled():
        save(VIEWS[view].plot(table), [file])


def draw_kept(entry: Entry, size: Size, table: pd.DataFrame, folder: Path) -> Iterator[str]:
    """Draw the images that the repository has of a figure into a folder, and yield their names."""
    for image, rows in size.images.items():
        shown = table.query(rows) if rows else table
        draw(entry.view, shown, folder / Path(image).name)
        yield image


def check_images(entry: Entry, size: Size, write: bool) -> int:
    """Draw the images of a figure from its kept table; say which differ from those committed.

    Args:
        write: replace those that differ.

    Returns:
        How many differ, and were not replaced.
    """
    file = size.kept_table()
    if file is None:
        for image in size.images:
            print(f"not drawn: {image}: no table is kept; {size.commands[0]}")
        return 0
    folder = Path(mkdtemp(prefix="figures_"))
    left = 0
    for image in draw_kept(entry, size, pd.read_csv(file), folder):
        drawn = folder / Path(image).name
        committed = ROOT / image
        outcome = same(committed, drawn) if committed.exists() else NEW
        print(f"{outcome}: {image}", flush=True)
        if outcome == SAME:
            continue
        if write:
            shutil.copy(drawn, committed)
        left += not write
    return left


def same(committed: Path, drawn: Path) -> str:
    """Say whether two images show the same.

    They differ if the root mean square of the differences of their pixels is above `TOLERANCE`.
    """
    shown = shutil.copy(committed, drawn.with_stem(f"{drawn.stem}_committed"))
    try:  # it leaves files beside the images
        difference = compare_images(str(shown), str(drawn), TOLERANCE)
    except ImageComparisonFailure:  # of another size
        return DIFFERS
    return DIFFERS if difference else SAME

"""docs/gallery.md: every figure with its paper, commands, cost and result."""

from collections.abc import Iterator

import pandas as pd

from mupl.reproduce.compare import range_of
from mupl.reproduce.entries import ROOT, Entry, Size, entry_names, read_entry
from mupl.reproduce.figure import outcomes

PAGE = ROOT / "docs" / "gallery.md"
HEAD = """# Gallery: figures of papers, made again

*This page is made by `python scripts/reproduce.py --gallery` from
[conf/reproduce](../conf/reproduce), one config a figure, and from the tables that they name.*

    mupl reproduce --list
    mupl reproduce two_vectors

The second command trains what is missing (the same command goes on where it ended), draws the
figure, compares its numbers with those that are expected, and says pass or not; the exit code is 1
if not. In a checkout that is not installed it is `python scripts/reproduce.py two_vectors`.

- `--size tiny`, where a figure has it the default, takes minutes on two CPU cores and no download.
  `--size paper` is for a GPU. Where its table is kept here it is drawn from that; `--run` trains.
- `--redraw` draws from the kept table. `--keep` puts table and images to where this page has them.
- `--folder DIR` is for runs and images; each figure and size has a folder of its own there, such as
  `two_vectors_tiny`.
- `--data DIR` says where data lie; it stands for FOLDER in commands.
- `key=value` sets a key of the runs, such as `seed=7`.

Ranges are set about what was measured, by the scatter over widths and seeds. Each figure has a
number that a wrong parametrization misses; `tests/test_reproduce.py` trades them and sees it fail.
Three have none at the size for a CPU, and say so: `init_std`, `lr_depth` and `embedding_lr`.

If the best learning rate of a width is the first or the last one tried, a number that follows from
it is a bound, such as -0.8 "or less", or not known. It passes if all that it may be is expected.

`make figures` draws all images of the docs again from the kept tables and says which differ. A new
figure is one file in conf/reproduce, and for a new kind of table a function from the table to a
figure in [views.py](../mupl/reproduce/views.py).
"""


def gallery() -> str:
    """Return the text of docs/gallery.md."""
    entries = [read_entry(name) for name in entry_names()]
    lines = [HEAD, "| figure | paper | shows | sizes |", "|---|---|---|---|"]
    for entry in entries:
        link = f"[{entry.name}](#{entry.name})"
        sizes = ", ".join(f"{name}: {size.cost}" for name, size in entry.sizes.items())
        lines.append(f"| {link} | {entry.paper}, {entry.figure} | {entry.about} | {sizes} |")
    for entry in entries:
        lines += _section(entry)
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> Iterator[str]:
    yield f"\n## {entry.name}\n"
    yield f"{entry.about}. {entry.paper}, {entry.figure}. The claim: {entry.claim}"
    for name, size in entry.sizes.items():
        yield f"\n**{name}**, {size.cost}:\n"
        for command in size.commands:
            yield f"    {command}"
        yield ""
        yield from _result(entry, size)
        for image in size.images:
            if (ROOT / image).is_file():
                yield f"\n![{entry.about}, {name}]({image.removeprefix('docs/')})"


def _result(entry: Entry, size: Size) -> Iterator[str]:
    """Yield the numbers of a size: measured, if its table is kept, and expected."""
    file = size.kept_table()
    if file is not None:
        yield f"Drawn from [{file.name}]({size.table.removeprefix('docs/')}).\n"
    if not size.expect:
        yield "No numbers are expected at this size yet."
        return
    if file is None:
        yield "Its table is not kept here; `--run` trains it again.\n"
        yield "| number | expected |"
        yield "|---|---|"
        for expectation in size.expect:
            yield f"| {expectation.says} | {range_of(expectation)} |"
        return
    yield "| number | measured | expected | |"
    yield "|---|---|---|---|"
    for row in outcomes(entry, size, pd.read_csv(file)).itertuples():
        verdict = "pass" if row.passes else "**no**"
        measured = f"{row.measured:.3g} {row.known}".rstrip()
        yield f"| {row.says} | {measured} | {row.range} | {verdict} |"

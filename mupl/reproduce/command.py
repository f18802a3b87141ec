"""The command `mupl reproduce`."""

import argparse

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.reproduce.entries import ROOT, entry_names, read_entry
from mupl.reproduce.figure import How, make
from mupl.reproduce.gallery import PAGE, gallery
from mupl.reproduce.images import check_images


def reproduce(options: argparse.Namespace) -> int:
    """Do what the options say; return 1 if a number is not as expected, or an image differs."""
    names = [text for text in options.name if "=" not in text]
    overrides = [text for text in options.name if "=" in text]
    if names == ["all"] or (options.figures and not names):
        names = entry_names()
    if options.list:
        _list()
        return 0
    if options.gallery:
        return _write_gallery()
    if not names:
        raise ConfigError("mupl reproduce: needs the name of a figure; --list shows all")
    entries = [read_entry(name) for name in names]
    if options.figures:
        sizes = [(entry, size) for entry in entries for size in entry.sizes.values()]
        left = sum(check_images(entry, size, options.write) for entry, size in sizes)
        print(f"{left} images differ; --write replaces them" if left else "no image differs")
        return int(left > 0)
    keys = ("size", "redraw", "keep", "folder", "data")
    how = How(**{key: getattr(options, key) for key in keys}, overrides=overrides)
    passed = [make(entry, how) for entry in entries]
    if len(passed) > 1:
        print(f"{sum(passed)} of {len(passed)} figures are as expected")
    return int(not all(passed))


def _list() -> None:
    """Print a paragraph for each figure: a table of so long texts would be cut off."""
    for name in entry_names():
        entry = read_entry(name)
        costs = "; ".join(f"{size}: {one.cost}" for size, one in entry.sizes.items())
        print(f"{name}: {entry.about}\n    {entry.paper}, {entry.figure}\n    {costs}")


def _write_gallery() -> int:
    if not PAGE.parent.is_dir():
        raise ConfigError(f"--gallery: there is no {PAGE.parent}; run this in a checkout of mupl")
    write_atomically(PAGE, gallery())
    print(PAGE.relative_to(ROOT))
    return 0

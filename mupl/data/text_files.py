"""Which files of a folder hold text, and where long ones may be cut."""

import codecs
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mupl.errors import ConfigError

BLOCK = 2**20  # bytes that are read at a time
SPAN = 2**22  # bytes of a long file that are tokenized at a time
# A space or line end between two signs of ASCII that are neither: no token of byte-level BPE
# reaches over the place before it.
CUT = re.compile(rb"(?<=[\x21-\x7e])[ \n](?=[\x21-\x7e])")
BY_FILE = 100  # files from which on whole files validate; of fewer, the end of each does

SKIPPED = ("empty", "binary", "not UTF-8")


class Span(NamedTuple):
    """Bytes `start` to `stop` of a file, which are text by themselves."""

    file: str
    start: int
    stop: int
    split: str  # train | val
    ends: bool  # whether a document ends with it

    def read(self) -> str:
        """Return the text."""
        with open(self.file, "rb") as file:
            file.seek(self.start)
            return file.read(self.stop - self.start).decode()


def text_files(sources: Iterable[str | Path], suffixes: Sequence[str]) -> list[Path]:
    """List files, and those below folders that have one of the suffixes, sorted.

    Names that begin with a dot are left out, and so are links to folders.

    Args:
        suffixes: such as "py" or ".py"; none for all files.

    Raises:
        ConfigError: if a source is not there, or no file is left.
    """
    wanted = {f".{suffix.lstrip('.')}" for suffix in suffixes}
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or folder")
        if source.is_file():
            found[source] = None
            continue
        for parent, folders, names in os.walk(source):
            folders[:] = [name for name in folders if name[0] != "."]
            for name in names:
                path = Path(parent, name)
                if name[0] != "." and (not wanted or path.suffix in wanted) and path.is_file():
                    found[path] = None
    if not found:
        kinds = f" of the suffixes {', '.join(sorted(wanted))}" if wanted else ""
        raise ConfigError(f"there are no files{kinds} in {', '.join(map(str, sources))}")
    return sorted(found)


def why_no_text(file: Path) -> str | None:
    """Return which of `SKIPPED` a file is, or None if it is text in UTF-8.

    A file with a zero byte is binary.

    >>> why_no_text(Path(__file__)) is None
    True
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = 0
    with open(file, "rb") as content:
        while block := content.read(BLOCK):
            size += len(block)
            if b"\0" in block:
                return "binary"
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return "not UTF-8"
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "not UTF-8"
    return None if size else "empty"


def spans(files: Sequence[Path], val_fraction: float) -> list[Span]:
    """Cut texts into spans of about `SPAN` bytes, each to train or to validate.

    Of fewer than `BY_FILE` files the end of each validates. Of more, whole files do, in the order
    of the CRC-32 of their paths, until these hold `val_fraction` of the bytes.
    """
    sizes = {file: file.stat().st_size for file in files}
    if len(files) < BY_FILE:
        found: list[Span] = []
        for file, size in sizes.items():
            border = _cut_after(file, round((1 - val_fraction) * size), size)
            found += _spans_of(file, 0, border, "train")
            found += _spans_of(file, border, size, "val")
        return found
    wanted = val_fraction * sum(sizes.values())
    validating = set()
    for file in sorted(files, key=lambda path: zlib.crc32(path.as_posix().encode())):
        if wanted <= 0:
            break
        validating.add(file)
        wanted -= sizes[file]
    found = []
    for file, size in sizes.items():
        found += _spans_of(file, 0, size, "val" if file in validating else "train")
    return found


def _spans_of(file: Path, start: int, stop: int, split: str) -> Iterator[Span]:
    """Yield the spans of one document."""
    while start < stop:
        end = _cut_after(file, start + SPAN, stop)
        yield Span(str(file), start, end, split, ends=end == stop)
        start = end


def _cut_after(file: Path, place: int, stop: int) -> int:
    """Return the first place at or after `place` where a text may be cut, at most `stop`.

    In a text without `CUT` within `BLOCK` it is the next line end, at which a token may be cut.
    """
    if place >= stop:
        return stop
    with open(file, "rb") as content:
        content.seek(max(place - 1, 0))
        block = content.read(BLOCK)
        base = max(place - 1, 0)
        if found := CUT.search(block):
            return min(base + found.start(), stop)
        while block:
            line_end = block.find(b"\n", 1)
            if line_end >= 0:
                return min(base + line_end, stop)
            base += len(block)
            block = content.read(BLOCK)
    return stop

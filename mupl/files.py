"""Writing files that are there whole or not at all."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

DAMAGED = ".damaged"  # at the end of the name of a file that was set aside
MANIFEST_FILE = "manifest.json"  # of a folder of tokens: written last, says what they are


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under another name in the same folder, and rename it once it is complete.

    Raises:
        OSError: such as on a full disk, with the path; nothing half-written is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, str):
        content = content.encode()
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a read-only disk refuses even to remove what is not there
            partial.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """Return what the manifest of a folder of tokens says, or None if there is none.

    Its entry "hash" is a digest of all files of the folder, wherever that lies.
    """
    try:
        manifest = json.loads(Path(folder).expanduser().joinpath(MANIFEST_FILE).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "hash" in manifest else None


def delete_stale_partials(folder: Path, pattern: str = ".*.*") -> None:
    """Delete partial files whose processes, of which the names end with the numbers, are gone.

    `write_atomically` leaves one when its process is killed.
    """
    for partial in folder.glob(pattern):
        _, _, process = partial.name.rpartition(".")
        if process.isdecimal() and not is_running(int(process)):
            partial.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Return whether a process of that number runs on this machine, or it cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        pass
    return True


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write plain rows as a table, empty where a row lacks a column.

    Tables that are pandas frames already are written by `DataFrame.to_csv`; this is for processes
    that do without the import of pandas.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def set_aside(file: Path, cause: str, then: str) -> None:
    """Rename a damaged file, and say so; on a disk that is read-only it stays where it is.

    Args:
        then: what happens without the file.
    """
    aside = file.with_name(f"{file.name}{DAMAGED}")
    for i in count(2):
        if not aside.exists():
            break
        aside = file.with_name(f"{file.name}{DAMAGED}{i}")
    try:
        file.rename(aside)
        end = f"set aside as {aside.name}; {then}"
    except OSError as error:
        end = f"not set aside ({error.strerror})"
    cause = " ".join(cause.split())
    print(f"warning: {file} is damaged ({cause}): {end}", file=sys.stderr, flush=True)

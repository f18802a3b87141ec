"""By which code, of which data and with which packages a job was trained, and what changed since.

The id of a job is of its config alone, so that another version of the code has the same id. What a
job was trained by is recorded beside its result, and compared before that result is taken for the
present code's.

Only what decides a training counts: torch, Python and the packages that the config names at their
first two numbers, the code of the rooms of mupl that train and of the user's own classes and
functions without comments and docstrings, and the files that `data` names. The version and the
commit of mupl are for readers.
"""

import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any

from mupl.files import read_manifest
from mupl.identity.fingerprints import PACKAGE, package_of, path_digest, source_digest

# Parts of mupl that every training goes through
ROOMS = ("initializers", "roles", "parametrization", "nn", "optim", "models", "data", "training")
SHOWN = ("mupl", "lightning", "hydra-core", "numpy")  # recorded, but they do not count
STDLIB_TEXT = "data.file=None"  # the text of Python's standard library
# Values that name code, beside every `_target_`
DOTTED_NAMES = ("loss", "model.constructor", "model.options.config")
UNRECORDED = "mupl (an earlier one, which recorded no versions)"

Provenance = Mapping[str, Any]


def provenance(plain: Mapping[str, Any], rooms: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a job is trained by.

    Entries: "versions" and "commit" to read; and what counts: "packages" (name -> version),
    "sources" (dotted name -> digest) and "data" ("key=path" -> digest).

    Args:
        plain: the job's config; see `mupl.identity.jobs.trained`.
        rooms: parts of mupl that train it beside `ROOMS`.
    """
    packages = {name: _version(name) for name in ("python", "torch")}
    sources = {}
    for room in (*ROOMS, *rooms):
        sources[f"mupl.{room}"] = source_digest(f"mupl.{room}")
    data = {}
    for key, value in leaves(plain):
        if key in DOTTED_NAMES or key.endswith("_target_"):
            part, is_package = _part_of(str(value))
            if is_package:
                packages[part] = _version(part)
            else:
                sources[part] = source_digest(part)
        elif key.startswith("data.") and isinstance(value, str):
            if read_manifest(value) is not None:
                continue  # the id of the job follows from its digest
            label = f"{key}={value}"
            data[label] = _data_digest(label)
    if plain["data"].get("_target_") == "mupl.data.read_text" and plain["data"]["file"] is None:
        data[STDLIB_TEXT] = _data_digest(STDLIB_TEXT)
    return {
        "versions": {name: _version(name) for name in SHOWN},
        "commit": _commit(),
        "packages": packages,
        "sources": sources,
        "data": {label: digest for label, digest in data.items() if digest},
    }


def changes(earlier: Provenance | None) -> list[str]:
    """Return the parts that are not what they were, such as "torch 2.11 (now 2.14)".

    Args:
        earlier: the entry "provenance" of a result; None: it has none.
    """
    if earlier is None:
        return [UNRECORDED]
    changed = []
    for name, version in earlier["packages"].items():
        before = _minor(version)
        now = _minor(_version(name))
        if before != now:
            changed.append(f"{name} {before} (now {now})")
    # syntax trees, of which digests are, differ between versions of Python
    if _minor(earlier["packages"]["python"]) == _minor(_version("python")):
        for name, digest in earlier["sources"].items():
            if source_digest(name) != digest:
                changed.append(f"{name} (source)")
    for label, digest in earlier["data"].items():
        if _data_digest(label) != digest:
            changed.append(f"{label} (contents)")
    return changed


def differences(rows: Sequence[Provenance | None]) -> list[str]:
    """Return the parts in which rows of one table differ, such as "torch 2.11 and 2.14"."""
    found: dict[str, dict[str, None]] = {}  # part -> its versions, in the order of rows
    for row in rows:
        for part, version in _parts(row):
            found.setdefault(part, {})[version] = None
    different = []
    for part, versions in found.items():
        if len(versions) > 1:
            different.append(f"{part} {' and '.join(versions)}".rstrip())
    if None in rows and found:
        different.append(UNRECORDED)
    return different


def _parts(row: Provenance | None) -> Iterator[tuple[str, str]]:
    if row is None:
        return
    yield "accelerator", str(row.get("accelerator"))
    for name, version in row["packages"].items():
        yield name, _minor(version)
    python = _minor(row["packages"]["python"])
    for name, digest in row["sources"].items():
        yield f"{name} (source under Python {python})", digest[:6]
    for label, digest in row["data"].items():
        yield f"{label} (contents)", digest[:6]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry of a config that holds no others.

    >>> list(leaves({"lr": 0.1, "model": {"depth": 2}, "keep": ["a"]}))
    [('lr', 0.1), ('model.depth', 2), ('keep.0', 'a')]
    """
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from leaves(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{key}.{i}")
    else:
        yield key, value


@cache
def _part_of(target: str) -> tuple[str, bool]:
    """Return what a dotted name is a part of, and whether that is an installed package.

    A part of mupl is one of its rooms.
    """
    top, _, rest = target.partition(".")
    if top == "mupl":
        return f"mupl.{rest.partition('.')[0]}", False
    package = package_of(top)
    return (package, True) if package else (target, False)


def _data_digest(label: str) -> str:
    """Return a digest of the data of a label "key=path", or "" if there are none."""
    if label == STDLIB_TEXT:
        return platform.python_version()
    return path_digest(label.partition("=")[2])


@cache
def _version(name: str) -> str:
    """Return a package's version, from the notes of its installation; "" if there is none."""
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _minor(version: str) -> str:
    """Return the first two numbers of a version: "2.11" of "2.11.0+cu128"."""
    return ".".join(version.split(".")[:2])


@cache
def _commit() -> str | None:
    """Return the commit of a checkout of mupl, with "-dirty" if files differ from it, or None."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

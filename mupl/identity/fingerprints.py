"""Digests of code and of data, each made once in a process."""

import ast
import hashlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.util import find_spec, resolve_name
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Files in the rooms of mupl that do not change what is trained
NOT_TRAINING = (
    "training/clear_errors.py",
    "training/cli.py",
    "training/compose.py",
    "training/coord_check.py",
    "training/loss_check.py",
    "training/lr_finder.py",
    "training/registration.py",
    "training/threads.py",
    "stacked/compose.py",
    "stacked/executors.py",
    "stacked/finish.py",
    "stacked/launcher.py",
    "stacked/options.py",
    "stacked/stacks.py",
)
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
INSTALLED = {"site-packages", "dist-packages"}
# Bytes of data up to which contents are read; of more, sizes and times of change stand for them
READ_AT_MOST = 64e6
# What mupl and Python leave in folders of data and code
CACHES = ("mupl_images_", "__pycache__", ".")


@cache
def source_digest(name: str) -> str:
    """Return a digest of the code of a room of mupl, or of a class or function of the user's.

    The latter covers its module and all the user's modules which that one imports. Comments,
    docstrings and line breaks do not count.
    """
    files = _room_files(name) if name.startswith("mupl.") else _own_modules(name)
    digest = hashlib.sha256()
    for part, file in sorted(files.items()):
        digest.update(f"{part}\0{_code(file)}\0".encode())
    return digest.hexdigest()[:16]


@cache
def package_of(top: str) -> str:
    """Return the installed package that has this top-level module, or "" if it is the user's own.

    Modules of the standard library are "python".
    """
    if top in sys.stdlib_module_names:
        return "python"
    if not INSTALLED & set(_spec_path(top).parts):
        return ""
    try:
        metadata.version(top)
    except metadata.PackageNotFoundError:  # named otherwise, as scikit-learn is
        names = metadata.packages_distributions().get(top)
        return names[0] if names else ""
    return top


def path_digest(path: str) -> str:
    """Return a digest of a file or of all files in a folder; "" if there is none.

    There is none either of a folder that holds the working folder, as outputs lie there.
    """
    return _path_digest(os.path.abspath(os.path.expanduser(path)))


@cache
def _path_digest(path: str) -> str:
    if os.path.isfile(path):
        files = [path]
    elif os.path.isdir(path) and not Path.cwd().is_relative_to(os.path.realpath(path)):
        files = sorted(_files_below(path))
    else:
        return ""
    status = {file: os.stat(file) for file in files if os.path.exists(file)}
    reads = sum(entry.st_size for entry in status.values()) <= READ_AT_MOST
    digest = hashlib.sha256()
    for file, entry in status.items():
        content = Path(file).read_bytes() if reads else str(entry.st_mtime_ns).encode()
        digest.update(f"{os.path.relpath(file, path)}\0{entry.st_size}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _files_below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(CACHES)]
        for name in names:
            if not name.startswith(CACHES):
                yield os.path.join(parent, name)


def _room_files(name: str) -> dict[str, Path]:
    room = PACKAGE / name.partition(".")[2]
    module = room.with_suffix(".py")
    if module.exists():
        return {module.name: module}
    files = {}
    for file in room.rglob("*.py"):
        path = file.relative_to(PACKAGE).as_posix()
        if path not in NOT_TRAINING:
            files[path] = file
    return files


def _own_modules(name: str) -> dict[str, Path]:
    """Return the file of the module that has a dotted name, and of the user's that it imports."""
    files: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module, file = _module_of(waiting.pop())
        if file is not None and module not in files:
            files[module] = file
            waiting += _imports(module, file)
    return files


def _module_of(name: str) -> tuple[str, Path | None]:
    """Return the user's module that has a dotted name, and its file; nothing is imported.

    The file is None if the module is another's or there is none.
    """
    top, *parts = name.split(".")
    path = _spec_path(top)
    if top == "mupl" or package_of(top) or path == Path():
        return top, None
    module = top
    for part in parts:
        if (path / f"{part}.py").is_file():
            return f"{module}.{part}", path / f"{part}.py"
        if not (path / part).is_dir():
            break
        module = f"{module}.{part}"
        path = path / part
    file = path / "__init__.py" if path.is_dir() else path
    return module, file if file.is_file() else None


@cache
def _spec_path(top: str) -> Path:
    """Return the file of a top-level module or the folder of a package; Path() if there is none."""
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # such as a script's own `__main__`
        return Path(getattr(sys.modules.get(top), "__file__", None) or "")
    if spec is None:
        return Path()
    folders = list(spec.submodule_search_locations or [])
    return Path(folders[0] if folders else spec.origin or "")


def _imports(module: str, file: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports; some are no modules but what is in them."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level and package:
                source = resolve_name("." * node.level + source, package)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _code(file: Path) -> str:
    """Return the syntax tree of a file as text, or its bytes where it is no Python."""
    tree = _parse(file)
    if not tree.body:
        return repr(file.read_bytes()) if file.suffix != ".py" else ""
    _delete_docstrings(tree)
    return ast.dump(tree)


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # such as a compiled module
        return ast.Module([], [])


def _delete_docstrings(node: ast.Module | Definition) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del node.body[0]
    for entry in node.body:
        if isinstance(entry, Definition):
            _delete_docstrings(entry)

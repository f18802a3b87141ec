"""Names of tensors and modules: the pattern that blocks share, and globs; and of objects."""

import os
import pkgutil
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mupl.errors import ConfigError

# Packages that configs name, and the extra of mupl that installs each
EXTRAS = {
    "transformers": "models",
    "timm": "models",
    "torchvision": "models",
    "pytorch_optimizer": "optimizers",
}


def block_pattern(name: str) -> str:
    """Return the same name for every block: `blocks.3.mlp.weight` -> `blocks.*.mlp.weight`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def layer_pattern(name: str) -> str:
    """Return the same name for every layer, also for those numbered as `encoder_layer_0.mlp`.

    >>> layer_pattern("encoder.layers.encoder_layer_0.mlp.0")
    'encoder.layers.encoder_layer_*.mlp.*'
    """
    return re.sub(r"(?<![^._])\d+(?![^.])", "*", name)


def is_in_blocks(name: str, in_blocks: Container[str]) -> bool:
    """Say whether a tensor or a module, or one around it, has one of the patterns.

    >>> is_in_blocks("h.3.mlp.act", ["h.*", "h.*.mlp.weight"])
    True
    """
    parts = layer_pattern(name).split(".")
    return any(".".join(parts[:end]) in in_blocks for end in range(1, len(parts) + 1))


def child_path(path: str, name: str) -> str:
    """Return the path of a module's child or tensor; the root's path is "".

    >>> child_path("layers.0", "weight"), child_path("", "weight")
    ('layers.0.weight', 'weight')
    """
    return f"{path}.{name}" if path else name


def match_globs(key: str, globs: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that match one glob or more, in their own order.

    Args:
        key: of the config, for the error.

    Raises:
        ConfigError: if a glob matches no name.

    >>> match_globs("modules", ["layers.*", "readout"], ["layers.0", "readout", "norm"])
    ['layers.0', 'readout']
    """
    names = list(names)
    matched: set[str] = set()
    for glob in globs:
        found = [name for name in names if fnmatchcase(name, glob)]
        if not found:
            raise ConfigError(f"{key}: {glob!r} matches none of {', '.join(names)}")
        matched.update(found)
    return [name for name in names if name in matched]


def some_of(names: Sequence[str], most: int = 3) -> str:
    """List a few names.

    Example:
        >>> some_of(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def find_object(key: str, name: str, what: str) -> Any:
    """Return what has a dotted name, which can be called.

    Args:
        key: of the config, for the error.
        what: what it must be, for the error.

    Raises:
        ConfigError: if there is none, or its package is not installed.

    >>> find_object("loss", "math.hypot", "a function")(3, 4)
    5.0
    """
    package, dot, _ = name.partition(".")
    found = None
    try:
        found = pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        if dot and error.name == package:
            raise ConfigError(f"{key}={name}: {not_installed(package)}") from error
    except (ImportError, AttributeError, ValueError):
        pass
    if not callable(found):
        raise ConfigError(f"{key}={name}: must be the dotted name of {what}")
    return found


def flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts, under dotted names.

    Example:
        >>> flat({"k": 3, "weights": {"layer.bias": 0.5}})
        {'k': 3, 'weights.layer.bias': 0.5}
    """
    entries: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


def import_from_working_folder() -> None:
    """Have Python find modules of the working folder first, as `python -m` does."""
    folder = os.getcwd()
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def not_installed(package: str) -> str:
    """Say that a package is missing, and how to get it.

    Example:
        >>> not_installed("timm")
        "needs the package timm, which is not installed: pip install 'mupl[models]'"
    """
    remedy = ", nor a module of the working folder"
    if package in EXTRAS:
        remedy = f": pip install 'mupl[{EXTRAS[package]}]'"
    return f"needs the package {package}, which is not installed{remedy}"


# How people write what configs call by a name that is easy to type
AS_WRITTEN = {
    "sp": "SP",
    "ntk": "NTK",
    "mean_field": "mean field",
    "mup": "muP",
    "mup_table3": "muP, Table 3",
    "mup_table9": "muP, Table 9",
    "unit_init": "muP, unit init",
    "depth_mup": "depth-muP",
    "cerebras": "muP, Cerebras",
    "mulinear": "MuLinear",
    "completep": "CompleteP",
    "umup": "u-muP",
    "umup_output_scale": "u-muP, output scale",
    "sp_full_align": "SP, full alignment",
    "ntk_full_align": "NTK, full alignment",
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "adam_atan2": "Adam-atan2",
    "lion": "Lion",
    "sign_sgd": "sign-SGD",
    "muon": "Muon",
    "shampoo": "Shampoo",
    "shampoo_svd": "Shampoo, simplified",
    "soap": "SOAP",
    "adamh": "AdamH",
    "muonh": "MuonH",
    "scion": "Scion",
    "normalized": "normalized updates",
    "blocked_soap": "SOAP in blocks",
    "blocked_shampoo": "Shampoo in blocks",
    "lr": "learning rate",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "val_accuracy": "validation accuracy",
    "readout_norm": "norm of the readout",
}


def as_written(name: str) -> str:
    """Return a name as people write it; of a config in a folder, the folder comes in brackets.

    >>> as_written("mup"), as_written("shampoo_svd/all"), as_written("my_table")
    ('muP', 'Shampoo, simplified (all)', 'my_table')
    """
    if name in AS_WRITTEN:
        return AS_WRITTEN[name]
    head, slash, rest = name.partition("/")
    if slash and head in AS_WRITTEN:
        return f"{AS_WRITTEN[head]} ({rest})"
    return name

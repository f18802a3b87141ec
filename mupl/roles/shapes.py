"""What has to be known of a model's base size to describe it at any other; it can be saved."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.initializers import Fill, Initializer
from mupl.names import block_pattern, child_path, layer_pattern, some_of
from mupl.roles.attention import BaseHeads, heads_of
from mupl.roles.fans import transposed_groups
from mupl.roles.infos import multipliers
from mupl.roles.readouts import readout_scale

T = TypeVar("T")
FORMAT = "mupl shapes"
VERSION = 1


@dataclass(frozen=True)
class BaseTensor:
    """One tensor of a base model.

    Args:
        names: of each of its uses.
        shapes: at the base size, and at a wider one if there is one.
        groups: of a transposed convolution, at these sizes; else 1.
        fill: how it is filled at the base size.
        rms: root mean square at the base size; None: it has no values and nothing tells.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]
    fill: Fill
    rms: float | None


@dataclass(frozen=True)
class BaseMultiplier:
    """A `mupl.nn.multipliers.Multiplier` of a base model.

    Args:
        value: at the base size.
        fan_ins: at the base size, and at a wider one if there is one.
    """

    value: float
    fan_ins: tuple[int, ...]


@dataclass(frozen=True)
class Shapes:
    """What `mupl.describe` has to know of a model at its base size, and at a wider one.

    `mupl.shapes` makes it. Saved once, it describes models of any size without building the base
    again: `mupl.Setup(build, width=1024, base="base.json", lr=...)`.

    Args:
        tensors: by the first of their names.
        multipliers: numbers of the model, by module name.
        heads: attention heads, by module name.
        readouts: by what the model itself multiplies its tied readouts, where that is known.
        depth: number of blocks, if the model was built by depth.
        in_blocks: patterns of the names whose number grows with depth, if that is known.

    Example:
        >>> from mupl.roles import shapes
        >>> build = lambda width: nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3, False))
        >>> shapes(build, 8).tensors["0.weight"].shapes
        ((8, 6), (16, 6))
    """

    tensors: Mapping[str, BaseTensor]
    multipliers: Mapping[str, BaseMultiplier]
    heads: Mapping[str, BaseHeads]
    readouts: Mapping[str, float]
    depth: int | None = None
    in_blocks: tuple[str, ...] = ()

    def save(self, path: str | PathLike[str]) -> None:
        """Write a JSON file with one line a tensor.

        Example:
            >>> import tempfile
            >>> from mupl.roles import shapes
            >>> folder = tempfile.TemporaryDirectory()
            >>> path = Path(folder.name) / "base.json"
            >>> small = shapes(lambda width: nn.Linear(6, width), 8)
            >>> small.save(path)
            >>> Shapes.load(path) == small
            True
            >>> folder.cleanup()
        """
        rows = {name: _row_of_tensor(name, tensor) for name, tensor in self.tensors.items()}
        numbers = {name: asdict(number) for name, number in self.multipliers.items()}
        heads = {name: asdict(found) for name, found in self.heads.items()}
        parts = {
            "format": json.dumps(FORMAT),
            "version": json.dumps(VERSION),
            "depth": json.dumps(self.depth),
            "in_blocks": json.dumps(self.in_blocks),
            "tensors": _lines(rows),
            "multipliers": _lines(numbers),
            "heads": _lines(heads),
            "readouts": _lines(self.readouts),
        }
        body = ",\n".join(f' "{key}": {value}' for key, value in parts.items())
        write_atomically(Path(path), f"{{\n{body}\n}}\n")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Shapes":
        """Read what `save` wrote.

        Raises:
            ConfigError: if there is no such file, it is damaged, or it is none of ours.
        """
        try:
            saved = json.loads(Path(path).read_text())
        except FileNotFoundError as error:
            raise ConfigError(f"base={path}: there is no such file") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"base={path}: cannot be read as JSON ({error})") from error
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise ConfigError(f"base={path}: is no file that mupl.shapes(...).save wrote")
        if saved.get("version") != VERSION:
            raise ConfigError(
                f"base={path}: is of version {saved.get('version')} of the format, not {VERSION}; "
                "save it again by mupl.shapes(...).save"
            )
        try:
            return cls._of_saved(saved)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"base={path}: is damaged ({reason}); save it again") from error

    @classmethod
    def _of_saved(cls, saved: Mapping[str, Any]) -> "Shapes":
        tensors = {}
        for name, row in saved["tensors"].items():
            tensors[name] = _tensor_of_row(name, row)
        numbers = {}
        for name, row in saved["multipliers"].items():
            fan_ins = _ints(row["fan_ins"])
            numbers[name] = BaseMultiplier(float(row["value"]), fan_ins)
        heads = {}
        for name, row in saved["heads"].items():
            heads[name] = _heads_of_row(row)
        readouts = {}
        for name, scale in saved["readouts"].items():
            readouts[name] = float(scale)
        in_blocks = tuple(map(str, saved["in_blocks"]))
        depth = saved["depth"]
        depth = None if depth is None else int(depth)
        return cls(tensors, numbers, heads, readouts, depth, in_blocks)


def _lines(rows: Mapping[str, Any]) -> str:
    """Write a JSON object with one entry a line."""
    entries = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    return "{\n" + ",\n".join(entries) + "\n }" if entries else "{}"


def _row_of_tensor(name: str, tensor: BaseTensor) -> dict[str, Any]:
    """Write what differs from a tensor of one use that is of no grouped convolution."""
    initializer = tensor.fill.initializer
    row: dict[str, Any] = {"shapes": tensor.shapes, "rms": tensor.rms}
    row["init"] = initializer and _row_of_initializer(initializer)
    row["random"] = tensor.fill.random
    if tensor.names != (name,):
        row["names"] = tensor.names
    if set(tensor.groups) != {1}:
        row["groups"] = tensor.groups
    return row


def _row_of_initializer(initializer: Initializer) -> dict[str, Any]:
    """Write an initializer without cut-offs that it has not: JSON knows no infinity."""
    row = asdict(initializer)
    for cutoff in ("a", "b"):
        if math.isinf(row[cutoff]):
            del row[cutoff]
    return row


def _tensor_of_row(name: str, row: Mapping[str, Any]) -> BaseTensor:
    init = row["init"] and Initializer(**row["init"])
    shapes = tuple(_ints(shape) for shape in row["shapes"])
    groups = _ints(row.get("groups", [1] * len(shapes)))
    if len(groups) != len(shapes) or len({len(shape) for shape in shapes}) != 1:
        raise ValueError(f"shapes {shapes}, groups {groups}")
    rms = row["rms"]
    return BaseTensor(
        names=tuple(map(str, row.get("names", [name]))),
        shapes=shapes,
        groups=groups,
        fill=Fill(init, bool(row["random"])),
        rms=None if rms is None else float(rms),
    )


def _heads_of_row(row: Mapping[str, Any]) -> BaseHeads:
    scale = row["scale"]
    return BaseHeads(_ints(row["sizes"]), None if scale is None else float(scale))


def _ints(numbers: Iterable[Any]) -> tuple[int, ...]:
    numbers = tuple(numbers)
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"{numbers} are not whole")
    return numbers


def shapes_of(
    base: nn.Module,
    wider: nn.Module | None,
    fills: Mapping[str, Fill],
    sizes: Mapping[str, float | None],
) -> Shapes:
    """Put together what is known of a base model.

    Args:
        fills: how its tensors are filled, by name.
        sizes: their root mean squares, by name.
    """
    models = [base] if wider is None else [base, wider]
    every_use = [uses(model) for model in models]
    check_same_names(every_use[0], every_use[-1])
    tensors = {}
    for first, names in every_use[0].items():
        shapes = [tuple(model.get_parameter(first).shape) for model in models]
        if len(set(map(len, shapes))) > 1:
            raise changes(first)
        tensors[first] = BaseTensor(
            names=names,
            shapes=tuple(shapes),
            groups=tuple(_groups(model, names) for model in models),
            fill=fills[first],
            rms=sizes[first],
        )
    found = [multipliers(model) for model in models]
    numbers = {}
    for name, module in found[0].items():
        if name not in found[-1]:
            raise ConfigError(f"module {name!r} is not there at every width: keep names fixed")
        numbers[name] = BaseMultiplier(module.value, tuple(at[name].fan_in for at in found))
    readouts = {}
    for names in every_use[0].values():
        for name in names if len(names) > 1 else ():
            path = name.rpartition(".")[0]
            scale = readout_scale(base, path)
            if scale is not None:
                readouts[path] = scale
    return Shapes(tensors, numbers, heads_of(models), readouts)


def _groups(model: nn.Module, names: Iterable[str]) -> int:
    owners = (model.get_submodule(name.rpartition(".")[0]) for name in names)
    return max(map(transposed_groups, owners))


def uses(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the names of each tensor, one for each module that uses it, by the first of them.

    Second names of one module are left out.
    """
    names: dict[int, tuple[str, ...]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                name = child_path(path, leaf)
                names[id(parameter)] = (*names.get(id(parameter), ()), name)
    return {shared[0]: shared for shared in names.values()}


def check_same_names(
    base: Mapping[str, tuple[str, ...]],
    model: Mapping[str, tuple[str, ...]],
    same: Callable[[str], str] = str,
) -> None:
    """Refuse two models whose tensors differ in name, or in how modules share them.

    Args:
        base, model: names of each tensor.
        same: what is equal for names that count as the same, such as one name in several blocks.
    """
    missing = _beyond(model, base, same)
    extra = _beyond(base, model, same)
    if missing or extra:
        found = [f"the base model has not {some_of(missing)}"] if missing else []
        found += [f"the base model alone has {some_of(extra)}"] if extra else []
        if _are_of_longer_lists(missing, base) and _are_of_longer_lists(extra, model):
            found.append(
                "where the number of equal networks in a list grows with width, such as of "
                "experts, hold their weights in one tensor (number, out, in)"
            )
        raise ConfigError(f"{changes((missing or extra)[0])} ({'; '.join(found)})")
    ties = [{tuple(map(same, names)) for names in found.values()} for found in (base, model)]
    if ties[0] != ties[1]:
        raise ConfigError("build: shares tensors between modules at one width, not at another")


def _beyond(
    ours: Mapping[str, tuple[str, ...]],
    theirs: Mapping[str, tuple[str, ...]],
    same: Callable[[str], str],
) -> list[str]:
    """Return the names that one model has and another has not."""
    known = {same(name) for names in theirs.values() for name in names}
    return [name for names in ours.values() for name in names if same(name) not in known]


def _are_of_longer_lists(names: Iterable[str], shorter: Mapping[str, tuple[str, ...]]) -> bool:
    """Say whether a model has the same tensors under other numbers in their names."""
    known = {layer_pattern(name) for shared in shorter.values() for name in shared}
    return all(layer_pattern(name) in known for name in names)


def changes(name: str) -> ConfigError:
    """Return the error of a tensor that is another one at another width."""
    return ConfigError(
        f"parameter {name!r} is not the same tensor at every width: keep names and ranks fixed"
    )


def patterns_in_blocks(fewer: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of the names of which a deeper model has more than another.

    Patterns of the modules that contain the tensors come along.

    Example:
        >>> patterns_in_blocks(["h.0.w", "readout"], ["h.0.w", "h.1.w", "readout"])
        ('h.*', 'h.*.w')
    """
    few, many = (Counter(map(layer_pattern, _with_parents(names))) for names in (fewer, more))
    return tuple(pattern for pattern in many if many[pattern] > few[pattern])


def _with_parents(names: Iterable[str]) -> list[str]:
    """Return names and the paths of the modules around them, each once."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            found[".".join(parts[:end])] = None
    return list(found)


def by_name(rows: Mapping[str, T], across_blocks: bool) -> Callable[[str], T | None]:
    """Return a look-up of what belongs to a name, or to the same name in another block."""
    patterns = {block_pattern(name): row for name, row in rows.items()} if across_blocks else {}
    return lambda name: rows.get(name, patterns.get(block_pattern(name)))

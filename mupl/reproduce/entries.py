"""The configs of figures: conf/reproduce/NAME.yaml, one a figure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mupl.errors import ConfigError
from mupl.training.overrides import CONF, PACKAGE

CONFIGS = CONF / "reproduce"
ROOT = PACKAGE.parent  # of a checkout: where kept tables and images lie
SIZES = ("tiny", "paper")


@dataclass(frozen=True)
class Expectation:
    """A number of a figure, and between which values it must lie.

    Args:
        says: the claim, in words.
        number: a column of what the view's `numbers` returns.
        where: its row or rows, as `DataFrame.query` takes it.
        minus: rows whose number is subtracted, if any.
        of: how several rows become one number: a method of `Series`, such as "max" or "sum".
        low, high: the ends of the range.
    """

    says: str
    number: str
    where: str
    minus: str = ""
    of: str = ""
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Size:
    """A figure at one size.

    Args:
        commands: which train its runs, in order; FOLDER stands for a folder with data.
        cost: how long they take, on what.
        table: the file of the repository that keeps what the figure is drawn from; "" for none.
        images: files of the repository -> which rows of the table they show; "" for all.
        expect: the numbers.
    """

    commands: tuple[str, ...]
    cost: str
    table: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    expect: tuple[Expectation, ...] = ()

    def kept_table(self) -> Path | None:
        """Return the kept table, if it is there: in a checkout, once somebody kept one."""
        file = ROOT / self.table
        return file if self.table and file.is_file() else None


@dataclass(frozen=True)
class Entry:
    """A figure.

    Args:
        name: of its config.
        about: what is seen, in one line.
        paper, figure: where it is from.
        claim: what the paper says of it.
        view: how its table becomes a figure and numbers, a name in `mupl.reproduce.views.VIEWS`.
        sizes: by name, of `SIZES`.
    """

    name: str
    about: str
    paper: str
    figure: str
    claim: str
    view: str
    sizes: Mapping[str, Size]

    def size(self, name: str | None) -> tuple[str, Size]:
        """Return the size of that name, or the first one, with its name.

        Raises:
            ConfigError: if the figure is not made at that size.
        """
        if name is None:
            return next(iter(self.sizes.items()))
        if name not in self.sizes:
            raise ConfigError(f"--size {name}: {self.name} has size {' and '.join(self.sizes)}")
        return name, self.sizes[name]


def entry_names() -> list[str]:
    """List the names of all figures.

    >>> "two_vectors" in entry_names()
    True
    """
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def read_entry(name: str) -> Entry:
    """Read the config of a figure.

    Raises:
        ConfigError: if there is none of that name, or it has a key too many or too few.

    >>> read_entry("two_vectors").view
    'two_vectors'
    """
    file = CONFIGS / f"{name}.yaml"
    if not file.is_file():
        alike = get_close_matches(name, entry_names(), n=1)
        meant = f"; did you mean {alike[0]}?" if alike else ""
        raise ConfigError(f"{name}: there is no such figure (--list shows all){meant}")
    return parse_entry(name, yaml.safe_load(file.read_text()))


def parse_entry(name: str, config: Mapping[str, Any]) -> Entry:
    """Make an entry of what a config says.

    What stands beside `sizes` under the name of a key of a size, such as `expect`, holds for all
    sizes that say nothing else.
    """
    where = f"conf/reproduce/{name}.yaml"
    of_size = {key.name for key in fields(Size)}
    shared = {key: value for key, value in config.items() if key in of_size}
    own = {key: value for key, value in config.items() if key not in of_size}
    sizes = {}
    for size, options in (own.pop("sizes", None) or {}).items():
        if size not in SIZES:
            raise ConfigError(f"{where}: sizes.{size}: must be one of {', '.join(SIZES)}")
        sizes[size] = _size(f"{where}: sizes.{size}", {**shared, **options})
    if not sizes:
        raise ConfigError(f"{where}: sizes: must be one or more of {', '.join(SIZES)}")
    return _made(where, Entry, {**own, "name": name, "sizes": sizes})


def _size(where: str, options: dict[str, Any]) -> Size:
    expect = []
    for number in options.get("expect", ()):
        expect.append(_made(f"{where}.expect", Expectation, number))
    commands = tuple(options.get("commands", ()))
    return _made(where, Size, {**options, "expect": tuple(expect), "commands": commands})


def _made(where: str, cls: Any, options: Mapping[str, Any]) -> Any:
    try:
        return cls(**options)
    except TypeError as error:  # a key too many or too few
        raise ConfigError(f"{where}: {error}") from error

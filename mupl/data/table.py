"""Rows of a CSV file as examples: numbers to learn from, and numbers or classes to tell."""

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mupl.data.splits import Arrays, random_split
from mupl.errors import ConfigError
from mupl.names import some_of

if TYPE_CHECKING:
    import pandas as pd


def read_table(
    file: str | Path,
    target: str,
    classes: bool = False,
    ignore: Sequence[str] = (),
    separator: str = ",",
    val_fraction: float = 0.2,
    val_file: str | Path | None = None,
) -> Arrays:
    """Examples of a CSV file: a column to tell from all others, which hold numbers.

    Each feature gets mean 0 and standard deviation 1 over the train split, which is the same for
    all seeds. So does a target of numbers: predicting the mean gives a mean squared error of 1,
    and 0.2 leaves a fifth of the variance. A column with one value only becomes 0.

    Args:
        target: the column to tell.
        classes: whether the target is one of some classes, in words or whole numbers.
        ignore: columns that are neither features nor the target.
        separator: what stands between values, such as ";".
        val_fraction: share of the rows to validate on, drawn at random.
        val_file: a file of the same columns to validate on, instead of that share.

    Raises:
        ConfigError: naming the file and its columns, if it cannot be read, a value is missing or
            infinite, or a feature is not numeric.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "flats.csv")
        >>> rows = [f"{area},{area // 20},{3 * area}" for area in range(20, 120)]
        >>> _ = file.write_text("area,rooms,price\\n" + "\\n".join(rows))
        >>> flats = read_table(file, "price")
        >>> flats.train_x.shape, flats.val_y.shape
        (torch.Size([80, 2]), torch.Size([20, 1]))
    """
    given = [Path(path).expanduser().resolve() for path in (file, val_file) if path is not None]
    # by its time of change too, so that a notebook sees a file that was written again
    files = tuple((path, path.stat().st_mtime_ns if path.exists() else 0) for path in given)
    return _read_table(files, target, classes, tuple(ignore), separator, val_fraction)


@functools.cache  # the jobs of a sweep that run in one process share the table
def _read_table(
    files: tuple[tuple[Path, int], ...],
    target: str,
    classes: bool,
    ignore: tuple[str, ...],
    separator: str,
    val_fraction: float,
) -> Arrays:
    keys = ("data.file", "data.val_file")
    columns = []
    for key, (path, _) in zip(keys, files, strict=False):
        columns.append(_Columns(key, path, separator))
    features = columns[0].features(target, ignore)
    for one in columns[1:]:
        one.check_columns_of(columns[0], [*features, target])
    x = [one.numbers(features) for one in columns]
    y = _class_indices(columns, target) if classes else [one.numbers([target]) for one in columns]
    if len(files) == 1:
        train, val = random_split(len(x[0]), val_fraction, "rows")
        x = [x[0][train], x[0][val]]
        y = [y[0][train], y[0][val]]
    train_x, val_x = _standardised(*x)
    if classes:
        num_classes = int(torch.cat(y).max()) + 1
        return Arrays(train_x, y[0], val_x, y[1], num_classes=num_classes)
    if len(torch.cat(y).unique()) == 1:
        raise ConfigError(f"data.target={target}: has one value only, {y[0][0].item():g}")
    train_y, val_y = _standardised(*y)
    return Arrays(train_x, train_y, val_x, val_y)


class _Columns:
    """The columns of one file.

    Args:
        key: of the config, which names the file.
    """

    def __init__(self, key: str, file: Path, separator: str) -> None:
        self._said = f"{key}={file}"
        self.frame = self._read(file, separator)
        if len(self.frame.columns) == 1:
            raise ConfigError(
                f"{self._said}: has one column, {self.frame.columns[0]!r}; say what stands between "
                "columns, such as 'data.separator=\";\"'"
            )

    def _read(self, file: Path, separator: str) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_csv(file, sep=separator, skipinitialspace=True)
        except (
            OSError,
            ValueError,
        ) as error:  # the parser's too
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{self._said}: must be a CSV file with names of columns in its first line "
                f"({reason})"
            ) from error

    def features(self, target: str, ignore: Sequence[str]) -> list[str]:
        """Return the names of all columns but the target and those to ignore."""
        for key, names in (("data.target", [target]), ("data.ignore", ignore)):
            for name in names:
                self._check_known(key, name)
        names = [name for name in self.frame.columns if name != target and name not in ignore]
        for name in names:
            column = self.frame[name]
            if str(name).startswith("Unnamed: ") and (column == column.index).all():
                raise ConfigError(
                    f"{self._said}: has the numbers of its rows in a column without a name, which "
                    f"tell nothing; leave it out, 'data.ignore=[\"{name}\"]', or write the file "
                    "by to_csv(index=False)"
                )
        if not names or target in ignore:
            raise ConfigError(f"data.ignore={list(ignore)}: leaves no feature, or no target")
        return names

    def _check_known(self, key: str, name: str) -> None:
        names = list(map(str, self.frame.columns))
        if name in names:
            return
        alike = difflib.get_close_matches(str(name), names, 1)
        meant = f"; did you mean {alike[0]}?" if alike else f"; there are {some_of(names, 8)}"
        raise ConfigError(f"{key}={name}: {self._said} has no such column{meant}")

    def check_columns_of(self, other: "_Columns", names: Sequence[str]) -> None:
        """Refuse to lack columns that the other file has."""
        missing = [name for name in names if name not in self.frame.columns]
        if missing:
            raise ConfigError(
                f"{self._said}: lacks {some_of(missing, 8)}, which {other._said} has; both must "
                "have the target and all features"
            )

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Return columns as (N, columns) float64."""
        self._check_complete(names)
        words = [name for name in names if self.frame[name].dtype.kind not in "biuf"]
        if words:
            raise ConfigError(
                f"{self._said}: has words, such as {self._word(words[0])!r}, in the columns "
                f"{some_of(words, 8)}; leave them out, 'data.ignore=[{','.join(words)}]', make "
                "numbers of them (pandas.get_dummies), or of a target say data.classes=true"
            )
        values = torch.tensor(self.frame[list(names)].to_numpy("float64"))
        infinite = [name for name, column in zip(names, values.T, strict=True) if _is_bad(column)]
        if infinite:
            raise ConfigError(f"{self._said}: has infinite values in {some_of(infinite, 8)}")
        return values

    def _word(self, name: str) -> str:
        """Return the first value of a column that is no number."""
        import pandas as pd

        column = self.frame[name]
        return str(column[pd.to_numeric(column, errors="coerce").isna()].iloc[0])

    def _check_complete(self, names: Sequence[str]) -> None:
        missing = self.frame[list(names)].isna().sum()
        found = [f"{name} ({count})" for name, count in missing.items() if count]
        if found:
            raise ConfigError(
                f"{self._said}: has missing values in {some_of(found, 8)} of {len(self.frame)} "
                "rows; fill these in or leave the rows out first (pandas: fillna, dropna), or "
                "leave the columns out by data.ignore"
            )

    def labels(self, name: str) -> "pd.Series":
        """Return the column of classes as it stands in the file."""
        self._check_complete([name])
        column = self.frame[name]
        if column.dtype.kind == "f" and (column % 1 != 0).any():
            raise ConfigError(
                f"data.classes=true: {name} has numbers such as {column[column % 1 != 0].iloc[0]}; "
                "say data=table for numbers"
            )
        return column


def _is_bad(column: Tensor) -> bool:
    return not bool(column.isfinite().all())


def _class_indices(columns: Sequence[_Columns], target: str) -> list[Tensor]:
    """Number the classes of all files in sorted order, and return (N,) int64 of each file."""
    import pandas as pd

    labels = [one.labels(target) for one in columns]
    codes, classes = pd.factorize(pd.concat(labels), sort=True)
    if len(classes) < 2:
        raise ConfigError(f"data.target={target}: has one class only, {classes[0]!r}")
    return list(torch.tensor(codes, dtype=torch.int64).split([len(one) for one in labels]))


def _standardised(train: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32, with mean 0 and standard deviation 1 of each column of `train`."""
    mean = train.mean(0)
    std = train.std(0, correction=0)
    # by its values, as the deviation of a constant is 0 only up to round-off
    is_constant = train.amax(0) == train.amin(0)
    std = torch.where(is_constant, 1.0, std)
    train = (train - mean) / std
    val = (val - mean) / std
    return train.float(), val.float()

"""Anybody's table of losses, as the table of results that `mupl.analysis.transfer` takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mupl.analysis.readout_norms import NORM
from mupl.analysis.transfer import hyperparameter_name, in_given_order
from mupl.errors import ConfigError, enumerated
from mupl.identity import OUTCOMES

SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Names of columns that are guessed, the most likely first; case, spaces, dashes, slashes and what
# stands before a dot do not matter
GUESSES = {
    "size": (
        *("width", "hidden_size", "d_model", "n_embd", "embed_dim", "hidden_dim", "model_dim"),
        *("dim", "size", "model_size", "n_params", "num_params", "params", "parameters", "n"),
        *("depth", "num_layers", "n_layers", "n_layer", "batch_size", "max_steps"),
    ),
    "lr": ("lr", "learning_rate", "max_lr", "peak_lr", "base_lr", "eta", "log2_lr"),
    "loss": (
        *("val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "final_loss"),
        *("loss", "train_loss"),
    ),
    "seed": ("seed", "random_seed"),
    "by": ("parametrization", "optimizer"),
}
MEANINGS = {"size": "sizes", "lr": "learning rates", "loss": "losses"}
FAILED = ("failed", "crashed", "killed")
NOT_FINITE = ("nan", "inf", "+inf", "-inf", "infinity", "diverged")
# Names that the analysis gives to columns of its own
RESERVED = (
    *("table", "lr", "status", "mean", "min", "max", "seeds", "curvature", "at_edge", "optimum"),
    *("low", "high", "half", "regret", "grid_regret", "lr_low", "lr_high", "panel", "size_label"),
)
NUMBER = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<number>[^\s=]+?)\s*(?P<unit>[KMBGT]?)", re.IGNORECASE
)
ALIKE = 1.005  # ratio of learning rates below which they are one, written with other digits
POWER = re.compile(r"2(?:\^|\*\*)(?P<exponent>[-+]?[\d.]+)")
UNITS = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what; None is guessed.

    Args:
        size: width, number of parameters, or whatever grows.
        lr: the learning rate.
        hyperparameter: what is looked at in place of the learning rate, such as the weight decay.
        loss: what is to be low.
        seed: tells repetitions apart; without one, rows that say the same are repetitions.
        by: whose values have curves of their own, such as the optimizer.
        tuned: other columns that were tuned: of rows that differ in these alone, the least loss
            counts.
        log2: whether the column of learning rates holds their log2.
    """

    size: str | None = None
    lr: str | None = None
    loss: str | None = None
    seed: str | None = None
    by: tuple[str, ...] | None = None
    tuned: tuple[str, ...] = ()
    log2: bool = False
    hyperparameter: str | None = None

    @property
    def x(self) -> str:
        """The name of what is looked at in the table that is read."""
        return self.hyperparameter or "lr"

    @property
    def x_option(self) -> str:
        """The option that says which column it is, for messages."""
        return "hyperparameter" if self.hyperparameter else "lr"

    @property
    def x_column(self) -> str:
        """Its column in the file."""
        return self.hyperparameter or str(self.lr)


class LossTable(NamedTuple):
    """Runs as `mupl.analysis.transfer` takes them, and how they were read."""

    results: pd.DataFrame  # columns: table, by, size, x, seed, status, the loss, readout_norm
    size: str
    loss: str
    x: str  # lr, or the column of the hyperparameter that is looked at in its place
    notes: list[str]  # sentences for the user: what was guessed, left out, counted as diverged


def read_losses(files: Sequence[Path], columns: Columns | None = None) -> LossTable:
    """Read tables with a row a run (.csv, .tsv, .parquet).

    A loss of nan, inf or "diverged" is of a run that diverged; rows without a loss are left out.
    Sizes may be written 1.3B or d=512, learning rates 2^-8.

    Raises:
        ConfigError: naming the column, and the row (counted from 1, below the header), that is
            wrong, and what would be right.

    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp(), "mine.csv")
    >>> _ = file.write_text("d_model,learning_rate,loss\\n64,0.1,2\\n64,0.2,nan\\n128,0.1,1\\n")
    >>> table = read_losses([file])
    >>> table.results[["d_model", "lr", "status"]].to_numpy().tolist()
    [[64, 0.1, 'completed'], [64, 0.2, 'diverged'], [128, 0.1, 'completed']]
    >>> table.notes[0]
    'guessed: --size d_model --lr learning_rate --loss loss'
    """
    texts = _read_all(files)
    columns, notes = _complete(texts, columns or Columns())
    size = str(columns.size)
    x = columns.x
    loss = str(columns.loss)
    by = list(columns.by or ())
    texts = _usable(texts, loss, notes)
    if columns.hyperparameter:
        texts = _without_zeros(texts, x, notes)
    results = texts[["table"]].copy()
    for key in (*by, *columns.tuned):
        results[key] = _labels(texts[key])
    results[size] = _numbers(texts[size], "size")
    results[x] = _alike_as_one(_values(texts, columns), hyperparameter_name(x), notes)
    results["seed"] = _labels(texts[columns.seed]) if columns.seed else 0
    results[loss] = _losses(texts[loss])
    results["status"] = np.where(np.isfinite(results[loss]), "completed", "diverged")
    diverged = int((results["status"] == "diverged").sum())
    if diverged:
        notes.append(f"diverged: {_rows(diverged)} whose {loss} is not finite")
    results = _with_repetitions(results, texts, columns, notes)
    results = _least_of_tuned(results, loss, columns.tuned)
    _check_grid(results, columns)
    order = ["table", *by, size, x, "seed"]
    last = ["status", loss]
    if NORM in texts:  # of a sweep's results.csv
        results[NORM] = pd.to_numeric(texts[NORM].loc[results.index], errors="coerce")
        last.append(NORM)
    results = results.sort_values(order, kind="stable").reset_index(drop=True)
    results = in_given_order(results, list(dict.fromkeys(texts["table"])))
    return LossTable(results[[*order, *last]], size, loss, x, notes)


def _check_grid(results: pd.DataFrame, columns: Columns) -> None:
    """Refuse a table that cannot say how an optimum moves."""
    size = str(columns.size)
    if results[size].nunique() < 2:
        only = results[size].iloc[0]
        raise ConfigError(f"--size {size}: has one value, {only}; transfer needs two, better four")
    if (results.groupby(size)[columns.x].nunique() < 2).all():
        raise ConfigError(
            f"--{columns.x_option} {columns.x_column}: has one value a {size}; an optimum needs "
            "three or more"
        )
    if (results["status"] == "diverged").all():
        raise ConfigError(f"--loss {columns.loss}: has no finite loss")


def _rows(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


def _read_all(files: Sequence[Path]) -> pd.DataFrame:
    """Read files as texts, with a column that names the file; rows are named for messages."""
    stems = [file.stem for file in files]
    tables = []
    for file in files:
        name = file.stem if stems.count(file.stem) == 1 else str(file)
        end = f" of {name}" if len(files) > 1 else ""
        table = _read(file).assign(table=name)
        table.index = pd.Index([f"row {row + 1}{end}" for row in table.index])
        cells = table.drop(columns="table")
        is_written = (cells != "").any(axis=1)
        tables.append(table[is_written])
    return pd.concat(tables).fillna("")


def _read(file: Path) -> pd.DataFrame:
    """Read a file as texts; an empty text is a missing cell."""
    separator = SEPARATORS.get(file.suffix)
    if separator is None and file.suffix != ".parquet":
        raise ConfigError(f"{file}: must be a .csv, .tsv or .parquet file")
    try:
        if separator is None:
            table = pd.read_parquet(file)
            table = table.map(str, na_action="ignore")
        else:
            table = pd.read_csv(
                file,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,  # for the numbers of rows
                encoding="utf-8-sig",
            )
    except (OSError, ValueError) as error:  # pandas' own errors are of these
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise ConfigError(
            f"{file}: cannot be read: rows have more cells than the line of names; columns must be "
            "separated by commas in a .csv, and decimals by points"
        )
    table = table.fillna("").rename(columns=lambda name: str(name).strip())
    if table.empty:
        raise ConfigError(f"{file}: has no rows; there must be one a run, below a line of names")
    if table.shape[1] == 1:
        raise ConfigError(
            f"{file}: has one column, {table.columns[0]!r}: columns must be separated by commas in "
            "a .csv, by tabs in a .tsv"
        )
    return table.map(str.strip)


def _complete(texts: pd.DataFrame, given: Columns) -> tuple[Columns, list[str]]:
    """Check the columns that are given, and guess the others; say which."""
    there = [str(name) for name in texts if name != "table"]
    found: dict[str, str | None] = {}
    said = []
    keys = ("size", "loss", "seed") if given.hyperparameter else ("size", "lr", "loss", "seed")
    for key in keys:
        found[key] = getattr(given, key)
        if found[key] is None:
            found[key] = _guess(texts, key, there)
            if found[key] is not None:
                said.append(f"--{key} {found[key]}")
        if found[key] is None and key != "seed":
            raise ConfigError(f"--{key}: which column has the {MEANINGS[key]}? {_choices(there)}")
    by = given.by
    if by is None:
        by = tuple(name for name in GUESSES["by"] if name in there and texts[name].nunique() > 1)
        taken = (*found.values(), *given.tuned, given.hyperparameter)
        by = tuple(name for name in by if name not in taken)
        said += [f"--by {','.join(by)}"] if by else []
    log2 = given.log2
    if not log2 and given.lr is None and _plain(str(found.get("lr"))) == "log2_lr":
        log2 = True
        said.append("--log2")
    columns = replace(
        given,
        size=found["size"],
        lr=found.get("lr"),
        loss=found["loss"],
        seed=found["seed"],
        by=by,
        log2=log2,
    )
    _check(columns, there)
    return columns, [f"guessed: {' '.join(said)}"] if said else []


def _guess(texts: pd.DataFrame, key: str, there: list[str]) -> str | None:
    """Return the likeliest column; of sizes, one that has several values if there is one."""
    likely = []
    for name in GUESSES[key]:
        likely += [column for column in there if name in (_plain(column), _last(column))]
    if key == "size":
        likely.sort(key=lambda column: texts[column].nunique() < 2)  # stable
    return likely[0] if likely else None


def _plain(column: str) -> str:
    return re.sub(r"[\s/-]+", "_", column.lower())


def _last(column: str) -> str:
    return _plain(column.rpartition(".")[2])


def _choices(there: list[str]) -> str:
    return f"say one of {', '.join(there)}"


def _check(columns: Columns, there: list[str]) -> None:
    """Refuse names that there are not, twice the same one, and names of the analysis' own."""
    keys = ("size", "lr", "hyperparameter", "loss", "seed")
    named = [(key, getattr(columns, key)) for key in keys]
    options = [(key, name) for key, name in named if name is not None]
    options += [("by", name) for name in columns.by or ()]
    options += [("tuned", name) for name in columns.tuned]
    used: dict[str, str] = {}
    for key, name in options:
        if name not in there:
            close = get_close_matches(name, there, n=1)
            hint = f"did you mean {close[0]}?" if close else _choices(there)
            raise ConfigError(f"--{key} {name}: there is no such column; {hint}")
        if name in used:
            raise ConfigError(f"--{key} {name}: is --{used[name]} already; say another column")
        used[name] = key
    for name, key in used.items():
        is_x_of_report = key == "hyperparameter" and name == "lr"
        if name in RESERVED and key not in ("lr", "seed", "tuned") and not is_x_of_report:
            raise ConfigError(f"--{key} {name}: the report has a column of that name; rename yours")


def _usable(texts: pd.DataFrame, loss: str, notes: list[str]) -> pd.DataFrame:
    """Leave out copies of rows, runs that failed and those without a loss; say how many."""
    for name in texts:
        if _last(str(name)) in ("status", "state"):  # of a sweep's results.csv, of W&B's exports
            said = texts[name].str.lower()
            texts[loss] = texts[loss].mask(said == "diverged", "diverged")
            texts[loss] = texts[loss].mask(said.isin(FAILED), "")
    is_copy = texts.duplicated()
    if is_copy.any():
        notes.append(f"left out: {_rows(int(is_copy.sum()))} that copy another in every column")
    filled = texts[loss] != ""
    if not filled.any():
        raise ConfigError(f"--loss {loss}: no run has one")
    if not filled.all():
        many = _rows(int((~filled).sum()))
        notes.append(f"left out: {many} without a {loss} or that failed; write inf for divergence")
    return texts[filled & ~is_copy]


def _labels(texts: pd.Series) -> pd.Series:
    """Turn texts into numbers if all are numbers, so that 16 comes after 2."""
    try:
        return pd.to_numeric(texts)
    except ValueError:
        return texts


def _numbers(texts: pd.Series, key: str) -> pd.Series:
    """Read numbers above 0 such as 512, 1e9, 1.3B, d=512 or 2^9; whole sizes as integers."""
    numbers = []
    names = set()
    for row, text in texts.items():
        match = NUMBER.fullmatch(text)
        number = np.nan
        if match and (key == "size" or not match["unit"]):  # a learning rate has none
            number = _number(match["number"]) * UNITS[match["unit"].upper()]
            names.add(match["name"])
        if not 0 < number < np.inf:
            raise ConfigError(_wrong_number(texts, key, str(row)))
        numbers.append(number)
    if len(names) > 1:
        several = enumerated(sorted(name or "no name" for name in names))
        raise ConfigError(
            f"--{key} {texts.name}: mixes numbers of {several}; say one column of one"
        )
    values = pd.Series(numbers, index=texts.index, dtype=float)
    is_whole = (values % 1 == 0).all() and values.max() < 2**53
    return values.astype("int64") if is_whole and key == "size" else values


def _number(text: str) -> float:
    power = POWER.fullmatch(text)
    try:
        return 2.0 ** float(power["exponent"]) if power else float(text)
    except (ValueError, OverflowError):
        return np.nan


def _wrong_number(texts: pd.Series, key: str, row: str) -> str:
    must = "must be a number above 0, such as 512, 1.3B or d=512"
    if key != "size":
        must = "must be a number above 0, such as 0.003 or 2^-8"
        if np.isfinite(_number(texts[row])):
            must += f"; if the column holds log2 of the {hyperparameter_name(key)}, say --log2"
    return _wrong(texts, key, row, must)


def _wrong(texts: pd.Series, key: str, row: str, must: str) -> str:
    """Say in which row a cell is wrong, and what it must be."""
    has = f"has {texts[row]!r}" if texts[row] else "is empty"
    return f"--{key} {texts.name}: {row} {has}; {must}"


def _without_zeros(texts: pd.DataFrame, x: str, notes: list[str]) -> pd.DataFrame:
    """Leave out values of 0, which lie infinitely many octaves below the others."""
    is_zero = pd.to_numeric(texts[x], errors="coerce") == 0
    if is_zero.all():
        raise ConfigError(f"--hyperparameter {x}: is 0 in every row; transfer needs values above 0")
    if is_zero.any():
        notes.append(f"left out: {_rows(int(is_zero.sum()))} of {x} 0, which has no logarithm")
    return texts[~is_zero]


def _values(texts: pd.DataFrame, columns: Columns) -> pd.Series:
    """Read the learning rates, or the values of what is looked at in their place."""
    column = texts[columns.x_column]
    option = columns.x_option
    return _powers_of_two(column, option) if columns.log2 else _numbers(column, option)


def _powers_of_two(texts: pd.Series, option: str) -> pd.Series:
    octaves = pd.to_numeric(texts, errors="coerce")
    must = f"with --log2 it must be log2 of a {hyperparameter_name(option)}, such as -8"
    is_wrong = ~octaves.between(-100, 100)
    if is_wrong.any():
        raise ConfigError(_wrong(texts, option, str(is_wrong.idxmax()), must))
    if octaves.between(0, 1, inclusive="neither").all():  # from 1 to 2 all?
        raise ConfigError(_wrong(texts, option, str(texts.index[0]), must))
    return 2.0**octaves


def _alike_as_one(rates: pd.Series, name: str, notes: list[str]) -> pd.Series:
    """Replace values that are the same but for their rounding by the smallest of them."""
    ordered = rates.drop_duplicates().sort_values()
    is_new = ordered > ordered.shift(fill_value=0) * ALIKE
    as_one = ordered.groupby(is_new.cumsum()).transform("first")
    if is_new.all():
        return rates
    rate = as_one[~is_new].iloc[0]
    other = ordered[~is_new].iloc[0]
    notes.append(f"as one: {name}s within 0.5 %, such as {rate:g} and {other:g}")
    return rates.map(dict(zip(ordered, as_one, strict=True)))


def _losses(texts: pd.Series) -> pd.Series:
    """Read losses; where a run diverged, they are infinite."""
    said = texts.str.lower()
    diverged = said.isin(NOT_FINITE)
    is_number = pd.to_numeric(said.mask(diverged), errors="coerce").notna()
    losses = said.where(is_number).astype(float)  # to_numeric of text may miss the last digit
    losses = losses.mask(diverged, np.inf)
    is_wrong = losses.isna()
    if is_wrong.any():
        must = "must be a number, nan, inf or diverged, or empty where nothing is known"
        raise ConfigError(_wrong(texts, "loss", str(is_wrong.idxmax()), must))
    return losses


def _with_repetitions(
    results: pd.DataFrame, texts: pd.DataFrame, columns: Columns, notes: list[str]
) -> pd.DataFrame:
    """Number rows that say the same as seeds; refuse them if another column tells them apart."""
    settings = [key for key in results if key not in (columns.loss, "status")]
    repeated = results.duplicated(settings, keep=False)
    if not repeated.any():
        return results
    named = [str(key) for key in settings if key != "table" and (columns.seed or key != "seed")]
    where = f"{_rows(int(repeated.sum()))} have the same {enumerated(named)} as others"
    telling = _telling_columns(results[repeated], texts[repeated], settings, columns)
    if telling:
        raise ConfigError(
            f"--by: {where}, but differ in {enumerated(telling)}: say --by {telling[0]} for curves "
            f"of each, --tuned {telling[0]} for the best of all; delete a column that is an outcome"
        )
    if columns.seed:
        raise ConfigError(f"--seed {columns.seed}: {where}; there must be one row a run")
    numbers = results.groupby(settings, dropna=False).cumcount()
    notes.append(f"repeated rows count as seeds: at most {numbers.max() + 1} of the same settings")
    return results.assign(seed=numbers)


def _telling_columns(
    results: pd.DataFrame, texts: pd.DataFrame, settings: Sequence[Any], columns: Columns
) -> list[str]:
    """List what differs among rows of the same settings and looks like one more setting.

    A column that has another value in most rows is a run's id, its time, or another loss.
    """
    others = texts.drop(columns=[*settings, columns.x_column, str(columns.loss)], errors="ignore")
    groups = others.groupby([results[key] for key in settings], dropna=False)
    differs = groups.nunique().max() > 1
    telling = []
    for name in map(str, others):
        is_setting = texts[name].nunique() <= len(texts) / 2 and name not in OUTCOMES
        if differs[name] and is_setting:
            telling.append(name)
    return telling


def _least_of_tuned(results: pd.DataFrame, loss: str, tuned: Sequence[str]) -> pd.DataFrame:
    """Keep, of rows that differ in tuned columns alone, the one of the least loss."""
    if not tuned:
        return results
    kept = results.drop(columns=[*tuned])
    settings = [str(key) for key in kept if key not in (loss, "status")]
    best = kept.groupby(settings, dropna=False)[loss].idxmin()
    return kept.loc[best.to_list()]

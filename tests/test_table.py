"""Rows of a CSV file: what they become, what is refused, and a sweep on them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mupl.data import read_table
from mupl.errors import ConfigError
from tests.commands import IGNORED, train_here

pytestmark = IGNORED
ROWS = 50


def frame() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    area = draws.uniform(20, 120, ROWS)
    rooms = draws.integers(1, 5, ROWS)
    return pd.DataFrame(
        {
            "area": area,
            "rooms": rooms,
            "lift": area > 70,
            "floor": 3,
            "city": np.where(rooms > 2, "Rome", "Bern"),
            "price": 3000 * area + 10000 * rooms,
        }
    )


def written(
    table: pd.DataFrame, folder: Path, name: str = "flats.csv", separator: str = ","
) -> Path:
    table.to_csv(folder / name, index=False, sep=separator)
    return folder / name


def test_features_and_target_are_standardised_by_the_rows_to_train_on(tmp_path: Path) -> None:
    data = read_table(written(frame(), tmp_path), "price", ignore=["city"], val_fraction=0.3)
    assert data.train_x.shape == (35, 4)
    assert data.val_y.shape == (15, 1)
    assert data.model_args == {"in_features": 4, "num_classes": 1}
    torch.testing.assert_close(data.train_x.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    std = data.train_x.std(0, correction=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 1, 1, 0]))  # a constant column is 0
    torch.testing.assert_close(data.train_y.std(correction=0), torch.tensor(1.0))
    assert data.val_x.mean(0).abs().max() > 1e-3
    # all rows are there: area and price still go together
    x = torch.cat([data.train_x, data.val_x]).double()
    y = torch.cat([data.train_y, data.val_y]).double()
    fit = torch.linalg.lstsq(x[:, :2], y).solution
    torch.testing.assert_close(x[:, :2] @ fit, y, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "count"), [("city", 2), ("rooms", 4), ("lift", 2)])
def test_classes_are_words_or_whole_numbers(name: str, count: int, tmp_path: Path) -> None:
    file = written(frame(), tmp_path)
    data = read_table(file, name, classes=True, ignore=[] if name == "city" else ["city"])
    assert data.num_classes == count
    words = np.unique(frame()[name])
    counts = torch.cat([data.train_y, data.val_y]).bincount().tolist()
    assert counts == [int((frame()[name] == word).sum()) for word in words]


def test_a_file_to_validate_on(tmp_path: Path) -> None:
    table = frame().drop(columns="city")
    file = written(table[:30], tmp_path)
    later = written(table[30:].iloc[:, ::-1], tmp_path, "later.csv")  # columns go by their names
    data = read_table(file, "price", val_file=later)
    assert (len(data.train_x), len(data.val_x)) == (30, 20)
    area = table["area"].to_numpy()
    expected = (area[30:] - area[:30].mean()) / area[:30].std()
    np.testing.assert_allclose(data.val_x[:, 0], expected, rtol=1e-5)
    lacking = r"later\.csv: lacks 'rooms', 'lift', 'floor', which data\.file=/.*\.csv has"
    with pytest.raises(ConfigError, match=lacking):
        read_table(file, "price", val_file=written(table[["area", "price"]], tmp_path, "later.csv"))


def test_another_separator(tmp_path: Path) -> None:
    file = written(frame(), tmp_path, separator=";")
    assert read_table(file, "price", ignore=["city"], separator=";").in_features == 4
    with pytest.raises(ConfigError, match="has one column, 'area;rooms"):
        read_table(file, "price", val_fraction=0.3)


def with_value(column: str, value: object) -> pd.DataFrame:
    table = frame().drop(columns="city").astype({column: object})
    table.loc[[3, 5], column] = value
    return table


# what is wrong -> the table, options, and what the error must say
WRONG = {
    "words": (frame(), {}, "has words, such as 'Bern', in the columns 'city'; leave them out"),
    "a word": (with_value("area", "large"), {}, "such as 'large', in the columns 'area'"),
    "words to tell": (frame(), {"target": "city"}, "of a target say data.classes=true"),
    "missing": (with_value("area", ""), {}, "has missing values in 'area (2)' of 50 rows"),
    "missing targets": (with_value("price", ""), {}, "has missing values in 'price (2)'"),
    "infinite": (with_value("area", "inf"), {}, "has infinite values in 'area'"),
    "no target": (frame(), {"target": "prise"}, "data.target=prise: data.file="),
    "a typo": (frame(), {"target": "prise"}, "has no such column; did you mean price?"),
    "another word": (frame(), {"target": "xyz"}, "there are 'area', 'rooms', 'lift'"),
    "no column to ignore": (frame(), {"ignore": ["town"]}, "data.ignore=town: data.file="),
    "no feature": (frame()[["area", "price"]], {"ignore": ["area"]}, "leaves no feature"),
    "numbers as classes": (frame(), {"classes": True, "ignore": ["city"]}, "for numbers"),
    "one class": (
        frame(),
        {"classes": True, "target": "floor", "ignore": ["city"]},
        "data.target=floor: has one class only",
    ),
    "no rows": (frame()[:1], {"ignore": ["city"]}, "leaves one split of 1 rows empty"),
    "all rows": (frame(), {"ignore": ["city"], "val_fraction": 1.0}, "data.val_fraction=1.0"),
    "nothing": (pd.DataFrame(), {}, "must be a CSV file with names of columns in its first line"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_table_that_cannot_be_used_is_one_line(case: str, tmp_path: Path) -> None:
    table, options, message = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        read_table(written(table, tmp_path), **({"target": "price"} | options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["table", "table_classes"])
def test_a_run_on_a_table(data: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The loss follows from the data; for numbers it is 1 if the mean is told."""
    target = "price" if data == "table" else "lift"
    source = [f"data={data}", f"data.file={written(frame(), tmp_path)}", f"data.target={target}"]
    sizes = ["width=16", "base_width=16", "batch_size=20", "max_steps=60", "lr=3e-2", "trainer=cpu"]
    out = tmp_path / "out"
    done = train_here(capfd, *source, "data.ignore=[city]", *sizes, f"hydra.run.dir={out}")
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["val_loss"] < 0.3
    assert (result["val_accuracy"] is None) == (data == "table")

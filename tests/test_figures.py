"""The list of the figures of README and docs, and how they are made again."""

import re
from pathlib import Path

import pandas as pd

from scripts.figures import DIFFERS, LIST, ROOT, SAME, compare, draw, entries

IMAGE = re.compile(r"\]\(([^)]+\.png)\)")


def test_every_figure_is_listed_once() -> None:
    listed = [entry["file"] for entry in entries()]
    assert len(set(listed)) == len(listed)
    there = {str(file.relative_to(ROOT)) for file in LIST.parent.rglob("*.png")}
    assert set(listed) == there


def test_every_figure_that_docs_show_is_listed() -> None:
    listed = {ROOT / entry["file"] for entry in entries()}
    for page in (ROOT / "README.md", *LIST.parent.glob("*.md")):
        for path in IMAGE.findall(page.read_text()):
            assert (page.parent / path).resolve() in listed, (page, path)


def test_every_figure_can_be_made_again() -> None:
    for entry in entries():
        source = entry.get("table") or entry.get("screenshot")
        if source:
            assert (ROOT / source).exists(), entry
        else:
            assert entry["command"].startswith("python "), entry
            assert entry["output"].endswith(".png"), entry


def test_another_table_is_another_figure(tmp_path: Path) -> None:
    table = ROOT / "docs" / "transfer" / "scheduler_width.csv"
    draw(table, tmp_path / "one.png")
    draw(table, tmp_path / "same.png")
    assert compare(tmp_path / "one.png", tmp_path / "same.png") == SAME
    results = pd.read_csv(table)
    results["val_loss"] += 0.1 * results["width"].rank()
    results.to_csv(tmp_path / "other.csv")
    draw(tmp_path / "other.csv", tmp_path / "other.png")
    assert compare(tmp_path / "one.png", tmp_path / "other.png") == DIFFERS
    fewer = results[results["parametrization"] == results["parametrization"].iloc[0]]
    fewer.to_csv(tmp_path / "fewer.csv")
    draw(tmp_path / "fewer.csv", tmp_path / "fewer.png")
    assert compare(tmp_path / "one.png", tmp_path / "fewer.png") == DIFFERS

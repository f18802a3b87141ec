"""scripts/optimizer_table.py: tables in, one Markdown table out."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from scripts.optimizer_table import markdown, read, table
from tests.commands import ROOT, environment


def results(drift: float) -> pd.DataFrame:
    """Losses with an optimum that moves by so many octaves a doubling."""
    rows = []
    for doublings in range(3):
        for octaves in range(-12, -3):
            for seed in (0, 1):
                loss = 1 + 0.1 * (octaves + 8 + 0.1 * seed - drift * doublings) ** 2
                row = {"optimizer": "lion", "width": 64 * 2**doublings, "lr": 2.0**octaves}
                rows.append(row | {"seed": seed, "status": "completed", "val_loss": loss})
    return pd.DataFrame(rows).assign(readout_norm=9.0)


def verdict(name: str, word: str) -> dict[str, object]:
    numbers = dict.fromkeys(("slope", "ci_low", "ci_high", "low", "high"), 0.0)
    return {"kind": "update", "name": name, "t": 1, "zero": False, "verdict": word, **numbers}


def test_sweeps_and_saved_tables_give_the_same_table(tmp_path: Path) -> None:
    sweep, late = tmp_path / "sweep", tmp_path / "late"
    for folder in (sweep, late):
        folder.mkdir()
        results(-0.5).to_csv(folder / "results.csv", index=False)
    rows = [verdict("a", "pass"), verdict("b", "fail"), verdict("c", "not judged")]
    (late / "verdict.json").write_text(json.dumps({"rows": rows}))
    found = read([sweep, late])
    shown = table(*found)
    (row,) = shown.to_dict("records")
    assert row["optimizer"] == "`lion`"
    assert (row["update kind"], row["hidden lr"], row["hidden update"]) == ("`adam`", "-1", "-1")
    assert row["late check"] == "1 of 3 pass, 1 fail"
    assert row["drift, octaves a doubling"] == "-0.50 (-0.50 to -0.50)"
    assert row["worst regret"] == "0.1"
    assert row["norm drift"].startswith("0.00")
    saved = tmp_path / "a.csv", tmp_path / "b.csv"
    for table_, file in zip(found, saved, strict=True):
        table_.to_csv(file, index=False)
    assert markdown(table(*read(saved))) == markdown(shown)


@pytest.mark.slow
def test_a_wrong_path_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/optimizer_table.py", str(tmp_path / "none")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'none'}: there is no such sweep")

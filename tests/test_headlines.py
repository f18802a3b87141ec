"""What a sweep says in sentences, how sweeps are listed, and which jobs a report is of."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mupl.analysis.headlines import transfer_headlines
from mupl.cli import main
from mupl.errors import ConfigError
from mupl.identity import write_result
from mupl.report.common import select
from mupl.report.coordinate_check import _say_outcome
from mupl.sweep.listing import list_sweeps
from mupl.sweep.reports import run_report
from tests.commands import row_of

LRS = [2.0**-k for k in range(10, 1, -1)]
WIDTHS = [32, 64, 128, 256]


def results(drift: float, parametrization: str, tried: list[float] = LRS) -> pd.DataFrame:
    """Parabolas in log2(lr) whose least point moves by `drift` octaves a doubling of width."""
    rows = []
    for width, lr in itertools.product(WIDTHS, tried):
        best = -6 + drift * np.log2(width / WIDTHS[0])
        loss = 1 + 0.1 * (np.log2(lr) - best) ** 2
        rows.append({"width": width, "lr": lr, "val_loss": loss})
    table = pd.DataFrame(rows)
    constant = {"seed": 0, "optimizer": "adamw", "status": "completed"}
    return table.assign(parametrization=parametrization, **constant)


def said(*tables: pd.DataFrame) -> list[str]:
    return transfer_headlines(pd.concat(tables, ignore_index=True), "val_loss", "width", "lr")


def test_each_parametrization_has_a_sentence() -> None:
    assert said(results(0, "mup"), results(-1, "sp"), results(1, "umup")) == [
        "muP: lr 0.01562 is best or within 3 % at every width from 32 to 256.",
        "SP: the best lr falls by half for each doubling of width, from 0.01562 at 32 to 0.001953 "
        "at 256.",
        "u-muP: the best lr doubles for each doubling of width, from 0.01562 at 32 to 0.125 at "
        "256.",
    ]


def test_an_optimum_at_the_edge_is_no_optimum() -> None:
    (sentence,) = said(results(-1, "sp", LRS[3:]))
    assert sentence.endswith("At 64, 128, 256 it lies at the edge of what was tried.")


def test_one_size_has_a_best_value_and_one_value_none() -> None:
    table = results(0, "mup").query("width == 32")
    assert transfer_headlines(table, "val_loss", None, "lr") == [
        "muP: lr 0.01562 is best (val_loss 1)."
    ]
    assert transfer_headlines(table.query("lr == 0.015625"), "val_loss", None, "lr") == []


def test_runs_that_all_diverged_are_said() -> None:
    table = results(0, "mup").assign(status="diverged")
    assert said(table, results(0, "sp"))[0] == "muP: no lr gave a finite val_loss."


VERDICT = pd.DataFrame(
    {"parametrization": ["mup"] * 3 + ["sp"] * 2, "verdict": ["pass"] * 3 + ["pass", "fail"]}
)


@pytest.mark.parametrize(
    ("expect", "good"),
    [({}, False), ({"sp": "fail"}, True), ({"sp": "fail", "mup": "fail"}, False)],
)
def test_a_check_does_as_expected_of_each_parametrization(
    expect: dict[str, str], good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _say_outcome(VERDICT, expect) is good
    out = capsys.readouterr().out
    assert out.startswith("muP passes 3 of 3, SP fails at 1 of 2 tensors, kinds and steps")
    assert ("was to" in out) is not good


def test_an_expectation_names_what_is_there() -> None:
    with pytest.raises(ConfigError, match=r"expect\.ntk=fail: must be .* one of mup, sp"):
        _say_outcome(VERDICT, {"ntk": "fail"})


def write_sweep(folder: Path, losses: dict[float, float], failed: int = 0) -> None:
    for i, (lr, loss) in enumerate(losses.items()):
        settings = {"width": 8, "lr": lr, "seed": 0, "parametrization": "mup"}
        row = row_of(f"{i:04}", **settings, optimizer="adamw", val_loss=loss, seconds=0.1)
        write_result(folder / f"lr={lr:g}-{i:04}", row)
    for i in range(failed):
        row = row_of(f"f{i:03}", width=8, lr=-1.0, seed=i, status="failed", error="lr")
        write_result(folder / f"x-f{i:03}", row)


def test_sweeps_are_listed_with_what_they_swept_and_the_best(tmp_path: Path) -> None:
    write_sweep(tmp_path / "digits-771b", {0.1: 2.0, 0.2: 1.5, 0.4: 3.0, 0.8: 4.0})
    (row,) = list_sweeps(tmp_path)
    assert (row["completed"], row["diverged"], row["failed"]) == (4, 0, 0)
    assert row["swept"] == "lr 0.1 to 0.8 (4)"
    assert row["best"] == "val_loss 1.5: lr=0.2"
    assert list_sweeps(tmp_path / "digits-771b") == [row]
    with pytest.raises(ConfigError, match="there is no sweep"):
        list_sweeps(tmp_path / "digits-771b" / "lr=0.1-0000")


def test_the_best_job_is_named_without_keys_that_only_others_have(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.1: 2.0, 0.2: 1.5})
    other = row_of("abcd", width=8, lr=0.1, seed=0, parametrization="mup", optimizer="adamw")
    write_result(tmp_path / "x-abcd", other | {"val_loss": 9.0, "data.context": 8})
    (row,) = list_sweeps(tmp_path)
    assert row["best"] == "val_loss 1.5: lr=0.2"


def test_a_report_leaves_out_what_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(tmp_path, {0.1: 2.0, 0.2: 1.5, 4.0: 9.0})
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path), "--where", "lr < 2"])
    assert end.value.code == 0
    assert "1 of 3 jobs left out, for which not lr < 2" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3
    assert set(pd.read_csv(tmp_path / "best.csv")["lr"]) == {0.2}


WRONG = {"lrr < 2": "'lrr' is not defined", "lr <": "say a comparison", "lr > 9": "true of none"}


@pytest.mark.parametrize("where", WRONG)
def test_a_wrong_selection_is_one_line(where: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[where]) as error:
        select(pd.DataFrame({"lr": [0.1], "status": "completed"}), where)
    assert "\n" not in str(error.value)


def own_report(sweep_dir: Path, metric: str) -> int:
    return 0


def test_a_report_that_takes_no_selection_says_so(tmp_path: Path) -> None:
    name = "tests.test_headlines.own_report"
    assert run_report(name, tmp_path, "val_loss", where=None) == 0
    with pytest.raises(ConfigError, match=r"where: the report .* does not take it"):
        run_report(name, tmp_path, "val_loss", where="lr < 2")

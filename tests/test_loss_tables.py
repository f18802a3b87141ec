"""Anybody's table of losses: how it is read and what is refused; it is analysed as a sweep."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from mupl.analysis.loss_tables import Columns, LossTable, read_losses
from mupl.analysis.readings import glossary, readings
from mupl.analysis.transfer import best, curve_keys, optima, transfer
from mupl.cli import main
from mupl.errors import ConfigError
from mupl.report.hyperparameter_transfer import hyperparameter_transfer
from mupl.report.tables import table_transfer
from tests.commands import FOREIGN
from tests.test_transfer import sweep, write_jobs

measured_by_others = pytest.mark.skipif(
    not FOREIGN.exists(), reason="the tables of losses that others measured are not here"
)


def write(folder: Path, text: str, name: str = "mine.csv") -> Path:
    """Write lines, whose commas become the separator of a .tsv."""
    file = folder / name
    separator = "\t" if file.suffix == ".tsv" else ","
    file.write_text("\n".join(text.split()).replace(",", separator) + "\n")
    return file


def read(folder: Path, text: str, **columns: object) -> LossTable:
    return read_losses([write(folder, text)], Columns(**columns))  # type: ignore[arg-type]


# two sizes, three learning rates
SMALL = "64,1e-3,3 64,2e-3,2 64,4e-3,3 128,1e-3,2 128,2e-3,1 128,4e-3,2"


# --- the same as a sweep


def test_a_file_says_what_the_sweep_s_folder_says(tmp_path: Path) -> None:
    """The folder's table of results as a CSV: all numbers are the same, not just close."""
    open_before = plt.get_fignums()  # of other tests
    results = pd.concat([sweep(drift=-0.5), sweep(drift=0.25, parametrization="sp")])
    results.loc[(results["width"] == 128) & (results["lr"] == 2.0**-12), "status"] = "diverged"
    write_jobs(tmp_path / "sweep", results)
    assert hyperparameter_transfer(tmp_path / "sweep") == 0
    file = tmp_path / "sweep" / "results.csv"
    assert table_transfer([file], out=tmp_path / "out", figure=tmp_path / "one.svg") == 0
    of_sweep, of_file = (
        json.loads((tmp_path / folder / "transfer.json").read_text()) for folder in ("sweep", "out")
    )
    for name in ("optima", "transfer"):
        for ours, theirs in zip(of_sweep[name], of_file[name], strict=True):
            assert {key: ours[key] for key in theirs if key != "table"} == {
                key: theirs[key] for key in theirs if key != "table"
            }
    assert (tmp_path / "out" / "lr_transfer.png").exists()
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")
    assert plt.get_fignums() == open_before


def test_other_names_of_columns_change_no_number(tmp_path: Path) -> None:
    results = sweep(drift=-0.5)
    names = {"width": "d_model", "lr": "Learning Rate", "val_loss": "eval/loss", "seed": "rng"}
    kept = results.rename(columns=names)[list(names.values())].assign(id=range(len(results)))
    kept.sample(frac=1, random_state=0).to_csv(tmp_path / "t.csv", index=False)
    table = read_losses([tmp_path / "t.csv"], Columns(seed="rng"))
    assert table.notes == ["guessed: --size d_model --lr Learning Rate --loss eval/loss"]
    ours = transfer(results)
    theirs = transfer(table.results, table.loss, table.size)
    common = [key for key in theirs if key in ours]
    pd.testing.assert_frame_equal(theirs[common], ours[common])
    assert {"drift", "drift_low", "scatter_low", "worst_regret", "asymptotic_loss"} <= set(common)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_formats(name: str, tmp_path: Path) -> None:
    losses = sweep()[["width", "lr", "seed", "val_loss"]]
    losses.loc[3, "val_loss"] = np.nan
    if name == "t.parquet":
        losses.fillna(np.inf).to_parquet(tmp_path / name)
    else:  # as a spreadsheet writes it
        separator = "\t" if name == "t.tsv" else ","
        text = losses.to_csv(index=False, sep=separator, na_rep="NaN")
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    table = read_losses([tmp_path / name])
    expected = losses["val_loss"].fillna(np.inf)
    assert table.results["val_loss"].tolist() == expected.tolist()
    assert (table.results["status"] == "diverged").sum() == 1


# --- cells


@pytest.mark.parametrize(
    ("cells", "sizes"),
    [
        (("512", "1024"), [512, 1024]),
        (("1.3B", "7b"), [1_300_000_000, 7_000_000_000]),
        (("125M", "2k"), [125_000_000, 2_000]),
        (("d=512", "d=1024"), [512, 1024]),
        (("5.12e2", "2^10"), [512, 1024]),
        (("0.5", "1"), [0.5, 1]),
    ],
)
def test_sizes(cells: tuple[str, str], sizes: list[float], tmp_path: Path) -> None:
    small, large = cells
    rows = SMALL.replace("64,", f"{small},").replace("128,", f"{large},")
    table = read(tmp_path, f"size,lr,loss {rows}")
    assert sorted(table.results["size"].unique()) == sorted(sizes)


def test_learning_rates_as_powers_of_two(tmp_path: Path) -> None:
    rows = "64,{0}-9,3 64,{0}-8,2 64,{0}-7,3 128,{0}-9,3 128,{0}-8,2 128,{0}-7,3"
    expected = [2.0**-9, 2.0**-8, 2.0**-7] * 2
    as_text = read(tmp_path, f"width,lr,loss {rows.format('2^')}")
    as_log = read(tmp_path, f"width,lr,loss {rows.format('')}", log2=True)
    by_name = read(tmp_path, f"width,log2_lr,loss {rows.format('')}")
    for table in (as_text, as_log, by_name):
        assert table.results["lr"].tolist() == expected
    assert by_name.notes == ["guessed: --size width --lr log2_lr --loss loss --log2"]


def test_learning_rates_that_were_rounded_are_one(tmp_path: Path) -> None:
    rounded = SMALL.replace("128,2e-3", "128,2.004e-3")
    table = read(tmp_path, f"width,lr,loss {rounded}")
    alone = read(tmp_path, f"width,lr,loss {SMALL}")
    pd.testing.assert_frame_equal(table.results, alone.results)
    assert table.notes[1:] == ["as one: learning rates within 0.5 %, such as 0.002 and 0.002004"]
    apart = read(tmp_path, f"width,lr,loss {rounded.replace('2.004', '2.02')}")
    assert apart.results["lr"].nunique() == 4


def test_runs_that_diverged_count_and_runs_without_a_loss_do_not(tmp_path: Path) -> None:
    rows = "64,5e-3,nan 64,6e-3,INF 64,7e-3,diverged 64,8e-3,"
    table = read(tmp_path, f"width,lr,loss {SMALL} {rows}")
    diverged = table.results[table.results["status"] == "diverged"]
    assert diverged["lr"].tolist() == [5e-3, 6e-3, 7e-3]
    assert np.isinf(diverged["loss"]).all()
    assert len(table.results) == 9
    assert table.notes[1:] == [
        "left out: 1 row without a loss or that failed; write inf for divergence",
        "diverged: 3 rows whose loss is not finite",
    ]


def test_states_of_runs_are_heeded(tmp_path: Path) -> None:
    """As in an export of W&B: a run that crashed has the loss at which it stopped."""
    rows = " ".join(f"{row},finished" for row in SMALL.split())
    rows += " 64,8e-3,1.5,crashed 128,8e-3,1.5,diverged"
    table = read(tmp_path, f"width,lr,loss,State {rows}")
    assert len(table.results) == 7
    assert table.results.iloc[-1][["width", "lr", "status"]].tolist() == [128, 8e-3, "diverged"]


def test_repeated_rows_are_seeds_and_copies_are_not(tmp_path: Path) -> None:
    ids = iter(range(100))
    rows = " ".join(f"{row},{next(ids)}" for row in SMALL.split())
    again = " ".join(f"{row}.5,{next(ids)}" for row in SMALL.split())
    table = read(tmp_path, f"width,lr,loss,run_id {rows} {again} {rows}")
    assert table.results["seed"].tolist() == [0, 1] * 6
    assert table.notes[1:] == [
        "left out: 6 rows that copy another in every column",
        "repeated rows count as seeds: at most 2 of the same settings",
    ]
    assert optima(table.results, "loss", "width")["loss"].tolist() == pytest.approx([2.25, 1.25])


def test_what_was_tuned_too_counts_by_its_best(tmp_path: Path) -> None:
    rows = " ".join(f"{row},16 {row}.5,32" for row in SMALL.split())
    table = read(tmp_path, f"width,lr,loss,batch {rows}", tuned=("batch",))
    alone = read(tmp_path, f"width,lr,loss {SMALL}")
    pd.testing.assert_frame_equal(table.results, alone.results)
    by = read(tmp_path, f"width,lr,loss,batch {rows}", by=("batch",))
    assert len(transfer(by.results, "loss", "width")) == 2


def test_another_hyperparameter_than_the_learning_rate(tmp_path: Path) -> None:
    rows = ["width,lr,weight_decay,loss"]
    for width, decay, lr in itertools.product((64, 128), (0, 0.1, 0.2, 0.4), (0.01, 0.02)):
        off = np.log2(max(decay, 0.01) / 0.2)  # best at 0.2, and at the lr 0.02
        rows.append(f"{width},{lr},{decay},{3 + off**2 - lr}")
    table = read(tmp_path, " ".join(rows), hyperparameter="weight_decay", tuned=("lr",))
    assert table.x == "weight_decay"
    assert table.notes[1] == "left out: 4 rows of weight_decay 0, which has no logarithm"
    found = optima(table.results, table.loss, table.size, table.x)
    assert found["weight_decay"].tolist() == pytest.approx([0.2, 0.2])
    assert found["loss"].tolist() == pytest.approx([2.98, 2.98])
    rows[1:] = ["64,0.01,0,3", "64,0.02,0,2", "128,0.01,0,3"]
    with pytest.raises(ConfigError, match="--hyperparameter weight_decay: is 0 in every row"):
        read(tmp_path, " ".join(rows), hyperparameter="weight_decay", tuned=("lr",))


def test_the_learning_rate_may_be_said_to_be_the_hyperparameter(tmp_path: Path) -> None:
    text = f"width,lr,loss {SMALL}"
    pd.testing.assert_frame_equal(
        read(tmp_path, text, hyperparameter="lr").results, read(tmp_path, text).results
    )


def test_several_files_are_compared(tmp_path: Path) -> None:
    files = [write(tmp_path, f"width,lr,loss {SMALL}", name) for name in ("a.csv", "b.csv")]
    table = read_losses(files)
    assert transfer(table.results, "loss", "width")["table"].tolist() == ["a", "b"]
    table = read_losses(files[::-1])  # as they are given
    assert transfer(table.results, "loss", "width")["table"].tolist() == ["b", "a"]
    assert best(table.results, "loss")["table"].unique().tolist() == ["b", "a"]
    write(tmp_path, f"width,lr,loss {SMALL} 128,-1,2", "b.csv")
    with pytest.raises(ConfigError, match="row 7 of b has '-1'; must be a number above 0"):
        read_losses(files)


# What a table must not be -> what is said. A row is counted from 1, below the names.
REFUSED = {
    "widht,lr,loss 64,1,2": "--size: which column has the sizes? say one of widht, lr, loss",
    "width,rate,loss 64,1,2": "--lr: which column has the learning rates? say one of width, rate",
    "width,lr,score 64,1,2": "--loss: which column has the losses? say one of",
    f"width,lr,loss {SMALL} 7B-chat,1,2": "--size width: row 7 has '7B-chat'; must be a number",
    f"width,lr,loss {SMALL} -64,1,2": "--size width: row 7 has '-64'; must be a number above 0",
    f"width,lr,loss {SMALL} ,1,2": "--size width: row 7 is empty; must be a number above 0",
    f"width,lr,loss {SMALL} d=64,1,2": "--size width: mixes numbers of d and no name",
    f"width,lr,loss {SMALL} 64,,2": "--lr lr: row 7 is empty; must be a number above 0",
    f"width,lr,loss {SMALL} 64,-7,2": "if the column holds log2 of the learning rate, say --log2",
    f"width,lr,loss {SMALL} 64,3M,2": "--lr lr: row 7 has '3M'; must be a number above 0",
    f"width,lr,loss {SMALL} 64,fast,2": "--lr lr: row 7 has 'fast'; must be a number above 0, such",
    f"width,lr,loss {SMALL} 64,1,oom": "--loss loss: row 7 has 'oom'; must be a number, nan, inf",
    "width,lr,loss 64,1,2 64,2,2": "--size width: has one value, 64; transfer needs two",
    "width,lr,loss 64,1,2 32,1,2": "--lr lr: has one value a width; an optimum needs three",
    "width,lr,loss 64,1,nan 64,2,nan 32,1,nan": "--loss loss: has no finite loss",
    "width,lr,loss 64,1, 64,2, 32,1,": "--loss loss: no run has one",
    "width,lr,loss": "mine.csv: has no rows",
    "width 64 128": "has one column, 'width': columns must be separated by commas",
    "width,lr,loss 64,1,2,3,4,5 1": "mine.csv: cannot be read: rows have more cells than",
    "width,lr,loss,depth 64,1,2,2 64,1,3,4 32,1,2,2 32,1,3,4": "differ in depth: say --by depth",
    "width,lr,loss,seed 64,1,2,0 64,1,3,0 32,1,2,0": "--seed seed: 2 rows have the same width, lr",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_table_that_is_wrong_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    line = str(refused.value)
    assert REFUSED[text] in line
    assert "\n" not in line


def test_learning_rates_themselves_are_no_log2(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with --log2 it must be log2 of a learning rate"):
        read(tmp_path, f"width,lr,loss {SMALL}", log2=True)


def test_rows_keep_their_numbers_after_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("width,lr,loss\n64,1,2\n\n64,2,oops\n,,\n")
    with pytest.raises(ConfigError, match="row 3 has 'oops'"):
        read_losses([file])


# --- the analysis of uneven tables


def test_between_the_neighbours_of_the_best_the_parabola_gives_the_regret(tmp_path: Path) -> None:
    """Also on a grid whose steps differ: (log2 lr)^2 has the regret of a parabola, to the digit."""
    octaves = {64: -0.3, 128: 0.0}
    steps = [-3.0, -1.0, 0.2, 1.2, 3.0]
    rows = [(width, 2.0**at, (at - octaves[width]) ** 2) for width in octaves for at in steps]
    results = pd.DataFrame(rows, columns=["width", "lr", "loss"])
    results = results.assign(table="t", seed=0, status="completed")
    found = optima(results, "loss", "width")
    assert np.log2(found["lr"]).tolist() == pytest.approx([-0.3, 0.0])
    assert found["regret"].tolist() == pytest.approx([0, 0.09])
    # of the values tried 0.2 is best at both
    assert found["grid_regret"].tolist() == [0, 0]


def test_the_grid_s_regret_is_what_was_measured() -> None:
    results = sweep(drift=-0.5, optimum=-8.0, seeds=[0.0], grid=range(-12, -4))
    (row,) = transfer(results).to_dict("records")
    assert row["grid_regret"] == pytest.approx(0.05 * 2**2)
    without = results[(results["width"] != 256) | (results["lr"] != 2.0**-8)]
    assert np.isnan(transfer(without).loc[0, "grid_regret"])


def test_the_scatter_over_sizes_bounds_the_drift_of_one_seed() -> None:
    """Against the slope's standard error of scipy."""
    from scipy.stats import linregress, t

    shifts = [0.3, -0.3, 0.1, 0.2, -0.2]
    widths = (64, 128, 256, 512, 1024)
    parts = []
    for shift, width in zip(shifts, widths, strict=True):
        parts.append(sweep(optimum=-8 + shift, widths=[width], seeds=[0.0]))
    (row,) = transfer(pd.concat(parts)).to_dict("records")
    line = linregress(np.log2(widths), shifts)
    half = t.ppf(0.975, 3) * line.stderr
    assert row["drift"] == pytest.approx(line.slope)
    assert row["scatter_low"] == pytest.approx(line.slope - half)
    assert row["scatter_high"] == pytest.approx(line.slope + half)
    assert (row["sizes"], row["drift_seeds"]) == (5, 1)


def test_a_seed_that_tried_fewer_values_counts_in_no_interval() -> None:
    """Two further runs at one learning rate are no three seeds."""
    results = sweep(drift=-0.5)
    few = (results["seed"] == 0) | (results["lr"] == 2.0**-4)
    table = transfer(results[few])
    assert table.loc[0, "drift_seeds"] == 1
    assert np.isnan(table.loc[0, "drift_low"])
    each = results.assign(seed=range(len(results)))  # no seed has two runs
    assert optima(each)["lr_low"].isna().all()


def test_a_size_with_one_value_has_no_optimum() -> None:
    results = sweep(seeds=[0.0])
    one = results[(results["width"] != 256) | (results["lr"] == 2.0**-8)]
    assert transfer(one).loc[0, "edges"] == "256"


# --- what is said


def said_of(results: pd.DataFrame) -> list[str]:
    found = optima(results)
    keys = [key for key in curve_keys(results) if key != "width"]
    return readings(found, transfer(results), keys, "width", "lr")


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        (
            sweep(drift=-1.0),
            "mup: the best learning rate falls by 1.00 octaves a doubling of width",
        ),
        (
            sweep(drift=0.5),
            "the best learning rate rises by 0.50 octaves a doubling of width (a fac",
        ),
        (sweep(drift=0.5, widths=[64, 128]), "95 % 0.50 to 0.50 over seeds"),
        (sweep(widths=[64, 128], seeds=[0.0]), "with an error that is not known"),
        (sweep(), "no certain drift of the best learning rate: 0.00 octaves"),
        (sweep(drift=-0.5), "The best of width 64 costs at most 0.21 at larger ones, 5.4 times"),
        (sweep(), "The best loss falls as 1 + 0.375 (width / 64)^-0.5."),
        (sweep(drift=-2.0), "at width 512, 1024: neither it nor drift and regret are known; try"),
    ],
)
def test_sentences(results: pd.DataFrame, sentence: str) -> None:
    (said,) = said_of(results)
    assert sentence in said


def test_a_drift_within_its_error_is_not_called_one() -> None:
    parts = []
    for shift, width in zip([0.0, 0.5, -0.4, 0.3], [64, 128, 256, 512], strict=True):
        parts.append(sweep(optimum=-8 + shift, widths=[width], seeds=[0.0]))
    (said,) = said_of(pd.concat(parts))
    assert said.startswith("mup: no certain drift of the best learning rate: ")
    assert "by the scatter over sizes" in said


def test_a_drift_of_rounding_errors_is_none() -> None:
    results = sweep()
    table = transfer(results).assign(drift=-1e-16, drift_low=-2e-16, drift_high=-1e-17)
    (said,) = readings(optima(results), table, ["parametrization", "optimizer"], "width", "lr")
    assert said.startswith("mup: no certain drift of the best learning rate: 0.00 octaves")


def test_words_of_a_choice_speak_of_no_drift() -> None:
    assert "the best learning rate rises when depth doubles" in glossary("depth", "lr")[0]
    results = sweep(seeds=[0.0]).assign(scheduler=lambda t: t["lr"].map(str), lr=0.1)
    keys = [key for key in curve_keys(results, "scheduler") if key != "width"]
    found = optima(results, x="scheduler")
    (said,) = readings(found, transfer(results, x="scheduler"), keys, "width", "scheduler")
    assert said.startswith("mup: The best of width 64 costs at most 0 at larger ones")


def test_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, f"d_model,lr,loss {SMALL}")
    with pytest.raises(SystemExit) as end:
        main(["report", str(file), "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("guessed: --size d_model --lr lr --loss loss\n")
    assert "transfer of the learning rate along d_model: drift in octaves per doubling" in printed
    assert f"6 runs; the report is in {tmp_path / 'out'}" in printed
    assert "nan" not in printed
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["best.csv", "lr_transfer.png", "report.html", "transfer.json"]


@pytest.mark.parametrize("name", ["figure.xyz", "nowhere/figure.png"])
def test_a_figure_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"width,lr,loss {SMALL}")
    with pytest.raises(ConfigError, match=f"--figure .*{name}: ") as refused:
        table_transfer([file], out=tmp_path / "out", figure=tmp_path / name)
    assert "\n" not in str(refused.value)
    assert (tmp_path / "out" / "transfer.json").exists()  # tables come first
    plt.close("all")


# --- tables of others


@measured_by_others
@pytest.mark.parametrize(
    ("optimizer", "drift", "grid_regret"),
    [("adamw", 0.16, 0.0165), ("muon", 0.05, 0.0013), ("spball", -0.07, 0.0)],
)
def test_the_spectral_sphere_s_learning_rate_transfers(
    optimizer: str, drift: float, grid_regret: float
) -> None:
    """Widths 256 to 2048 of arXiv 2601.08393."""
    table = read_losses([FOREIGN / f"spectral_sphere_{optimizer}.csv"])
    assert table.notes == ["guessed: --size hidden_size --lr lr --loss loss"]
    (row,) = transfer(table.results, table.loss, table.size).to_dict("records")
    assert row["drift"] == pytest.approx(drift, abs=0.005)
    assert row["grid_regret"] == pytest.approx(grid_regret, abs=5e-5)
    assert row["scatter_low"] < 0 < row["scatter_high"]


@measured_by_others
def test_the_step_law_s_learning_rate_rises_with_the_tokens() -> None:
    """arXiv 2503.04715 has lr ~ N^-0.713 D^0.307, with the batch size tuned too."""
    file = FOREIGN / "steplaw_dense.csv"
    columns = Columns(size="D", loss="smooth loss", by=("N",), tuned=("bs",))
    table = read_losses([file], columns)
    found = transfer(table.results, table.loss, "D").set_index("N")
    long = found[found["sizes"] >= 3]
    assert len(long) == 4
    assert long["drift"].mean() == pytest.approx(0.307, abs=0.05)
    assert (long["scatter_low"] > 0).all()
    with pytest.raises(ConfigError, match=re.escape("differ in bs, ti, D and D/N: say --by bs")):
        read_losses([file])

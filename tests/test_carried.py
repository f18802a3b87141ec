"""What searched settings gain at other sizes, from a table of runs to the table of gains."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mupl.analysis.carried import CARRIED, OWN, carried, steps_to_reach
from mupl.errors import ConfigError
from mupl.figures.carried import plot_carried
from tests.commands import ROOT, environment

BETTER = 1.5  # times fewer steps that the setting best needs, in all runs


def loss(steps: float) -> float:
    return 2 + 3 * steps**-0.5


def planted() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs whose best learning rate moves with width, and the losses in their course.

    Losses are lines in the logarithm of steps between powers of two, as `steps_to_reach` assumes.
    """
    rows, courses = [], []
    for width, steps, setting, lr, seed in product(
        (8, 16), (256, 512), ("best", "plain"), (1.0, 2.0, 4.0), (0, 1)
    ):
        off = 0.1 * np.log2(lr * (8 / width)) ** 2 + 0.01 * seed
        faster = BETTER if setting == "best" else 1
        folder = f"{width}_{steps}_{setting}_{lr}_{seed}"
        row = {"width": width, "max_steps": steps, "setting": setting, "lr": lr, "seed": seed}
        rows.append({**row, "folder": folder, "val_loss": loss(faster * steps) + off})
        for done in 2 ** np.linspace(0, np.log2(steps), 400):
            course = {"folder": folder, "steps": done, "val_loss": loss(faster * done) + off}
            courses.append(course)
    return pd.DataFrame(rows).assign(status="completed"), pd.DataFrame(courses)


def test_gain_and_speedup_are_those_that_were_planted() -> None:
    results, validation = planted()
    table = carried(results, validation, "val_loss")
    at = table.set_index(["width", "max_steps", "setting", "rate_from"])
    gain = loss(512) - loss(BETTER * 512)
    small, large = at.loc[(8, 512, "best")], at.loc[(16, 512, "best")]
    assert small.loc[CARRIED, "gain"] == small.loc[OWN, "gain"] == pytest.approx(gain)
    # the rate of the smallest size is an octave off at twice the width
    assert large.loc[[CARRIED, OWN], "lr"].tolist() == [1, 2]
    assert large.loc[[CARRIED, OWN], "at_edge"].tolist() == [True, False]
    assert large.loc[OWN, "gain"] == pytest.approx(gain)
    assert large.loc[CARRIED, "gain"] == pytest.approx(gain - 0.1)
    assert at.loc[(16, 512, "plain", CARRIED), "gain"] == pytest.approx(-0.1)
    assert large.loc[OWN, ["speedup", "speedup_low", "speedup_high"]].tolist() == pytest.approx(
        [BETTER] * 3, rel=1e-3
    )
    # the line between the ends of two runs lies above the curve, which is convex
    assert large.loc[OWN, "run_speedup"] == pytest.approx(BETTER, rel=0.1)
    assert at.loc[pd.IndexSlice[:, 256], "run_speedup"].isna().all()  # of the shortest runs
    assert (at.loc[pd.IndexSlice[:, :, "plain", OWN], ["speedup"]] == 1).all(axis=None)
    assert at.loc[(16, 512, "plain", CARRIED), "speedup"] < 1
    assert len(plot_carried(table).axes) == 3


def test_traded_settings_trade_their_gain_and_speedup() -> None:
    results, validation = planted()
    names = {"best": "plain", "plain": "best"}
    traded = carried(results.assign(setting=results["setting"].map(names)), validation, "val_loss")
    row = traded.query(f"setting == 'best' and rate_from == '{OWN}' and max_steps == 512").iloc[0]
    assert row["gain"] == pytest.approx(loss(BETTER * 512) - loss(512))
    assert row["speedup"] == pytest.approx(1 / BETTER, rel=1e-3)


def test_a_rate_that_diverges_at_a_size_is_said_to_have_no_loss_there() -> None:
    results, validation = planted()
    lost = (results["width"] == 16) & (results["lr"] == 1) & (results["seed"] == 1)
    results.loc[lost, ["status", "val_loss"]] = ["diverged", np.nan]
    table = carried(results, validation, "val_loss").query("width == 16")
    assert np.isinf(table.loc[table["rate_from"] == CARRIED, "val_loss"]).all()
    assert table.loc[table["rate_from"] == CARRIED, "gain"].isna().all()
    assert np.isfinite(table.loc[table["rate_from"] == OWN, "gain"]).all()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("setting == 'best'", "say setting=best,plain"),
        ("width == 8 and max_steps == 256", "all runs have one size"),
    ],
)
def test_what_cannot_be_compared_is_one_error(chosen: str, message: str) -> None:
    results, validation = planted()
    with pytest.raises(ConfigError, match=message):
        carried(results.query(chosen), validation, "val_loss")


@pytest.mark.parametrize(
    ("target", "steps"), [(3.0, 1), (3.5, np.nan), (2.5, 2), (1.9, np.nan), (2.0, 4)]
)
def test_steps_are_known_from_the_first_point_to_the_lowest(target: float, steps: float) -> None:
    found = steps_to_reach(pd.Series([1, 4, 8]), pd.Series([3.0, 2.0, 2.2]), target)
    assert found == pytest.approx(steps, nan_ok=True)


@pytest.mark.slow
def test_the_script_searches_twice_and_carries_what_it_found(tmp_path: Path) -> None:
    everywhere = ["base_width=8", "base_depth=1", "model.d_head=4", "data.context=8"]
    everywhere += ["batch_size=2", "trainer=cpu"]
    search = ["--search", "width=8", "depth=1", "max_steps=10", "hydra.sweeper.settings=8"]
    carry = ["--transfer", "width=8,16", "depth=1", "max_steps=10,20", "base_steps=10"]
    carry += ["tune.all.lr=1", "seed=2,3", "trainer.val_check_interval=5"]
    script = [str(ROOT / "scripts/search_and_carry.py"), *everywhere, "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *script, *search, *carry],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, near = (pd.read_csv(tmp_path / name / "results.csv") for name in ("search", "near"))
    liked = pd.read_csv(tmp_path / "search/preferences.csv").set_index("key")
    key = "tune.query.lr"
    low, high = liked.loc[key, ["top_low", "top_high"]]
    assert near[key].between(low * 0.999, high * 1.001).all()
    assert set(first["seed"]) == {0}
    assert set(near["seed"]) == {1}
    uniform = yaml.safe_load((tmp_path / "near/setting/uniform.yaml").read_text())
    found = pd.read_csv(tmp_path / "uniform/results.csv").sort_values("val_loss")
    completed = found[found["status"] == "completed"].iloc[0]
    assert uniform["tune"]["weights"]["init"] == completed["tune.weights.init"]
    table = pd.read_csv(tmp_path / "transfer/carried.csv")
    assert set(table["setting"]) == {"best", "uniform", "plain"}
    assert len(table) == 4 * 3 * 2  # sizes, settings, where the learning rate is from
    assert np.isfinite(table["gain"]).all()
    assert (tmp_path / "transfer/carried.png").exists()

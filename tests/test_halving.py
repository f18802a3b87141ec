"""Successive halving: who goes on, that they train as without it, and that a kill is harmless."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from mupl.stacked.checkpoint import Checkpoint
from mupl.stacked.stack import Stack
from mupl.tuning.halving import Halving
from tests.commands import IGNORED, ROOT, TABLE_ONLY, Done, train_here
from tests.test_launcher import stopping_at

pytestmark = IGNORED
INF, NAN = float("inf"), float("nan")

EXACT = ["max_steps=20", "base_width=8", "trainer=cpu", "trainer.precision=64-true"]
GRID = ["width=8", "lr=0.01,0.03,0.1,0.3,1e30", "seed=0,1", "optimizer=sgd"]
RUNGS = ["halving.rungs=[0.2,0.5]"]
Sweep = Callable[..., Done]


@pytest.fixture
def sweep(capfd: pytest.CaptureFixture[str]) -> Sweep:
    def start(folder: Path, *arguments: str) -> Done:
        given = ["hydra/launcher=stacked", TABLE_ONLY, *EXACT, *arguments]
        return train_here(capfd, "-m", *given, f"hydra.sweep.dir={folder}")

    return start


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv").drop(columns="seconds")


def halving(keep: float = 0.5, within: tuple[str, ...] | None = None) -> Halving:
    return Halving((0.1,), (keep,), within, "val_loss")


def jobs(**values: list[Any]) -> list[dict[str, Any]]:
    return pd.DataFrame({"seed": 0, **values}).to_dict("records")


def test_of_n_settings_the_best_half_goes_on_rounded_up() -> None:
    assert halving().losers(0, jobs(lr=[1, 2, 3, 4, 5]), [5, 1, 4, 2, 3]) == [0, 2]
    assert halving(0.2).losers(0, jobs(lr=[1, 2, 3, 4, 5]), [5, 1, 4, 2, 3]) == [0, 2, 3, 4]
    assert halving().losers(0, jobs(lr=[1]), [5]) == []


def test_no_setting_goes_on_that_diverged() -> None:
    assert halving().losers(0, jobs(lr=[1, 2, 3, 4]), [NAN, INF, NAN, 2]) == [0, 1, 2]
    assert halving().losers(0, jobs(lr=[1, 2]), [NAN, INF]) == [0, 1]


def test_settings_are_compared_by_the_mean_over_their_seeds() -> None:
    four = jobs(lr=[1, 1, 2, 2], seed=[0, 1, 0, 1])
    assert halving().losers(0, four, [0, 9, 4, 4]) == [0, 1]
    # one more seed of one of them makes the comparison unfair
    assert halving().losers(0, four[:3], [0, 9, 4]) == []


def test_jobs_are_compared_if_they_differ_in_what_competes_only() -> None:
    four = jobs(lr=[1, 2, 1, 2], width=[8, 8, 16, 16])
    assert halving().losers(0, four, [1, 2, 4, 3]) == [1, 2]
    assert halving(within=("lr",)).losers(0, four, [1, 2, 4, 3]) == [2, 3]
    multipliers = jobs(model=[{"output_mult": 1, "depth": 2}, {"output_mult": 2, "depth": 2}])
    assert halving().losers(0, multipliers, [1, 2]) == [1]


def test_survivors_train_as_without_halving_and_losers_are_recorded(
    sweep: Sweep, tmp_path: Path
) -> None:
    grid = [*GRID, "parametrization=sp,mup"]
    assert sweep(tmp_path / "whole", *grid).returncode == 0
    done = sweep(tmp_path / "halved", *grid, *RUNGS)
    assert done.returncode == 0, done.stderr
    keys = ["parametrization", "lr", "seed"]
    both = results(tmp_path / "whole").merge(
        results(tmp_path / "halved"), on=keys, suffixes=("", "_halved")
    )
    assert len(both) == 20
    kept = both[both["status_halved"] == "completed"]
    assert len(kept) == 2 * 2 * 2  # of 5 settings 3 and then 2, at 2 seeds
    for loss in ("train_loss", "val_loss"):
        assert (kept[loss] - kept[f"{loss}_halved"]).abs().max() < 1e-10
    dropped = both[both["status_halved"] == "dropped"]
    assert set(dropped["steps_halved"]) == {4, 10}
    assert dropped["val_loss_halved"].notna().all()
    assert set(both["status_halved"]) == {"completed", "dropped", "diverged"}
    for folder in kept["folder"]:
        for file in (tmp_path / "whole" / folder).rglob("*.csv"):
            other = tmp_path / "halved" / file.relative_to(tmp_path / "whole")
            pd.testing.assert_frame_equal(pd.read_csv(file), pd.read_csv(other), rtol=1e-10)
    assert "step 4 of 20: 12 of 20 jobs go on" in done.stdout


@pytest.mark.parametrize(
    "at", [5, *(pytest.param(at, marks=pytest.mark.slow) for at in (3, 8, 12))]
)
def test_a_halving_that_is_interrupted_drops_the_same(
    at: int, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "_step", stopping_at(at))
        assert sweep(tmp_path / "killed", *GRID, *RUNGS).returncode == 128 + signal.SIGTERM
    assert sweep(tmp_path / "killed", *GRID, *RUNGS).returncode == 0
    assert sweep(tmp_path / "whole", *GRID, *RUNGS).returncode == 0
    assert results(tmp_path / "killed").equals(results(tmp_path / "whole"))
    assert not list((tmp_path / "killed/states").glob("*.pt"))


def test_a_process_that_dies_between_results_and_state_drops_the_same(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(checkpoint: Checkpoint) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", dies)
        assert sweep(tmp_path / "killed", *GRID, *RUNGS).returncode != 0
    assert list((tmp_path / "killed").glob("*/result.json"))
    assert sweep(tmp_path / "killed", *GRID, *RUNGS).returncode == 0
    assert sweep(tmp_path / "whole", *GRID, *RUNGS).returncode == 0
    assert results(tmp_path / "killed").equals(results(tmp_path / "whole"))


def test_what_another_halving_dropped_is_trained_and_survivors_are_kept(
    sweep: Sweep, tmp_path: Path
) -> None:
    sweep(tmp_path, *GRID, *RUNGS)
    again = sweep(tmp_path, *GRID, *RUNGS)
    assert "go on" not in again.stdout
    assert "10 of 10 jobs were done before" in again.stdout
    done = sweep(tmp_path, *GRID)
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path)["status"]) == {"completed", "diverged"}


def test_a_dropped_result_says_by_which_halving(sweep: Sweep, tmp_path: Path) -> None:
    sweep(tmp_path, *GRID, *RUNGS)
    rows = [json.loads(file.read_text()) for file in tmp_path.glob("*/result.json")]
    dropped = [row for row in rows if row["status"] == "dropped"]
    assert dropped[0]["halving"] == {
        "rungs": [0.2, 0.5], "keep": [0.5, 0.5], "within": None, "metric": "val_loss"
    }  # fmt: skip


SWEEPS = {
    "adam": ["optimizer=adam", "lr=3e-4,1e-3,3e-3,1e-2,3e-2,0.1,0.3,1", "max_steps=120"],
    "sgd": ["optimizer=sgd", "lr=1e-3,3e-3,1e-2,3e-2,0.1,0.3,1,3", "max_steps=120"],
    "gpt": [
        *("model=gpt", "data=text", "data.context=16", "model.d_head=8", "depth=1"),
        *("lr=3e-4,1e-3,3e-3,1e-2,3e-2,0.1,0.3,1", "max_steps=80", "batch_size=8"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", SWEEPS.values(), ids=SWEEPS)
def test_halving_finds_the_optimum_of_the_whole_grid(
    arguments: list[str], sweep: Sweep, tmp_path: Path
) -> None:
    given = [*arguments, "width=16", "seed=0,1,2", "trainer.precision=32-true", "scheduler=cosine"]
    sweep(tmp_path / "whole", *given)
    sweep(tmp_path / "halved", *given, "halving.rungs=[0.1,0.3]")
    best = []
    for folder in ("whole", "halved"):
        table = results(tmp_path / folder)
        ended = table[table["status"] == "completed"]
        best.append(ended.groupby("lr")["val_loss"].mean().idxmin())
    rates = sorted(table["lr"].unique())
    assert abs(rates.index(best[0]) - rates.index(best[1])) <= 1
    assert table["steps"].sum() <= 0.4 * table["max_steps"].sum()


CURVES = pd.read_csv(ROOT / "docs/results/halving_curves.csv")


def replayed(curves: pd.DataFrame, rungs: tuple[float, ...]) -> tuple[list[Any], float]:
    """The jobs (lr, seed) that a halving leaves of recorded ones, and its share of their steps."""
    losses = curves.pivot(index=["lr", "seed"], columns="step", values="val_loss")
    rule = Halving(rungs, (0.5,) * len(rungs), None, "val_loss")
    alive, made, before = list(losses.index), 0, 0
    last = int(losses.columns.max())
    for rung, step in enumerate(rule.steps(last)):
        made += (step - before) * len(alive)
        before = step
        configs = [{"lr": lr, "seed": seed} for lr, seed in alive]
        lost = rule.losers(rung, configs, losses.loc[alive, step].tolist())
        alive = [job for i, job in enumerate(alive) if i not in lost]
    made += (last - before) * len(alive)
    return alive, made / (last * len(losses))


def best_place(curves: pd.DataFrame, jobs: list[Any]) -> int:
    """The place in the grid of the learning rate with the least loss at the end of these jobs."""
    ends = curves[curves["step"] == curves["step"].max()].set_index(["lr", "seed"])["val_loss"]
    means = ends.reindex(jobs).groupby("lr").mean()
    return sorted(curves["lr"].unique()).index(means.idxmin())


@pytest.mark.parametrize("seeds", [[0], [1], [2], [0, 1], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("name", CURVES["sweep"].unique())
def test_halving_by_the_rungs_of_a_ladder_finds_the_optimum_of_recorded_sweeps(
    name: str, seeds: list[int]
) -> None:
    curves = CURVES[(CURVES["sweep"] == name) & CURVES["seed"].isin(seeds)]
    rungs = tuple(OmegaConf.load(ROOT / "conf/experiment/tune.yaml").halving.rungs)
    every = list(curves.set_index(["lr", "seed"]).index.unique())
    left, share = replayed(curves, rungs)
    assert abs(best_place(curves, left) - best_place(curves, every)) <= 1
    assert share <= 0.4


def test_a_halving_by_the_wrong_losses_misses_the_optimum() -> None:
    curves = CURVES[CURVES["sweep"] == "digits_mlp_sgd"]
    first = curves["step"].min() / curves["step"].max()
    left, _ = replayed(curves.assign(val_loss=-curves["val_loss"]), (first,))
    every = list(curves.set_index(["lr", "seed"]).index.unique())
    assert abs(best_place(curves, left) - best_place(curves, every)) > 1

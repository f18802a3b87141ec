"""The search of many hyperparameters, from the command to the setting that it finds."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from mupl.analysis.search import preferences, ranking
from tests.commands import IGNORED, train_here

pytestmark = IGNORED
TINY = [
    *("width=8", "base_width=8", "model.d_head=4", "depth=1", "base_depth=1", "data.context=8"),
    *("batch_size=2", "trainer=cpu", "hydra/launcher=stacked"),
]


def test_a_setting_counts_only_if_all_its_seeds_were_trained_to_the_end() -> None:
    table = pd.DataFrame({"lr": [1, 1, 2, 2], "seed": [0, 1, 0, 1], "val_loss": [1.0, 1, 3, 4]})
    status = ["completed", "dropped", "completed", "completed"]
    assert ranking(table.assign(status=status), "val_loss")["lr"].tolist() == [2]


def test_what_the_best_have_in_common_is_told_from_what_they_have_not() -> None:
    lr = [2.0 ** (i % 10) for i in range(100)]
    other = [2.0 ** (i // 10) for i in range(100)]
    table = pd.DataFrame({"lr": lr, "other": other, "seed": 0, "status": "completed"})
    found = preferences(table.assign(val_loss=table["lr"]), "val_loss").set_index("key")
    assert found.loc["lr", "top_high"] == found.loc["lr", "best"] == 1
    assert abs(found.loc["lr", "shift"]) > 4 * found.loc["lr", "standard_error"]
    assert abs(found.loc["other", "shift"]) < found.loc["other", "standard_error"]


@pytest.mark.slow
def test_the_best_setting_of_a_search_is_taken_to_another_size(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found, taken = tmp_path / "search", tmp_path / "transfer"
    command = ["experiment=per_module_search", "hydra.sweeper.settings=8"]
    done = train_here(capfd, "-m", *command, *TINY, "max_steps=10", f"hydra.sweep.dir={found}")
    assert done.returncode == 0, done.stderr
    assert (found / "search.png").exists()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("[1/")]
    assert "and 22 more:" in line  # of 27 keys
    results = pd.read_csv(found / "results.csv")
    assert results["status"].value_counts().to_dict() == {"dropped": 6, "completed": 2}
    best = yaml.safe_load((found / "setting/best.yaml").read_text())
    chosen = results[results["status"] == "completed"].sort_values("val_loss").iloc[0]
    assert best["lr"] == chosen["lr"]
    assert best["tune"]["query"]["lr"] == chosen["tune.query.lr"]
    place = ["--config-dir", str(found), f"hydra.sweep.dir={taken}", "setting=best,plain"]
    given = ["experiment=per_module_transfer", *TINY, "max_steps=4", "seed=0", "lr=0.01,0.02"]
    given += ["base_steps=4", "tune.all.lr=1", "trainer.val_check_interval=4"]
    done = train_here(capfd, "-m", *place, *given, "width=8,16")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(taken / "results.csv")
    assert set(table["setting"]) == {"best", "plain"}
    for _, job in table.iterrows():
        shown = pd.read_csv(taken / job["folder"] / "parametrization.csv")
        assert ("tune" in shown) == (job["setting"] == "best")

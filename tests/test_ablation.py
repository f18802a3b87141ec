"""muP rule by rule: stages are data that differ in one cell, the report says what each cures."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mupl.analysis.coordinates import failures_by_series
from mupl.identity import write_result
from mupl.models import GPT
from mupl.optim.scaling import scale
from mupl.parametrization.scales import Scale
from mupl.report.ablation import ablation
from mupl.roles import describe
from tests.commands import ROOT, train

STAGES = [
    "ablation/0_sp",
    "ablation/1_init",
    "ablation/2_hidden_lr",
    "ablation/3_output_mult",
    "mup",
]
INFOS = describe(partial(GPT, 11, 8, depth=2, d_head=None, heads=2), 64, 16)


def numbers(stage: str) -> dict[str, Scale]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"parametrization={stage}"])
    return scale(INFOS, instantiate(config.parametrization), "adam", lr=0.1)


def test_each_stage_has_one_cell_more_of_mup() -> None:
    tables = [numbers(stage) for stage in STAGES]
    assert tables[-1] == scale(INFOS, "mup", "adam", lr=0.1)
    expected = [
        ("init", "mlp.up.weight"),
        ("lr", "mlp.up.weight"),
        ("mult", "readout.weight"),
        ("mult", "attention.scale"),
    ]
    for before, after, (cell, name) in zip(tables, tables[1:], expected, strict=False):
        changed = {
            (field, n.removeprefix("blocks.0.").removeprefix("blocks.1."))
            for n in INFOS
            for field in ("mult", "init", "lr", "eps", "weight_decay", "grad")
            if getattr(before[n], field) != getattr(after[n], field)
        }
        assert {field for field, _ in changed} == {cell}
        assert (cell, name) in changed
        roles = {info.role for n, info in INFOS.items() if before[n] != after[n]}
        assert len(roles) == 1


def rows(power: dict[str, float], parametrization: str) -> list[dict[str, Any]]:
    """Rows of two blocks and logits with |x| = width^power, all of which must have the power 0."""
    return [
        {
            "parametrization": parametrization,
            "width": w,
            "seed": s,
            "t": 1,
            "kind": "output",
            "name": name,
            "statistic": "l1",
            "value": w ** power.get(name, 0.0),
            "low": 0.0,
            "high": 0.0,
            "zero": False,
        }
        for name in ("blocks.0.mlp_residual", "blocks.1.mlp_residual", "readout")
        for w in (16, 32, 64)
        for s in (0, 1)
    ]


@pytest.mark.parametrize(("of_mup", "code"), [({}, 0), ({"readout": 0.3}, 1)])
def test_the_report_says_what_each_stage_fails_at_and_exits_by_the_last(
    of_mup: dict, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    powers = {
        STAGES[0]: {"blocks.1.mlp_residual": 0.5, "readout": -0.25},
        STAGES[3]: {"readout": 1.0},
        "mup": of_mup,
    }
    for name, power in powers.items():
        for key, job in pd.DataFrame(rows(power, name)).groupby(["width", "seed"]):
            folder = tmp_path / f"{name.replace('/', '-')}_{key}"
            folder.mkdir()
            job.drop(columns="parametrization").to_csv(folder / "coordinates.csv", index=False)
            identity = {
                "width": key[0],
                "seed": key[1],
                "lr": 0.1,
                "parametrization": name,
                "optimizer": "adam",
            }
            outcomes = {"status": "completed", "steps": 3, "train_loss": 1.0, "seconds": 0.1}
            write_result(folder, {"job": folder.name, **identity, **outcomes})
    assert ablation(tmp_path) == code
    out = capsys.readouterr().out
    assert "0_sp: 1 of 3" in out
    assert f"mup: {3 - code} of 3" in out
    line = next(text for text in out.splitlines() if "mlp_residual" in text)
    assert "blocks.*.mlp_residual" in line
    assert "+0.50" in line
    assert (tmp_path / "ablation.png").stat().st_size > 10_000


def test_the_slope_that_is_shown_is_the_worst_over_blocks_and_steps() -> None:
    slopes = [("sp", "blocks.0.a", 0.3), ("sp", "blocks.1.a", -0.9), ("mup", "b", 0.0)]
    table = pd.DataFrame(slopes, columns=["parametrization", "name", "slope"])
    words = np.where(table["slope"] == 0, "pass", "fail")
    table = table.assign(kind="output", t=1, low=0.0, high=0.0, verdict=words)
    (row,) = failures_by_series(table).to_dict("records")
    assert row == {"kind": "output", "name": "blocks.*.a", "sp": "-0.90", "mup": ""}
    assert failures_by_series(table[table["verdict"] == "pass"]).empty


@pytest.mark.slow
def test_the_experiment_shows_what_each_rule_cures(tmp_path: Path) -> None:
    done = train(
        "-m",
        "hydra/launcher=stacked",
        "experiment=ablation",
        "trainer=cpu",
        "width=128,256,512",
        "base_width=128",
        "lr=0.004",
        "seed=0,1,2",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "coord_check.csv")
    assert {"blocks.0.attention.logits", "blocks.1.attention.logits"} <= set(table["name"])
    lines = {
        line.split()[1]: line.split()[2:]
        for line in done.stdout.splitlines()
        if line.startswith(" output  ")
    }
    assert len(lines["readout"]) == 3  # cured by the output multiplier
    assert len(lines["blocks.*.mlp_residual"]) >= 2  # by the learning rate of hidden matrices
    assert lines["blocks.*.attention.scale"][-1] in ("-0.48", "-0.49", "-0.50")  # by 1/d attention

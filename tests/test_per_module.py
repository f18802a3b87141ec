"""Factors by module: a tensor gets what it would get if the hyperparameters had been tuned so."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import mupl
from mupl.cli import main
from mupl.errors import ConfigError
from mupl.models import GPT
from mupl.parametrization.hyperparameters import WEIGHT_DECAY_MODES
from mupl.parametrization.scales import Scale
from mupl.parametrization.tables import TABLES
from mupl.roles import Role, describe
from tests.commands import IGNORED, train_here

pytestmark = IGNORED

BASE = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.2}


def build(width: int, depth: int = 2) -> nn.Module:
    return GPT(11, 8, width, depth=depth, d_head=4, norm_gain=False)


INFOS = describe(build, 16, 8, depth=4, base_depth=2)


def scales(parametrization: str = "mup", **arguments: Any) -> dict[str, Scale]:
    return mupl.scale(INFOS, parametrization, "adamw", **BASE | arguments)


@pytest.mark.parametrize("mode", [*WEIGHT_DECAY_MODES, 0.5])
@pytest.mark.parametrize("name", [n for n in TABLES if n != "umup_output_scale"])
@pytest.mark.parametrize("role", ["input", "hidden", "output"])
def test_a_tensor_gets_what_it_would_get_if_it_had_been_tuned_so(
    name: str, mode: str | float, role: str
) -> None:
    factors = {"lr": 2.0, "eps": 3.0, "weight_decay": 5.0}
    alone = scales(name, weight_decay_mode=mode, tune={role: factors})
    tuned = {key: BASE[key] * factor for key, factor in factors.items()}
    all_so = scales(name, weight_decay_mode=mode, **tuned)
    none_so = scales(name, weight_decay_mode=mode)
    for key, scale in alone.items():
        wanted = all_so[key] if INFOS[key].role == role else none_so[key]
        for number in ("lr", "eps", "weight_decay", "mult", "init"):
            assert getattr(scale, number) == getattr(wanted, number), (key, number)


def test_init_and_mult_are_multiplied_as_they_are() -> None:
    tune = {"readout.*": {"mult": 3}, "*.mlp.*": {"init": 0.5}, "attention": {"mult": 2}}
    tuned, plain = scales(tune=tune), scales()
    assert tuned["readout.weight"].mult == 3 * plain["readout.weight"].mult
    attention = [name for name, info in INFOS.items() if info.role == "attention"]
    assert tuned[attention[0]].mult == 2 * plain[attention[0]].mult
    mlp = next(name for name in plain if ".mlp." in name)
    assert tuned[mlp].init.std == plain[mlp].init.std / 2
    assert tuned[mlp].lr == plain[mlp].lr


def test_the_model_holds_what_the_factors_say() -> None:
    def linear(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width, bias=False), nn.Linear(width, 3, bias=False))

    tune = {"input": {"init": 2}, "output": {"mult": 4, "lr": 3}}
    setups = []
    for given in (None, tune):
        setups.append(mupl.Setup(linear, 8, base_width=4, lr=0.1, tune=given, seed=1))
    plain, tuned = (setup.model for setup in setups)
    torch.testing.assert_close(tuned[0].weight, 2 * plain[0].weight)
    x = torch.randn(2, 8)
    torch.testing.assert_close(tuned[1](x), 4 * plain[1](x))
    rates = {group["lr"] for group in setups[1].optimizer().param_groups}
    assert sorted(rates) == pytest.approx([0.1, 0.3])


def test_factors_of_entries_that_overlap_multiply_in_any_order() -> None:
    entries = {"hidden": {"lr": 2}, "mlp": {"of": ["*.mlp.*"], "lr": 3}, "*.mlp.up.*": {"lr": 5}}
    name = next(name for name in scales() if ".mlp." in name)
    entries[name] = entries.pop("*.mlp.up.*")
    there = scales(tune=entries)[name]
    back = scales(tune=dict(reversed(entries.items())))[name]
    assert there.lr == back.lr == pytest.approx(30 * scales()[name].lr)
    assert str(there.factors) == "lr*30"


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"hiden": {"lr": 2}}, "'hiden' matches none of"),
        ({"tied": {"mult": 2}}, "tune.tied: the model has nothing of the role tied; it has input"),
        ({"attention": {"lr": 2}}, "tune.attention.lr: changes nothing of .*, which has mult"),
        ({"hidden": {"lr": 0}}, "tune.hidden.lr=0: must be a finite number > 0"),
        ({"hidden": {"rate": 2}}, "tune.hidden.rate: there is no such factor"),
        ({"hidden": 2}, "tune.hidden=2: must have factors"),
        ("hidden", "tune=hidden: must be by role or glob"),
        ({"mlp": {"of": 3, "lr": 2}}, "tune.mlp.of=3: must be a role or a glob"),
    ],
)
def test_what_changes_nothing_or_is_wrong_is_refused(tune: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scales(tune=tune)


def test_a_factor_on_no_weight_decay_or_on_zeros_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiplies weight_decay=0"):
        scales(weight_decay=0.0, tune={"hidden": {"weight_decay": 2}})
    infos = describe(lambda width: GPT(11, 8, width, depth=1, d_head=4, zero_readout=True), 16, 8)
    assert infos["readout.weight"].role == Role.OUTPUT
    with pytest.raises(ConfigError, match="init: changes nothing"):
        mupl.scale(infos, "mup", "adamw", lr=0.1, tune={"output": {"init": 2}})


@pytest.mark.filterwarnings("ignore:kept as the model made them")
def test_kept_tensors_act_as_the_model_made_them_under_any_multiplier() -> None:
    arguments: dict[str, Any] = {"base_width": 4, "lr": 0.1, "keep": ["weight"]}
    setup = mupl.Setup(lambda w: nn.Linear(w, 3), 8, tune={"weight": {"mult": 4}}, **arguments)
    plain = mupl.Setup(lambda w: nn.Linear(w, 3), 8, **arguments)
    x = torch.randn(2, 8)
    torch.testing.assert_close(setup.model(x), plain.model(x))


def test_tables_that_are_printed_show_the_factors(capsys: pytest.CaptureFixture[str]) -> None:
    setup = mupl.Setup(
        lambda w: nn.Linear(w, w), 8, base_width=4, lr=0.1, tune={"hidden": {"lr": 2}}
    )
    assert [row["tune"] for row in setup.table()] == ["lr*2", ""]
    assert "tune" not in mupl.Setup(lambda w: nn.Linear(w, w), 8, base_width=4, lr=0.1).table()[0]
    arguments = ["tests.test_per_module:build", "--width", "16", "--base-width", "8"]
    with pytest.raises(SystemExit):
        main(["describe", *arguments, "--tune", "hidden.lr=2", "--format", "csv"])
    assert "lr*2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--tune hidden: must be a factor"):
        main(["describe", *arguments, "--tune", "hidden"])


def test_a_sweep_of_factors_has_columns_and_a_report(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["base_width=8", "max_steps=4", "trainer=cpu", "width=8,16"]
    factors = ["tune.hidden.lr=0.5,1,2", "tune.first.of=layers.0.*", "tune.first.init=2"]
    done = train_here(capfd, "-m", *small, *factors, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = pd.read_csv(tmp_path / "results.csv")
    assert set(results["tune.hidden.lr"]) == {0.5, 1, 2}
    assert set(results["tune.first.init"]) == {2}
    assert "best hidden.lr factors by val_loss" in done.stdout
    assert (tmp_path / "lr_transfer.png").exists()

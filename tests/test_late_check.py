"""Coordinate checks of late steps and of the parts of a change: what the first three steps miss."""

import itertools
from functools import partial
from typing import Any

import pandas as pd
import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from mupl.analysis.coordinates import alignment_exponents, relative_updates, verdict
from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.blocked import BlockedShampoo, BlockedSOAP
from mupl.optim.registry import optimizer_rules
from mupl.parametrization.rules import get_parametrization
from mupl.training.coord_check import coord_check

# SOAP before a readout that starts at 0, whose first basis is an arbitrary one
pytestmark = pytest.mark.filterwarnings("ignore:optimizer. finds its first basis")
WIDTHS = (32, 64, 128, 256)
SOAP = partial(pytorch_optimizer.SOAP, weight_decay=0.0)
LATE = (0, 1, 2, 4, 16)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    loader = TensorData(digits(), batch_size=16).train_dataloader()
    epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
    return list(itertools.islice(epochs, count))


def recorded(**options: Any) -> pd.DataFrame:
    """The rows of a check of an MLP on digits; its hidden matrix is layers.1."""
    defaults = {"widths": WIDTHS, "base_width": 32, "optimizer": "adam", "lr": 0.003}
    arguments = defaults | {"seeds": range(3)} | options
    build = partial(MLP, 64, 10, depth=2, zero_readout=arguments.pop("zero_readout", True))
    count = 129 if "steps" not in arguments else 17
    return coord_check(build, batches=batches(count), **arguments)


def failed(table: pd.DataFrame) -> set[tuple[str, str]]:
    rows = table[table["verdict"] == "fail"]
    return set(zip(rows["kind"], rows["name"], strict=True))


# --- steps ---


def test_only_the_steps_that_are_asked_for_are_recorded() -> None:
    """Five batches are taken again until step 6."""
    build = partial(MLP, 64, 10, depth=1)
    rows = coord_check(
        build, [8, 16], batches(5), base_width=8, seeds=[0], lr=0.01, steps=[6, 0, 2]
    )
    assert sorted(set(rows["t"])) == [0, 2, 6]
    assert sorted(set(rows[rows["kind"] == "effective"]["t"])) == [2, 6]
    once = coord_check(build, [8, 16], batches(3), base_width=8, seeds=[0], lr=0.01)
    at_2 = rows[rows["t"] == 2]["value"].tolist()
    assert at_2 == once[once["t"] == 2]["value"].tolist()


def test_an_endless_source_of_batches_is_read_as_far_as_the_last_step() -> None:
    endless = itertools.repeat(batches(1)[0])
    build = partial(MLP, 64, 10, depth=1)
    options: dict[str, Any] = {"base_width": 8, "seeds": [0], "lr": 0.01}
    rows = coord_check(build, [8, 16], endless, steps=[3], **options)
    assert set(rows["t"]) == {3}


@pytest.mark.parametrize("steps", [[], 3, "often", [0, -1], [1.5]])
def test_steps_that_cannot_be_are_refused(steps: Any) -> None:
    with pytest.raises(ConfigError, match=r"steps=.*: must be .*a list of steps"):
        recorded(steps=steps)


def test_an_optimizer_that_settles_late_is_looked_at_when_it_has() -> None:
    rules = optimizer_rules(SOAP)
    assert rules.settled == 64
    assert rules.check_steps == [0, 1, 2, 4, 8, 16, 32, 64, 128]
    assert optimizer_rules(SOAP, "adam").check_steps == rules.check_steps
    assert optimizer_rules(partial(SOAP, precondition_frequency=20)).settled == 120
    assert optimizer_rules("adam").check_steps == [0, 1, 2]
    rows = recorded(optimizer=SOAP, widths=(16, 32), base_width=16, seeds=[0])
    judged = rows[rows["low"].notna()]
    assert sorted(set(judged["t"])) == [0, 1, 64, 128]  # 0 and 1: the weights are the initial ones


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 5, 10, 15, 20])
def test_soap_fails_under_adam_s_rule_and_passes_under_its_own(first: int) -> None:
    """Its updates have Adam's mean |x|, and move activations as m^1/2 less."""
    check = partial(recorded, optimizer=SOAP, seeds=range(first, first + 5))
    by_adam = verdict(check(update_kind="adam"))
    assert {("effective", "layers.1"), ("effective", "readout")} <= failed(by_adam)
    reasons = by_adam[(by_adam["kind"] == "effective") & (by_adam["verdict"] == "fail")]["reason"]
    assert reasons.str.contains("updates act on its inputs too weakly by width").all()
    assert reasons.str.contains(r"update_kind=").all()
    assert ("param", "layers.0.weight") not in failed(by_adam)
    own = verdict(check())
    assert failed(own) == set(), own[own["verdict"] == "fail"].to_string()
    missing = (own["verdict"] != "pass").sum()
    assert missing <= 0.1 * len(own)


@pytest.mark.slow
def test_soap_fails_under_sp_at_the_layers_whose_updates_grow() -> None:
    """By their action: entries of -1/2 may be of updates that noise fills."""
    found = failed(verdict(recorded(optimizer=SOAP, parametrization="sp")))
    assert {("effective", "layers.1"), ("effective", "readout"), ("output", "readout")} <= found
    assert not {("update", "layers.0.weight"), ("effective", "layers.0")} & found


BLOCKED = {
    "soap": partial(BlockedSOAP, block_size=16),
    "soap, adam": partial(BlockedSOAP, block_size=16, graft="adam"),
    "shampoo": partial(BlockedShampoo, block_size=16),
    "shampoo, adam": partial(BlockedShampoo, graft="adam"),
    "shampoo, adam, blocks": partial(BlockedShampoo, block_size=16, graft="adam"),
    "shampoo, sgd": partial(BlockedShampoo, graft="sgd"),
}
RATES = {"shampoo": 0.01, "shampoo, sgd": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_and_grafts_pass_under_their_own_rules(name: str) -> None:
    steps = {} if name.startswith("soap") else {"steps": LATE}
    options = {"optimizer": BLOCKED[name], "lr": RATES.get(name, 0.003), **steps}
    own = verdict(recorded(**options))
    assert failed(own) == set(), own[own["verdict"] == "fail"].to_string()
    assert (own["verdict"] != "pass").sum() <= 0.1 * len(own)


@pytest.mark.slow
def test_shampoo_fills_a_matrix_and_a_wrong_lr_is_still_caught() -> None:
    """In batches of 128 the rank of a gradient grows as these widths do."""
    build = partial(MLP, 64, 10, depth=2, zero_readout=True)
    given = list(itertools.islice(TensorData(digits(), batch_size=128).train_dataloader(), 5))

    def found(**options: Any) -> pd.DataFrame:
        settings: dict[str, Any] = {"lr": 0.02, "seeds": range(3), "steps": [0, 1, 2, 4]}
        settings |= {"base_width": 32, "optimizer": BlockedShampoo}
        return verdict(coord_check(build, (32, 64, 128), given, **settings | options))

    own = found()
    assert failed(own) == set(), own[own["verdict"] == "fail"].to_string()
    assert ("update", "layers.1.weight") in failed(found(update_kind="orthogonal"))
    for mistake in ({"layers.1.weight": {"lr": "m_in^1/2"}}, {"layers.0.weight": {"lr": "m_out"}}):
        table = found(parametrization=get_parametrization("mup", mistake))
        (tensor,) = mistake
        assert ("effective", tensor.removesuffix(".weight")) in failed(table)


@pytest.mark.slow
def test_shampoo_in_blocks_fails_under_the_rule_of_one_block() -> None:
    options = {"optimizer": BLOCKED["shampoo"], "lr": 0.01, "steps": LATE}
    found = failed(verdict(recorded(update_kind="orthogonal", **options)))
    assert {("effective", "layers.1"), ("output", "readout")} & found


# --- negative controls ---


class Hidden(torch.optim.Adam):
    """Adam whose updates of hidden matrices are changed."""

    steps = 0

    def step(self, closure: Any = None) -> None:
        hidden = [w for group in self.param_groups for w in group["params"] if min(w.shape) >= 32]
        before = [w.detach().clone() for w in hidden]
        super().step(closure)
        for w, start in zip(hidden, before, strict=True):
            w.data = start + self.changed(w.detach() - start)
        self.steps += 1

    def changed(self, update: Tensor) -> Tensor:
        raise NotImplementedError


class Late(Hidden):
    """Right for three steps; then the learning rate of hidden matrices is too large by m^1/2."""

    def changed(self, update: Tensor) -> Tensor:
        return update if self.steps < 3 else update * (len(update) / WIDTHS[0]) ** 0.5


class Scattered(Hidden):
    """Entries of Adam's size with random signs, which do not add up over fan_in."""

    def changed(self, update: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.steps)
        return update.abs() * torch.randn(update.shape, generator=generator).sign()


ADAM_TYPE = {"update_kind": "adam", "steps": LATE}
CONTROLS: dict[str, tuple[dict[str, Any], set[tuple[str, str]]]] = {
    # what is wrong: how it is trained and looked at, what must be named
    "wrong after three steps": (
        {"optimizer": Late} | ADAM_TYPE,
        {("update", "layers.1.weight"), ("effective", "layers.1")},
    ),
    "updates that do not add up": (
        {"optimizer": Scattered} | ADAM_TYPE,
        {("effective", "layers.1")},
    ),
    "updates that do not add up, by their norm": (
        {"optimizer": Scattered, "statistics": ["spectral", "rms_to_rms"]} | ADAM_TYPE,
        {("update", "layers.1.weight")},
    ),
    "a hidden init that lets nothing through": (
        {
            "parametrization": get_parametrization("mup", {"layers.1.weight": {"init": "1/m_in"}}),
            "steps": LATE,
        },
        {("propagating", "layers.1"), ("param", "layers.1.weight")},
    ),
}


@pytest.mark.parametrize("mistake", CONTROLS)
def test_a_mistake_is_caught_and_the_tensor_named(mistake: str) -> None:
    options, named = CONTROLS[mistake]
    table = verdict(recorded(**options))
    found = failed(table)
    assert named <= found, table.to_string()
    first = table[table["verdict"] == "fail"]["t"].min()
    at_first = failed(table[table["t"] == first])
    assert not {("param", "layers.0.weight"), ("effective", "layers.0")} & at_first
    if options.get("optimizer") is Late:
        assert first == 4  # and the usual three steps do not see it
    if options.get("optimizer") is Scattered and "statistics" not in options:
        assert ("update", "layers.1.weight") not in found  # mean |x| does not see it


# --- norms and alignment ---


def test_norms_of_updates_and_weights_have_predictions_that_adam_follows() -> None:
    norms = ["frobenius", "spectral", "rms_to_rms"]
    rows = recorded(statistics=norms, zero_readout=False, steps=range(3))
    table = verdict(rows)
    assert set(table["statistic"]) == {"frobenius", "spectral", "rms_to_rms"}
    assert failed(table) == set(), table[table["verdict"] == "fail"].to_string()
    hidden = table[(table["name"] == "layers.1.weight") & (table["t"] == 1)]
    low = hidden.set_index(["kind", "statistic"])["low"]
    assert low["update", "frobenius"] == low["update", "spectral"] == 0.0
    assert low["param", "frobenius"] == 0.5
    assert low["param", "spectral"] == 0.0
    sp = verdict(recorded(statistics=["spectral"], parametrization="sp", steps=range(3)))
    assert ("update", "layers.1.weight") in failed(sp)


def test_statistics_without_a_prediction_are_not_judged() -> None:
    rows = recorded(statistics=["l1", "mean", "stable_rank"], widths=(8, 16), steps=[1])
    assert set(verdict(rows)["statistic"]) == {"l1"}


def test_alignment_exponents_tell_updates_that_add_up_from_random_ones() -> None:
    def of_hidden(**options: Any) -> float:
        exponents = alignment_exponents(recorded(steps=[4], **options))
        return exponents.set_index("name")["slope"]["layers.1"]

    assert of_hidden() == pytest.approx(1.0, abs=0.1)
    assert of_hidden(optimizer=Scattered, update_kind="adam") == pytest.approx(0.5, abs=0.15)


def test_layers_of_tokens_and_of_dicts_have_parts_too() -> None:
    """An embedding has no alignment; batches may be dicts."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, width)
            self.readout = nn.Linear(width, 5)

        def forward(self, tokens: Tensor, target: Tensor) -> dict[str, Tensor]:
            logits = self.readout(self.embedding(tokens))
            return {"loss": nn.functional.cross_entropy(logits, target), "logits": logits}

    tokens = torch.arange(5)
    options: dict[str, Any] = {"base_width": 16, "seeds": [0], "lr": 0.01, "steps": [0, 2]}
    rows = coord_check(Model, [16, 32], [{"tokens": tokens, "target": tokens}], **options)
    parts = rows[(rows["t"] == 2) & rows["kind"].isin(["effective", "propagating", "alignment"])]
    of = parts.groupby("kind")["name"].unique().map(list)
    assert of["effective"] == of["propagating"] == ["embedding", "readout"]
    assert of["alignment"] == ["readout"]


# --- steady state ---


@pytest.mark.parametrize(("mode", "power"), [("decoupled", 0.0), (1.0, -0.5)])
def test_relative_updates_settle_alike_at_every_width_if_lr_times_decay_is_the_same(
    mode: str | float, power: float
) -> None:
    """Where lr * weight_decay falls as 1/width, what settles goes as its root."""
    rows = recorded(
        optimizer="adamw",
        lr=0.03,
        weight_decay=0.1 / 0.03,
        weight_decay_mode=mode,
        steps=[0, 1, 100],
        seeds=range(2),
        statistics=["l1", "frobenius"],
    )
    found = relative_updates(rows).set_index(["name", "t"]).loc[("layers.1.weight", 100)]
    assert found["slope"] == pytest.approx(power, abs=0.15)

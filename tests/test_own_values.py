"""A model's own initial values are rescaled; none are lost."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mupl
from mupl.initializers import Initializer, build_watched
from mupl.models import GPT, MLP
from mupl.nn.tensors import parameters
from mupl.parametrization.scales import scale_rows
from mupl.parametrization.tables import TABLES

BASE = 16
FOR_ADAM = [name for name in TABLES if not name.startswith("umup")]


class Odd(nn.Module):
    """Tensors that are filled in parts, or by values that are no distribution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width, padding_idx=3)
        self.lstm = nn.LSTM(width, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.orthogonal = nn.Linear(width, width)
        self.diagonal = nn.Linear(width, width, bias=False)
        self.sparse = nn.Linear(width, width, bias=False)
        self.repeated = nn.Linear(width, 4 * width, bias=False)
        self.A_log = nn.Parameter(torch.arange(1.0, width + 1).log())
        self.readout = nn.Linear(width, 5)
        self.fill()

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens) + self.A_log
        h, _ = self.lstm(h)
        h = sum(self.qkv(h).chunk(3, -1)) + self.orthogonal(h) + self.diagonal(h) + self.sparse(h)
        return self.readout(sum(self.repeated(h).chunk(4, -1)))

    @torch.no_grad()
    def fill(self) -> None:
        width = self.embedding.embedding_dim
        nn.init.zeros_(self.lstm.bias_ih_l0)
        self.lstm.bias_ih_l0[width : 2 * width] = 1
        for part, std in zip(self.qkv.weight.chunk(3), (0.01, 0.01, 0.5), strict=True):
            nn.init.normal_(part, std=std * width**-0.5)
        nn.init.orthogonal_(self.orthogonal.weight)
        nn.init.zeros_(self.diagonal.weight)
        self.diagonal.weight.fill_diagonal_(1)
        nn.init.sparse_(self.sparse.weight, 0.5, std=width**-0.5)
        rows = torch.randn(width, width)
        self.repeated.weight.copy_(rows.repeat_interleave(4, 0))


def effective(model: nn.Module, scales: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors as they act, `mult * w`."""
    tensors = parameters(model, scales)
    return {name: scales[name].mult * w.detach() for name, w in tensors.items()}


def prepared(width: int, table: str = "mup", build: Any = Odd, **options: Any) -> tuple:
    """Own values, and effective ones under a parametrization."""
    infos = mupl.describe(build, width, BASE, **options)
    scales = mupl.scale(infos, table, "adam", lr=0.1)
    torch.manual_seed(0)
    model = build(width)
    own = {name: w.detach().clone() for name, w in model.named_parameters()}
    return own, effective(mupl.initialize_(model, scales, seed=1), scales)


@pytest.mark.parametrize("table", FOR_ADAM)
@pytest.mark.parametrize(
    "build", [Odd, lambda w: MLP(6, 3, w), lambda w: GPT(7, 8, w, depth=1, d_head=8)]
)
def test_at_the_base_width_own_values_stay_what_they_are(build: Any, table: str) -> None:
    own, now = prepared(BASE, table, build)
    for name, w in own.items():
        if table == "unit_init":  # w = W / mult, which rounds
            torch.testing.assert_close(now[name], w)
        else:
            assert torch.equal(now[name], w), name


@pytest.mark.parametrize("table", FOR_ADAM)
def test_structure_lives_at_any_width(table: str) -> None:
    width = 4 * BASE
    own, now = prepared(width, table)
    assert now["embedding.weight"][3].abs().max() == 0
    torch.testing.assert_close(now["embedding.weight"], own["embedding.weight"])
    bias = now["lstm.bias_ih_l0"].view(4, width)
    torch.testing.assert_close(bias, torch.tensor([[0.0], [1], [0], [0]]).expand(4, width))
    torch.testing.assert_close(now["A_log"], own["A_log"])
    torch.testing.assert_close(now["diagonal.weight"], own["diagonal.weight"])
    q, _, v = now["qkv.weight"].chunk(3)
    assert v.std() / q.std() == pytest.approx(50, rel=0.1)
    w = now["orthogonal.weight"]
    torch.testing.assert_close(w @ w.T, torch.eye(width), atol=1e-4, rtol=0)
    assert (now["sparse.weight"] == 0).float().mean() == 0.5
    rows = now["repeated.weight"].view(width, 4, width)
    assert torch.equal(rows[:, :1].expand_as(rows), rows)


def test_every_scale_is_that_of_the_table() -> None:
    _, now = prepared(4 * BASE)
    std = {name: w.std().item() for name, w in now.items()}
    assert std["repeated.weight"] == pytest.approx(4**-0.5, rel=0.1)  # of constant std, too large
    assert std["lstm.weight_hh_l0"] == pytest.approx((3 * 4 * BASE) ** -0.5, rel=0.02)
    assert std["readout.weight"] == pytest.approx((3 * BASE) ** -0.5 / 4, rel=0.1)
    assert std["sparse.weight"] == pytest.approx((8 * BASE) ** -0.5, rel=0.2)


def test_values_of_a_constructor_that_skips_the_meta_device_are_measured() -> None:
    """As torch's `trunc_normal_` does."""

    class Skips(nn.Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, width)
            nn.init.normal_(self.weight)
            if not self.weight.is_meta:
                nn.init.normal_(self.weight, std=0.02)

    _, now = prepared(8 * BASE, build=Skips)
    assert now["weight"].std().item() == pytest.approx(0.02 * 8**-0.5, rel=0.1)


LOADED = {"weight": torch.randn(4 * BASE, 4 * BASE), "bias": torch.randn(4 * BASE)}


class Adapted(nn.Module):
    """A loaded layer, a frozen one and a low-rank update of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.loaded = nn.Linear(width, width)
        state = {"weight": LOADED["weight"][:width, :width], "bias": LOADED["bias"][:width]}
        self.loaded.load_state_dict(state)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.A = nn.Linear(width, 2, bias=False)
        self.B = nn.Linear(2, width, bias=False)
        nn.init.zeros_(self.B.weight)
        self.readout = nn.Linear(width, 3)


@pytest.mark.parametrize("table", FOR_ADAM)
def test_frozen_and_loaded_tensors_are_kept(table: str) -> None:
    own, now = prepared(4 * BASE, table, Adapted)
    for name in ("loaded.weight", "loaded.bias", "frozen.weight", "frozen.bias", "B.weight"):
        torch.testing.assert_close(now[name], own[name])
    infos = mupl.describe(Adapted, 4 * BASE, BASE)
    assert infos.warnings == [
        "kept as the model made them, since they are frozen or hold given values: "
        "'loaded.weight', 'loaded.bias', 'frozen.weight' and 1 more; say init= for those to draw"
    ]
    scales = mupl.scale(infos, table, "adam", lr=0.1)
    table_rows = {row["name"]: row["init"] for row in scale_rows(infos, scales)}
    assert table_rows["loaded.weight"] == table_rows["frozen.bias"] == "kept"


def test_what_is_kept_can_be_said() -> None:
    own, now = prepared(4 * BASE, "unit_init", keep=["orthogonal.*", "readout.weight"])
    for name in ("orthogonal.bias", "readout.weight"):
        torch.testing.assert_close(now[name], own[name])
    with pytest.raises(mupl.ConfigError, match="keep: 'reedout' matches none of"):
        mupl.describe(Odd, 32, BASE, keep=["reedout"])


def test_a_copy_can_be_initialised_without_harm_to_the_original() -> None:
    infos = mupl.describe(Odd, 32, BASE)
    first, second = (mupl.scale(infos, name, "adam", lr=0.1) for name in ("unit_init", "mup"))
    model = mupl.initialize_(Odd(32), first)
    before = effective(model, first)
    other = mupl.initialize_(copy.deepcopy(model), second)
    for name, w in effective(model, first).items():
        assert torch.equal(w, before[name])
    for name, w in effective(other, second).items():  # both are muP
        torch.testing.assert_close(w, before[name])


def test_a_seed_of_a_setup_is_that_of_the_model_it_builds() -> None:
    torch.manual_seed(3)
    expected = Odd(BASE)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="kept as the model made them"):
        setup = mupl.Setup(Odd, BASE, base_width=BASE, lr=0.1, seed=3)
    for name, w in expected.named_parameters():
        assert torch.equal(setup.model.get_parameter(name), w)
    assert torch.equal(torch.get_rng_state(), state)


def fill_by(fill: Callable[[Tensor], object]) -> bool:
    """Whether the values of a tensor that is filled so are seen to be random."""

    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            fill(layer.weight)
        return layer

    _, fills = build_watched(build)
    assert fills["weight"].initializer is None
    return fills["weight"].random


def test_random_values_are_told_from_given_ones() -> None:
    assert fill_by(lambda w: w.copy_(torch.linalg.qr(torch.randn(4, 4))[0]))
    assert fill_by(lambda w: w.copy_(torch.randn(4, 4) * torch.ones(4)))
    assert fill_by(lambda w: w.copy_(-torch.rand(4, 4)))
    assert fill_by(lambda w: w.bernoulli_())
    assert fill_by(lambda w: w[0].normal_())
    assert fill_by(lambda w: w.copy_(torch.cat([torch.randn(2, 4), torch.zeros(2, 4)])))
    assert not fill_by(nn.init.eye_)
    assert not fill_by(lambda w: w.copy_(torch.arange(16.0).view(4, 4)))
    assert not fill_by(lambda w: w.copy_(torch.tensor([1.0, 2, 3, 4])))
    assert not fill_by(lambda w: w.zero_()[1].fill_(1))


def test_zeros_in_a_part_leave_the_distribution_of_the_rest() -> None:
    _, fills = build_watched(lambda: nn.Embedding(5, 4, padding_idx=0))
    assert fills["weight"].initializer == Initializer("normal", 0.0, 1.0)


def test_a_coordinate_check_lets_frozen_and_kept_tensors_be() -> None:
    def build(width: int) -> nn.Module:
        layers = [nn.Linear(n, width, bias=False) for n in (8, width, width)]
        layers[0].requires_grad_(False)
        nn.init.eye_(layers[1].weight)
        readout = nn.Linear(width, 3, bias=False)
        nn.init.zeros_(readout.weight)
        return nn.Sequential(layers[0], layers[1], nn.Tanh(), layers[2], nn.Tanh(), readout)

    batches = [(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)]
    with pytest.warns(UserWarning, match="kept as the model made them"):
        rows = mupl.coord_check(build, [64, 128, 256], batches * 3, base_width=64, lr=0.003)
    table = mupl.verdict(rows)
    judged = set(table["name"])
    assert (table["verdict"] == "pass").all(), table[table["verdict"] != "pass"]
    assert {"3.weight", "5.weight", "3", "5"} <= judged
    assert table.query("name == '0.weight' and kind == 'update'")["zero"].all()

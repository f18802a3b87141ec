"""Coordinate checks of other people's models: no false alarms, and `mupl check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl
from mupl.cli import main
from mupl.stats.attention import AttentionHooks
from mupl.training.random_data import random_batches
from tests.models import dicts, loss_of_dict, perceptron

WIDTHS = (32, 64, 128, 256)


def tokens(count: int, low: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(low, 11, (count, 2, 8, 8), generator=generator)
    return [(x, y) for x, y in drawn]


def judged(build: Callable[..., nn.Module], batches: Any, **options: Any) -> pd.DataFrame:
    """The verdict on a model at a small learning rate."""
    defaults = {"widths": WIDTHS, "seeds": range(5), "lr": 0.004, "optimizer": "adam"}
    arguments = defaults | options
    widths = arguments.pop("widths")
    return mupl.verdict(mupl.coord_check(build, widths, batches, base_width=widths[0], **arguments))


def failures(table: pd.DataFrame) -> set[tuple[str, str]]:
    failed = table[table["verdict"] == "fail"]
    return set(zip(failed["kind"], failed["name"], strict=True))


class Encoder(nn.Module):
    """A vision transformer in small: class token, torch's attention, biases of keys, dict out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.embedding = nn.Linear(6, width)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.block = nn.TransformerEncoderLayer(width, width // 8, 2 * width, **options)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.class_token.expand(len(x), -1, -1)
        h = torch.cat([first, self.embedding(x)], dim=1)
        return {"hidden": h, "logits": self.head(self.block(h)[:, 0])}


class Gated(nn.Module):
    """Branches behind a gain and a layer that start at 0, an adapter and a frozen layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(6, width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.down = nn.Linear(width, 4, bias=False)
        self.up = nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.up.weight)
        self.branch = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.zeros(width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embedding(x))
        h = h + self.frozen(h) + self.up(self.down(h))
        h = h + self.gain * torch.tanh(self.branch(h))
        return self.head(torch.tanh(h))


def patches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(16, 4, 6, generator=generator) for _ in range(3)]
    return [(inputs, inputs[:, 0, :5].argmax(-1)) for inputs in x]


def test_what_a_model_returns_and_its_attention_logits_are_judged() -> None:
    table = judged(Encoder, patches(), seeds=range(3))
    assert failures(table) == set()
    seen = set(zip(table["kind"], table["name"], strict=True))
    assert ("logits", "model output") in seen
    assert ("attention_logits", "block.self_attn") in seen
    assert ("output", "") not in seen  # the class token does not make what the model returns
    assert (table["verdict"] == "pass").mean() > 0.75
    wrong = failures(judged(Encoder, patches(), seeds=range(2), parametrization="sp"))
    assert ("logits", "model output") in wrong
    assert ("update", "block.linear1.weight") in wrong


def test_what_has_no_signal_is_not_judged() -> None:
    batches = [(x[:, 0], y) for x, y in patches()]
    with pytest.warns(UserWarning, match="kept as the model made them"):
        table = judged(Gated, batches, seeds=range(3))
    assert failures(table) == set()
    silent = table[(table["t"] == 0) & (table["kind"] == "update")].set_index("name")
    for name in ("branch.weight", "down.weight"):
        assert silent.loc[name, "verdict"] == "not judged"
        assert silent.loc[name, "reason"].startswith("no signal: it is 0")
    later = table[(table["t"] == 2) & (table["kind"] == "update")].set_index("name")
    assert set(later.loc[["branch.weight", "down.weight"], "verdict"]) == {"pass"}


def growing_attention(width: int) -> nn.Module:
    """Logits of two growing heads by 1/sqrt(d_head), which grow as soon as q and k are aligned."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(width, width, bias=False)
            self.k = nn.Linear(width, width, bias=False)
            self.embedding = nn.Embedding(11, width)
            self.head = nn.Linear(width, 11, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embedding(x)
            weights = (width**-0.5 * self.q(h) @ self.k(h).mT).softmax(-1)
            return self.head(h + weights @ h)

    return Attention()


def test_attention_logits_that_grow_are_named() -> None:
    batches = tokens(1) * 6
    table = judged(growing_attention, batches, seeds=range(3), lr=0.05)
    failed = table[(table["verdict"] == "fail") & (table["kind"] == "attention_logits")]
    assert set(failed["name"]) == {""}
    assert "divide them by d_head" in failed["reason"].iloc[0]


def test_attention_logits_are_the_same_by_every_path_and_without_masked_ones() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 5, 4, dtype=torch.float64)
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = (q @ k.mT / 2)[past.expand(2, 3, 5, 5)]
    additive = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~past, -torch.inf)
    paths = [
        lambda: F.scaled_dot_product_attention(q, k, k, is_causal=True),
        lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=past),
        lambda: F.scaled_dot_product_attention(2 * q, k, k, additive[None, None], scale=0.25),
        lambda: F.softmax(q @ k.mT / 2 + additive, dim=-1),
        lambda: torch.softmax(q @ k.mT / 2 + additive, -1),
        lambda: (q @ k.mT / 2 + additive).softmax(dim=-1),
    ]
    for path in paths:

        class Layer(nn.Module):
            def forward(self) -> Tensor:
                return path()  # noqa: B023

        layer = Layer()
        before = F.softmax, torch.Tensor.softmax
        hooks = AttentionHooks(layer)
        hooks.start()
        layer()
        torch.testing.assert_close(hooks.stop()[""], expected)
        hooks.remove()
        assert before == (F.softmax, torch.Tensor.softmax)


def test_attention_that_is_not_seen_is_said() -> None:
    class OddAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Embedding(11, width), OddAttention(), nn.Linear(width, 11))

    with pytest.warns(UserWarning, match=r"attention logits of \* are not looked at"):
        judged(build, tokens(1), widths=(8, 16), seeds=[0])


def test_a_step_of_one_s_own_is_taken() -> None:
    ours = judged(perceptron, dicts(), widths=(32, 64), seeds=[0], step=loss_of_dict)
    pairs = [tuple(batch.values()) for batch in dicts()]
    pd.testing.assert_frame_equal(ours, judged(perceptron, pairs, widths=(32, 64), seeds=[0]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input": torch.ones(2, 8)}, "batches: the model returns no loss for a dict"),
        (torch.ones(2, 8), r"batches: each must be \(x, target\) or a dict; say step="),
    ],
)
def test_batches_without_an_obvious_loss_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(mupl.ConfigError, match=message):
        judged(perceptron, [batch], widths=(8, 16), seeds=[0])


def test_random_batches_follow_from_the_first_layer_and_the_output() -> None:
    def regression(width: int) -> nn.Module:
        return nn.Sequential(nn.Embedding(5, width), nn.Linear(width, 1))

    ((x, target),), loss = random_batches(regression, 8, steps=1)
    assert (x.max().item(), x.shape, target.shape) == (4, (8, 8), (8, 8, 1))
    assert loss is F.mse_loss


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


WIDE = ("tests.models:perceptron", "--widths", "64,128,256", "--seeds", "3", "--lr", "0.003")


def test_a_base_width_of_0_is_refused() -> None:
    with pytest.raises(SystemExit, match="base_width=0: must be a whole number >= 1"):
        main(["check", *WIDE, "--base-width", "0"])


def test_mupl_check_passes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *WIDE, "--figure", str(tmp_path / "check.png"))
    assert code == 0, out
    assert "coordinate check of tests.models:perceptron, mup: " in out
    assert (tmp_path / "check.png").stat().st_size > 10_000


def test_mupl_check_fails_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *WIDE, "--parametrization", "sp")
    assert code == 1
    assert "the update of 2.weight goes as width^" in out
    assert "its learning rate is too large by width^" in out
    assert "fail: slopes of log2(mean |x|) against log2(width)" in out


def test_mupl_check_takes_data_and_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    own = ("--data", "tests.models:dicts", "--step", "tests.models:loss_of_dict", "--steps", "2")
    code, out, _ = run(capsys, *WIDE, *own)
    assert code == 0, out
    assert "of 33 tensors, kinds and steps pass" in out


def stock(name: str) -> tuple[Callable[..., nn.Module], dict[str, str]]:
    """A model of tests/test_other_models.py with its roles."""
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    from tests import test_other_models

    build = getattr(test_other_models, name)
    return build, test_other_models.ROLES[build]


class Pointwise(nn.Module):
    """Layers that see each position of an image alone, and so more examples than channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.second = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(torch.tanh(self.first(x)))
        return self.head(torch.tanh(h).mean((2, 3)))


def test_a_check_sees_which_modules_return_images() -> None:
    batches = stock_batches("convnext")
    sizes = {"widths": (32, 64), "base_width": 32, "seeds": range(2)}
    rows = mupl.coord_check(Pointwise, batches=batches, optimizer="adam", lr=0.004, **sizes)
    table = mupl.verdict(rows)
    assert failures(table) == set(), table[table["verdict"] == "fail"].to_string()
    parts = table[table["kind"] == "effective"].set_index("name")["low"]
    assert set(parts["second"]) == {-0.5}
    assert set(parts["head"]) == {0.0}


def stock_batches(name: str) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    if name in ("vit", "convnext"):
        size = 8 if name == "vit" else 32
        x = [torch.randn(16, 3, size, size, generator=generator) for _ in range(3)]
        return [(images, torch.randint(5, (16,), generator=generator)) for images in x]
    return [{"input_ids": x, "labels": y} for x, y in tokens(3, low=1)]


def check_stock(name: str, **options: Any) -> None:
    build, roles = stock(name)
    batches = stock_batches(name)
    right = judged(build, batches, roles=roles, **options)
    assert failures(right) == set(), right[right["verdict"] == "fail"].to_string()
    assert (right["verdict"] == "pass").mean() > 0.85
    few = options | {"seeds": range(2)}
    wrong = judged(build, batches, roles=roles, parametrization="sp", **few)
    assert ("logits", "model output") in failures(wrong)
    slopes = wrong[(wrong["kind"] == "logits") & (wrong["t"] > 0)]["slope"]
    assert slopes.max() >= 0.3


def test_a_model_that_nobody_here_wrote_passes_and_fails_under_sp() -> None:
    check_stock("gpt2", widths=(32, 64, 128), seeds=range(3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:kept as the model made them")  # A_log, a bias of BERT
@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bert", "mamba", "vit", "convnext"])
def test_models_that_nobody_here_wrote_pass_and_fail_under_sp(name: str) -> None:
    check_stock(name)

"""Attention whose heads grow, in models that nobody here wrote, has logits that do not grow."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl
from mupl.models import GPT
from mupl.nn.insertions import inserted
from mupl.roles import InsertionKind, MultiplierRole
from mupl.roles.infos import Infos
from tests.foreign import (
    ROLES,
    Encoder,
    gpt2,
    llama,
    output,
    qwen3,
    t5,
    timm_vit,
    torchvision_vit,
    vit,
)

BUILDS = [llama, t5, gpt2, Encoder, timm_vit, torchvision_vit]
Build = Callable[..., nn.Module]


def name_of(build: Build) -> str:
    return build.__name__


def attention_of(infos: Infos) -> dict[str, Any]:
    return {n: info for n, info in infos.items() if info.row == MultiplierRole.ATTENTION}


def initialised(build: Build, width: int, base: int, table: str = "mup", seed: int = 0) -> tuple:
    infos = mupl.describe(build, width, base, roles=ROLES.get(build))
    scales = mupl.scale(infos, table, "adam", lr=0.004)
    torch.manual_seed(seed)
    return infos, scales, mupl.initialize_(build(width), scales)


def logits_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Run a model and return its attention logits, in a row."""
    found = []
    fused = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *others: Any, scale: Any = None, **kw: Any) -> Tensor:
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        found.append((factor * q @ k.mT).detach().flatten())
        return fused(q, k, v, *others, scale=scale, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spy)
        output(model)
    assert found
    return torch.cat(found)


def change_of_logits(
    build: Build, width: int, monkeypatch: pytest.MonkeyPatch, without: bool = False
) -> float:
    """Return the mean change of attention logits in three steps of Adam, of two seeds."""
    changes = []
    for seed in range(2):
        _, scales, model = initialised(build, width, 32, seed=seed)
        if without:
            kept = {name: scale for name, scale in scales.items() if "attention_scale" not in name}
            torch.manual_seed(seed)
            scales, model = kept, mupl.initialize_(build(width), kept)
        optimizer = torch.optim.Adam(mupl.param_groups(model, scales))
        before = logits_of(model, monkeypatch)
        target = torch.arange(output(model).numel() // 11) % 11
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(output(model).view(-1, 11), target).backward()
            optimizer.step()
        changes.append((logits_of(model, monkeypatch) - before).abs().mean().item())
    return sum(changes) / 2


@pytest.mark.parametrize("build", BUILDS, ids=name_of)
def test_logits_of_growing_heads_do_not_grow(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (change_of_logits(build, width, monkeypatch) for width in (32, 256))
    assert large < 1.15 * small
    without = change_of_logits(build, 256, monkeypatch, without=True)
    assert without > 2 * large  # 8^1/2, as 1/d_head over d_head^-1/2 says; of T5, 8


@pytest.mark.parametrize("build", [*BUILDS, qwen3, vit], ids=name_of)
def test_the_factor_is_that_of_the_rule(build: Build) -> None:
    infos, scales, model = initialised(build, 64, 16)
    found = attention_of(infos)
    assert found
    assert infos.warnings == []
    for name, info in found.items():
        assert info.m_in == 4
        assert scales[name].mult == info.value / 4
        factor = 1 / 4 if build is t5 else 1 / 2  # T5 has no d_head^-1/2 of its own
        assert inserted(model, info.insertion) == pytest.approx(factor)
        assert name.startswith(info.insertion.module.rpartition(".")[0])


@pytest.mark.parametrize("build", [*BUILDS, qwen3, vit], ids=name_of)
def test_at_the_base_width_it_is_the_stock_model(build: Build) -> None:
    _, _, model = initialised(build, 16, 16)
    torch.manual_seed(0)
    stock = build(16)
    assert model.state_dict().keys() == stock.state_dict().keys()
    assert repr(model) == repr(stock)
    assert torch.equal(output(model.eval()), output(stock.eval()))


@pytest.mark.parametrize("build", [gpt2, llama, Encoder, timm_vit], ids=name_of)
def test_more_heads_of_one_size_need_nothing(build: Build) -> None:
    def more_heads(width: int) -> nn.Module:
        if build is Encoder:
            return nn.TransformerEncoderLayer(width, width // 8, 2 * width)
        if build is timm_vit:
            return timm_vit(width).blocks[0].attn.__class__(width, num_heads=width // 8)
        return build(width, d_head=8)

    infos = mupl.describe(more_heads, 64, 16)
    assert attention_of(infos) == {}
    assert infos.warnings == []


def test_multihead_attention_is_that_of_scaled_queries() -> None:
    for options in ({}, {"kdim": 6, "vdim": 6}, {"bias": False}):

        def build(width: int, options: Any = options) -> nn.Module:
            return nn.MultiheadAttention(width, 2, batch_first=True, **options).double()

        _, scales, model = initialised(build, 32, 8)
        stock = copy.deepcopy(build(32))
        state = {n: w for n, w in model.state_dict().items() if "_extra_state" not in n}
        stock.load_state_dict(state)
        factor = scales["attention_scale"].inserted
        with torch.no_grad():
            if stock.q_proj_weight is not None:
                stock.q_proj_weight *= factor
            else:
                stock.in_proj_weight[:32] *= factor
            if stock.in_proj_bias is not None:
                stock.in_proj_bias.normal_()
                model.in_proj_bias.copy_(stock.in_proj_bias)
                stock.in_proj_bias[:32] *= factor
        q = torch.randn(2, 3, 32, dtype=torch.float64)
        k = torch.randn(2, 5, model.kdim, dtype=torch.float64)
        torch.testing.assert_close(model(q, k, k), stock(q, k, k))
        assert "in_proj_weight" not in vars(model)  # no trace is left


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_queries_of_timm_are_scaled_after_their_norm(norm: bool, fused: bool) -> None:
    def build(width: int) -> nn.Module:
        model = timm_vit(width, qk_norm=norm).double()
        model.blocks[0].attn.fused_attn = fused
        return model

    infos = mupl.describe(build, 32, 8, roles=ROLES[timm_vit])
    ((name, info),) = attention_of(infos).items()
    assert info.insertion.kind is InsertionKind.OUTPUT
    assert info.insertion.module.endswith("q_norm" if norm else "qkv")
    scales = mupl.scale(infos, "mup", "adam", lr=0.1)
    attention = mupl.initialize_(build(32), scales).blocks[0].attn
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    q, k, v = attention.qkv.forward(x).view(2, 5, 3, 2, 16).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm.forward(q), attention.k_norm(k)
    y = F.scaled_dot_product_attention(q, k, v, scale=scales[name].mult)
    expected = attention.proj(y.transpose(1, 2).reshape(2, 5, 32))
    torch.testing.assert_close(attention(x), expected)


def test_standard_parametrization_puts_nothing_where_the_model_divides_by_the_root() -> None:
    _, scales, model = initialised(Encoder, 64, 16, "sp")
    name = "encoder.layers.0.self_attn.attention_scale"
    assert scales[name].inserted == 1
    assert name not in dict(model.named_modules())


@pytest.mark.parametrize("build", [llama, Encoder, timm_vit], ids=name_of)
def test_models_copy_pickle_and_know_their_scale(build: Build) -> None:
    _, scales, model = initialised(build, 64, 32)
    before = output(model.eval())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(other), before)
        mupl.param_groups(other, scales)
    _, other_scales, other = initialised(build, 64, 16)
    with pytest.raises(mupl.ConfigError, match="it was saved under the multiplier"):
        other.load_state_dict(model.state_dict())
    with pytest.raises(mupl.ConfigError, match="initialize_"):
        mupl.param_groups(model, other_scales)
    _, _, at_base = initialised(build, 64, 64)
    with pytest.raises(RuntimeError, match=r"(attention|output)_scale"):
        at_base.load_state_dict(model.state_dict())


def test_initialising_again_puts_the_new_scale() -> None:
    for build in (llama, Encoder, timm_vit):
        _, scales, model = initialised(build, 64, 16)
        _, others, fresh = initialised(build, 64, 32)
        again = mupl.initialize_(copy.deepcopy(model), others)
        mupl.param_groups(again, others)
        name = next(name for name in scales if "attention_scale" in name)
        place = others[name].insertion
        assert inserted(again, place) == inserted(fresh, place) != inserted(model, place)


@pytest.mark.parametrize("build", [llama, Encoder, timm_vit], ids=name_of)
def test_models_compile_and_export(build: Build) -> None:
    _, _, model = initialised(build, 64, 16)
    expected = output(model.eval())
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.arange(16).view(2, 8) % 11
    if build is timm_vit:
        x = torch.randn(2, 3, 8, 8)
    else:
        expected = expected.detach()
        torch.testing.assert_close(_logits(compiled(x)), expected)
    if build is not llama:  # transformers export in a way of their own
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))


def _logits(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.logits


class Unscaled(nn.Module):
    """Attention that divides by nothing, or by a number that is not an attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head_dim = width // 2
        self.q_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (2, -1))
        return (q @ q.mT).softmax(-1)


def test_attention_that_is_not_understood_is_told() -> None:
    infos = mupl.describe(Unscaled, 16, 4)
    (warning,) = infos.warnings
    assert "the size of heads grows with width in ''" in warning
    assert "Multiplier('attention')" in warning
    assert attention_of(infos) == {}


def test_a_models_own_multiplier_is_left_alone() -> None:
    def build(width: int) -> nn.Module:
        return GPT(11, 8, width, depth=1, d_head=None, heads=2)

    infos = mupl.describe(build, 32, 8)
    assert list(attention_of(infos)) == ["blocks.0.attention.scale"]


@pytest.mark.parametrize("build", [llama, t5, Encoder, timm_vit], ids=name_of)
def test_models_and_saved_shapes_say_the_same(build: Build, tmp_path: Path) -> None:
    roles = ROLES.get(build)
    of_builds = mupl.describe(build, 64, 16, roles=roles)
    mupl.shapes(build, 16).save(tmp_path / "base.json")
    of_file = mupl.describe(build, 64, base=tmp_path / "base.json", roles=roles)
    assert attention_of(of_file) == attention_of(of_builds)
    model, base, delta = build(64), build(16), build(32)
    of_models = mupl.describe(model, base=base, delta=delta, roles=roles)
    assert attention_of(of_models) == attention_of(of_builds)
    scales = mupl.scale(of_models, "mup", "adam", lr=0.1)
    mupl.initialize_(model, scales)
    again = mupl.describe(model, base=base, delta=delta, roles=roles)
    assert attention_of(again) == attention_of(of_builds)  # what was inserted is seen

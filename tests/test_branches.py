"""Residual branches of models that nobody here wrote are found and scaled with depth."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl
from mupl.roles import MultiplierRole
from mupl.roles.branches import find_branches
from tests.foreign import (
    ROLES,
    TOKENS,
    Encoder,
    bert,
    gpt2,
    llama,
    mamba,
    mixtral,
    output,
    t5,
    timm,
    timm_vit,
    torchvision,
    torchvision_vit,
    vit,
)

Build = Callable[..., nn.Module]
FOUND = {
    gpt2: ["transformer.h.0.attn", "transformer.h.0.mlp"],
    llama: ["model.layers.0.self_attn", "model.layers.0.mlp"],
    mixtral: ["model.layers.0.self_attn", "model.layers.0.mlp"],
    bert: ["bert.encoder.layer.0.attention.output.dense", "bert.encoder.layer.0.output.dense"],
    t5: [
        "encoder.block.0.layer.0.SelfAttention",
        "encoder.block.0.layer.1.DenseReluDense",
        "decoder.block.0.layer.0.SelfAttention",
        "decoder.block.0.layer.1.EncDecAttention",
        "decoder.block.0.layer.2.DenseReluDense",
    ],
    mamba: ["backbone.layers.0.mixer"],
    vit: ["vit.layers.0.attention", "vit.layers.0.mlp"],
    Encoder: ["encoder.layers.0.self_attn", "encoder.layers.0.linear2"],
    timm_vit: ["blocks.0.attn", "blocks.0.mlp"],
    torchvision_vit: [
        "encoder.layers.encoder_layer_0.self_attention",
        "encoder.layers.encoder_layer_0.mlp",
    ],
}


def name_of(build: Build) -> str:
    return build.__name__


def described(build: Build, width: int, depth: int, base_depth: int = 1, **given: Any) -> Any:
    roles = ROLES.get(build)
    return mupl.describe(build, width, 16, depth=depth, base_depth=base_depth, roles=roles, **given)


def initialised(
    build: Build, width: int, depth: int, table: str = "completep", **given: Any
) -> Any:
    infos = described(build, width, depth, **given)
    scales = mupl.scale(infos, table, "adam", lr=0.002)
    torch.manual_seed(0)
    return infos, scales, mupl.initialize_(build(width, depth=depth), scales).eval()


@pytest.mark.parametrize("build", FOUND, ids=name_of)
def test_branches_are_found(build: Build) -> None:
    infos = described(build, 32, 2)
    found = {n: i for n, i in infos.items() if i.row == MultiplierRole.RESIDUAL}
    for path in FOUND[build]:
        assert f"{path}.output_scale" in found
    assert len(found) == 2 * len(FOUND[build])
    assert all(info.m_L == 2 and info.in_block for info in found.values())
    assert not any("residual" in warning for warning in infos.warnings)


@pytest.mark.parametrize("build", FOUND, ids=name_of)
def test_at_the_base_depth_it_is_the_stock_model(build: Build) -> None:
    _, _, model = initialised(build, 16, 1)
    torch.manual_seed(0)
    stock = build(16, depth=1)
    assert repr(model) == repr(stock)
    assert torch.equal(output(model), output(stock.eval()))


@pytest.mark.parametrize("build", FOUND, ids=name_of)
def test_a_block_adds_the_value_times_its_branch(build: Build) -> None:
    """The stock model with the branches' outputs halved by hand gives the same."""
    _, _, model = initialised(build, 16, 2)
    stock = build(16, depth=2).eval()
    state = {n: w for n, w in model.state_dict().items() if "_extra_state" not in n}
    stock.load_state_dict(state)
    calls = 0

    def halved(module: nn.Module, args: Any, result: Any) -> Any:
        nonlocal calls
        calls += 1
        return (result[0] / 2, *result[1:]) if isinstance(result, tuple) else result / 2

    before = output(stock)
    for path in FOUND[build]:
        for index in ("0", "1"):
            block = path.replace(".0", f".{index}", 1).replace("layer_0", f"layer_{index}")
            stock.get_submodule(block).register_forward_hook(halved)
    torch.testing.assert_close(output(model), output(stock))
    assert calls == 2 * len(FOUND[build])
    assert (output(stock) - before).abs().max() > 1e-6


def test_a_block_is_x_plus_value_times_branch() -> None:
    infos, scales, model = initialised(llama, 16, 4)
    block = model.double().model.layers[1]
    value = scales["model.layers.1.mlp.output_scale"].mult
    assert value == 1 / 4
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    places = model.model.rotary_emb(x, torch.arange(3)[None])
    normed = block.input_layernorm(x)
    attended, _ = type(block.self_attn).forward(block.self_attn, normed, places, None)
    y = x + value * attended
    normed = block.post_attention_layernorm(y)
    expected = y + value * type(block.mlp).forward(block.mlp, normed)
    torch.testing.assert_close(block(x, position_embeddings=places), expected)
    assert infos.warnings == []


class Plain(nn.Module):
    """Blocks whose branches are no children: nothing says what they are."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return x


def test_branches_can_be_named() -> None:
    infos = described(Plain, 16, 2, residual=["layers.*"])
    assert infos["layers.1.output_scale"].m_L == 2
    _, _, model = initialised(Plain, 16, 2, residual=["layers.*"])
    x = torch.randn(3, 16)
    expected = x
    for layer in model.layers:
        expected = expected + (layer.forward(expected) / 2).relu()
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(mupl.ConfigError, match=r"residual: 'blocks.\*' matches none of"):
        described(Plain, 16, 2, residual=["blocks.*"])
    with pytest.raises(mupl.ConfigError, match=r"residual: .* need a depth and a base_depth"):
        mupl.describe(llama, 16, 16, residual=["*mlp"])


def test_branches_that_are_not_found_are_told() -> None:
    with pytest.warns(UserWarning, match="none of its residual branches was found"):
        mupl.Setup(
            Plain, 16, base_width=8, depth=2, base_depth=1, parametrization="completep", lr=0.1
        )

    def build(width: int, depth: int) -> nn.Module:
        return nn.Sequential(Plain(width, depth), Encoder(width, depth).encoder)

    (warning,) = mupl.describe(build, 16, 16, depth=2, base_depth=1).warnings
    assert "no residual branch was found in '0.layers.0', '0.layers.1'" in warning


class Cases:
    """Ways to write a block, and the children that are its branches."""

    class WithinAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(2, 2)
            self.bias = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits = self.q(x) @ x.mT
            logits = logits + self.bias(x)
            return logits.softmax(-1)

    class SecondOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            outputs = self.attention(x, x, x)
            return x + outputs[1]

    class SharedDropout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout()
            self.a = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.dropout(x.roll(1))
            return x + self.dropout(self.a(self.dropout(x)))

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.norm = nn.LayerNorm(2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(x)
            return self.a(h) + F.dropout(self.b(h), 0.1) + x

    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.norm = nn.LayerNorm(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x + self.a(x))
            return self.norm(x + 2.0 * self.b(x).view(2, 2))


@pytest.mark.parametrize(
    ("module", "branches"),
    [
        (Cases.WithinAttention, []),
        (Cases.SecondOutput, []),
        (Cases.SharedDropout, []),
        (Cases.Parallel, ["a", "b"]),
        (Cases.PostNorm, ["a", "b"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_a_branch(module: Any, branches: list[str]) -> None:
    assert find_branches(module()) == branches


def test_blocks_of_images() -> None:
    convnext = timm.create_model("convnext_atto")
    assert find_branches(convnext.stages[0].blocks[0]) == ["drop_path"]
    assert find_branches(torchvision.models.resnet18().layer2[0]) == ["bn2"]
    assert find_branches(timm.create_model("resnet18").layer2[0]) == ["bn2"]
    assert find_branches(torchvision.models.convnext_tiny().features[1][0]) == ["block"]
    assert find_branches(timm_vit(16, init_values=0.1).blocks[0]) == ["ls1", "ls2"]
    mixer = timm.create_model("mixer_s32_224").blocks[0]
    assert find_branches(mixer) == ["mlp_tokens", "mlp_channels"]


def test_models_copy_pickle_and_know_their_branches() -> None:
    _, scales, model = initialised(llama, 16, 2)
    expected = output(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(other), expected)
        mupl.param_groups(other, scales)
    _, _, other = initialised(llama, 16, 2, "depth_mup")
    with pytest.raises(mupl.ConfigError, match=r"saved under the multiplier 0\.5"):
        other.load_state_dict(model.state_dict())


def change_of_stream(build: Build, depth: int, table: str) -> float:
    """Return the mean change of the last block's stream in four steps of Adam."""
    infos = described(build, 32, depth, 2)
    parametrization = mupl.get_parametrization(table)
    scales = mupl.scale(infos, parametrization, "adam", lr=0.004)
    torch.manual_seed(0)
    model = mupl.initialize_(build(32, depth=depth), scales)
    optimizer = torch.optim.Adam(mupl.param_groups(model, scales))

    def stream() -> Tensor:
        return model(TOKENS, output_hidden_states=True).hidden_states[-2].detach()

    before = stream()
    for _ in range(4):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    return (stream() - before).abs().mean().item()


@pytest.mark.parametrize("build", [llama, gpt2], ids=name_of)
def test_the_stream_moves_alike_at_every_depth(build: Build) -> None:
    ratios = {}
    for table in ("mup", "completep"):
        shallow, deep = (change_of_stream(build, depth, table) for depth in (4, 16))
        ratios[table] = deep / shallow
    assert ratios["completep"] < 1.3
    assert ratios["mup"] > 1.8 * ratios["completep"]


def test_models_of_two_depths_say_the_same() -> None:
    infos = mupl.describe(
        llama(32, 4), base=llama(16, 2), delta=llama(24, 2), depth=4, base_depth=2
    )
    found = {name: info for name, info in infos.items() if info.row == MultiplierRole.RESIDUAL}
    assert len(found) == 8
    assert {info.m_L for info in found.values()} == {2}
    assert infos["model.layers.3.self_attn.attention_scale"].m_in == 2

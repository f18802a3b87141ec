"""The plain model of the same function: no hooks, no other keys, saved and loaded as it is."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mupl
from mupl.models import GPT, MLP, ResNet
from tests.foreign import (
    ROLES,
    Encoder,
    bert,
    gpt2,
    llama,
    mamba,
    mixtral,
    output,
    qwen3,
    t5,
    timm_vit,
    torchvision_vit,
    vit,
)

Build = Callable[..., nn.Module]
OPTIONS = {"base_width": 16, "base_depth": 1, "lr": 0.01, "parametrization": "completep"}


def trained(build: Build, **options: Any) -> mupl.Setup:
    """Return a setup whose tensors, biases too, are no longer what they were."""
    found = [roles for known, roles in ROLES.items() if build.__name__.startswith(known.__name__)]
    roles = found[0] if found else None
    setup = mupl.Setup(build, 64, depth=2, roles=roles, **{**OPTIONS, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for w in setup.model.parameters():
            w += 0.1 * torch.randn(w.shape, generator=generator)
    setup.model.eval()
    return setup


def check_plain(plain: nn.Module, stock: nn.Module) -> None:
    """Hold that nothing of ours is left."""
    assert plain.state_dict().keys() == stock.state_dict().keys()
    for module in plain.modules():
        assert not type(module).__module__.startswith(("mupl.nn.scaled", "mupl.nn.insertions"))
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert not [hook for hook in hooks if hook.__module__.startswith("mupl")]
        assert "_own_value_factors" not in vars(module)


def several(build: Build, **options: Any) -> Build:
    def with_options(width: int, depth: int = 1) -> nn.Module:
        return build(width, depth, **options)

    with_options.__name__ = f"{build.__name__} {options}"
    return with_options


PRETRAINED = [
    gpt2,
    several(gpt2, tie_word_embeddings=False),
    several(gpt2, d_head=8),
    llama,
    several(llama, tie_word_embeddings=True),
    several(llama, d_head=8),
    qwen3,
    bert,
    t5,
    several(t5, tie_word_embeddings=False),
    several(t5, d_head=8),
    mamba,
    mixtral,
    vit,
]


@pytest.mark.filterwarnings("ignore:kept as the model made them")
@pytest.mark.parametrize("build", PRETRAINED, ids=lambda build: build.__name__)
def test_saved_and_loaded_it_is_the_same_function(build: Build, tmp_path: Path) -> None:
    setup = trained(build)
    expected = output(setup.model)
    before = copy.deepcopy(setup.model.state_dict())
    plain = setup.fold()
    check_plain(plain, build(64, depth=2))
    torch.testing.assert_close(output(plain), expected, rtol=1e-5, atol=1e-6)
    plain.save_pretrained(tmp_path)
    again, report = type(plain).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(output(again.eval()), expected, rtol=1e-5, atol=1e-6)
    for name, value in setup.model.state_dict().items():  # the model itself is left as it is
        assert torch.equal(value, before[name])


class Recurrent(nn.Module):
    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.readout = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.lstm(self.embedding(tokens))[0])


def plain_gpt(width: int, depth: int = 1, **options: Any) -> nn.Module:
    heads: dict[str, Any] = {"d_head": None, "heads": 2}
    return GPT(11, 8, width, depth=depth, **{**heads, **options})


class ImageViT(nn.Module):
    """A ResNet under a name by which `output` gives it images."""

    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.net = ResNet(3, 11, width, depth=depth)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.filterwarnings("ignore:parametrization=completep. the model has no")
@pytest.mark.parametrize(
    "build",
    [
        Encoder,
        Recurrent,
        timm_vit,
        several(timm_vit, qk_norm=True),
        several(timm_vit, init_values=0.1),
        torchvision_vit,
        plain_gpt,
        several(plain_gpt, qk_norm=True, activation="swiglu", bias=True),
        ImageViT,
    ],
    ids=lambda build: build.__name__,
)
@pytest.mark.parametrize("table", ["completep", "unit_init"])
def test_its_state_goes_into_a_stock_model(build: Build, table: str) -> None:
    setup = trained(build, parametrization=table)
    plain = setup.fold()
    stock = build(64, depth=2).eval()
    check_plain(plain, stock)
    stock.load_state_dict(plain.state_dict())
    torch.testing.assert_close(output(stock), output(setup.model), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output(plain), output(setup.model), rtol=1e-5, atol=1e-6)


def test_a_tied_gpt_gets_a_readout_of_its_own() -> None:
    setup = trained(several(plain_gpt, tied=True))
    plain = setup.fold()
    stock = plain_gpt(64, depth=2, tied=False).eval()
    check_plain(plain, stock)
    assert plain.config == stock.config
    stock.load_state_dict(plain.state_dict())
    torch.testing.assert_close(output(stock), output(setup.model), rtol=1e-5, atol=1e-6)


def test_scaled_linear_and_an_mlp() -> None:
    setup = mupl.Setup(lambda w: MLP(4, 3, w), 32, base_width=8, lr=0.1)
    plain = setup.fold()
    stock = MLP(4, 3, 32)
    check_plain(plain, stock)
    stock.load_state_dict(plain.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(stock(x), setup.model(x))


def test_what_cannot_be_folded_is_refused() -> None:
    class Norm(nn.RMSNorm):
        """A norm without a gain."""

        def __init__(self, size: int, **options: Any) -> None:
            super().__init__(size, elementwise_affine=False)

    setup = trained(several(timm_vit, qk_norm=True, norm_layer=Norm))
    with pytest.raises(mupl.ConfigError, match=r"fold: the multiplier 0\.5 of .*q_norm"):
        setup.fold()


def test_the_plain_model_trains_by_itself() -> None:
    plain = trained(llama).fold()
    output(plain).sum().backward()
    assert all(w.grad is not None for w in plain.parameters())


def test_a_model_that_was_there_already_is_folded() -> None:
    options = {"base": plain_gpt(16, 2), "delta": plain_gpt(32, 2), "lr": 0.01}
    setup = mupl.Setup(plain_gpt(64, 2), **options)
    plain = setup.fold().eval()
    stock = plain_gpt(64, 2).eval()
    stock.load_state_dict(plain.state_dict())
    torch.testing.assert_close(output(stock), output(setup.model.eval()), rtol=1e-5, atol=1e-6)

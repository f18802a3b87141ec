"""Tensors that hold several matrices are cut into these by orthogonal updates."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import mupl
from mupl.data import digits
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import GPT
from mupl.optim.orthogonal import Orthogonal, svd
from mupl.roles.parts import Held, held_matrices
from mupl.stacked.rules import NotStackable
from tests.test_stack import alone, distances, stack_of

SVD = partial(Orthogonal, method="svd", nesterov=False)


class Fused(nn.Module):
    """Three hidden matrices in one tensor, with heads, and one that is stored (in, out)."""

    fused: ClassVar = {"weight": 3}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head_dim = 8
        self.weight = nn.Parameter(torch.randn(3 * width, width) / width**0.5)
        self.stored = Conv1D(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (x @ self.weight.T).chunk(3, -1)
        a, b = self.stored(v).chunk(2, -1)
        return (q * k).tanh() + a * b.tanh()


def build(width: int) -> nn.Module:
    layers = [nn.Linear(64, width), nn.Tanh(), Fused(width), nn.Linear(width, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def setup_of(optimizer: Any = SVD, width: int = 32, **options: Any) -> mupl.Setup:
    with default_dtype(torch.float64):
        arguments: dict[str, Any] = {"base_width": 16, "lr": 0.1}
        return mupl.Setup(build, width, optimizer=optimizer, **arguments | options)


def step(setup: mupl.Setup) -> Mapping[str, tuple[Tensor, Tensor]]:
    """The gradient and the change of each tensor in the first update."""
    before = {name: w.detach().clone() for name, w in setup.model.named_parameters()}
    x = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    setup.model(x).square().mean().backward()
    setup.optimizer().step()
    changes = {}
    for name, w in setup.model.named_parameters():
        assert w.grad is not None
        changes[name] = (w.grad, w.detach() - before[name])
    return changes


@pytest.mark.parametrize(("per", "count"), [("tensor", 1), ("matrix", 3), ("head", 12)])
def test_each_part_gets_singular_values_that_are_alike(per: str, count: int) -> None:
    setup = setup_of(partial(SVD, per=per))
    changes = step(setup)
    g, change = changes["3.weight"]
    for part, moved in zip(g.chunk(count), change.chunk(count), strict=True):
        factor = (len(part) / 32) ** 0.5
        rate = setup.scales["3.weight"].lr
        torch.testing.assert_close(moved, -rate * factor * svd(part), atol=1e-10, rtol=0)
    g, change = changes["3.stored.weight"]
    rate = 0.1 * 2**0.5  # fan_out / fan_in = 2
    torch.testing.assert_close(change, -rate * svd(g), atol=1e-10, rtol=0)


def test_rms_to_rms_norms_of_parts_do_not_change_with_width() -> None:
    for per in ("matrix", "head"):
        sizes = []
        for width in (16, 64):
            scale = setup_of(partial(SVD, per=per), width).scales["3.weight"]
            fan_out = 8 if per == "head" else width
            sizes.append(scale.lr * scale.part_factors[0] * (width / fan_out) ** 0.5)
        assert sizes[0] == pytest.approx(0.1)
        if per == "matrix":  # a head does not grow
            assert sizes[1] == pytest.approx(0.1)


def test_what_holds_several_matrices_is_found() -> None:
    gpt = held_matrices(GPT(11, 8, 16, depth=1, d_head=4, activation="swiglu", group_size=2))
    assert gpt == {
        "blocks.0.attention.query.weight": Held(1, 4),
        "blocks.0.attention.key_value.weight": Held(2, 4),
        "blocks.0.mlp.up.weight": Held(2, 0),
    }
    config = transformers.GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=11, n_positions=8)
    hf = held_matrices(transformers.GPT2LMHeadModel(config))
    assert hf == {"transformer.h.0.attn.c_attn.weight": Held(3, 8)}
    assert held_matrices(nn.MultiheadAttention(8, 2)) == {"in_proj_weight": Held(3, 4)}


def test_queries_keys_and_values_of_gpt2_are_orthogonalised_apart() -> None:

    def build(width: int) -> nn.Module:
        config = transformers.GPT2Config(
            n_embd=width, n_head=width // 8, n_layer=1, vocab_size=11, n_positions=8
        )
        return transformers.GPT2LMHeadModel(config)

    setup = mupl.Setup(build, 32, base_width=16, optimizer="muon", lr=0.1)
    rows = {row["name"]: (row["update_kind"], row["parts"]) for row in setup.table()}
    assert rows["transformer.h.0.attn.c_attn.weight"] == ("orthogonal", "3 x 32")
    assert rows["transformer.h.0.mlp.c_fc.weight"] == ("orthogonal", "")
    optimizer = setup.optimizer()
    w = setup.model.get_parameter("transformer.h.0.attn.c_attn.weight")
    before = w.detach().clone()
    setup.model(torch.arange(8)[None]).logits.square().mean().backward()
    optimizer.step()
    for part in (w.detach() - before).chunk(3, dim=1):
        assert torch.linalg.matrix_norm(part, ord=2).item() == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize("per", ["matrix", "head", "tensor"])
def test_a_stack_cuts_as_a_run_alone_does(per: str) -> None:
    common = {"optimizer": partial(SVD, per=per, scale="keller")}
    members = [
        {"seed": 0, "lr": 0.02, "parametrization": "mup", **common},
        {"seed": 1, "lr": 0.01, "parametrization": "mup_table9", "weight_decay": 0.1, **common},
        {"seed": 0, "lr": 0.02, "parametrization": "unit_init", **common},
    ]
    splits = digits()
    stack = stack_of(build, members, splits, train=30, max_steps=30)
    for i, member in enumerate(members):
        assert max(distances(stack, i, alone(build, member, splits, steps=30))) < 1e-10


def test_members_of_a_stack_are_cut_alike() -> None:
    members = [
        {"seed": 0, "lr": 0.1, "optimizer": partial(SVD, per=per)} for per in ("matrix", "head")
    ]
    with pytest.raises(NotStackable, match=r"3\.weight: members cut it into different matrices"):
        stack_of(build, members, digits())


def test_heads_must_be_known() -> None:
    setup = mupl.Setup(
        lambda w: mupl.models.MLP(6, 3, w),
        16,
        base_width=8,
        optimizer=partial(SVD, per="head"),
        lr=0.1,
    )
    with pytest.raises(ConfigError, match=r"optimizer\.per=head: it is not known which tensors"):
        setup.optimizer()
    with pytest.raises(ConfigError, match=r"optimizer\.per=row: must be one of matrix"):
        setup_of(partial(SVD, per="row"))

"""The transformer: what it computes, its scales in each parametrization, its coordinate checks."""

import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.analysis.coordinates import verdict
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import GPT
from mupl.models.gpt import Experts
from mupl.nn.initialize import initialize_
from mupl.nn.tensors import parameters
from mupl.optim.registry import optimizer_rules, resolve
from mupl.optim.scaling import scale
from mupl.parametrization.exponents import Expected, expected_exponents
from mupl.parametrization.rules import get_parametrization
from mupl.parametrization.tables import TABLES
from mupl.roles import MultiplierRole, Role, describe
from mupl.training.coord_check import coord_check
from mupl.training.setup import Setup
from tests.commands import train

V, T, BASE = 11, 8, 8
small = partial(GPT, V, T, depth=2, d_head=4)

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rmsnorm, swiglu": {"norm": "rmsnorm", "activation": "swiglu", "mlp_ratio": 3},
    "post-norm": {"post_norm": True},
    "learned positions": {"positions": "learned"},
    "tied": {"tied": True},
    "qk-norm": {"qk_norm": True},
    "biases": {"bias": True},
    "grouped": {"group_size": 2},
    "larger heads": {"d_head": None, "heads": 2},
    "no gains": {"norm_gain": False},
    "experts": {"experts": 4},
    "growing experts": {"experts": "width / 4", "bias": True},
    "multipliers": {
        "input_mult": 2.0,
        "attention_mult": 0.5,
        "residual_mult": 0.7,
        "output_mult": 3.0,
    },
}


@pytest.fixture(autouse=True)
def _double() -> Any:
    with default_dtype(torch.float64):
        yield


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention, written out: (heads, T, d)."""
    weights = (scale * q @ k.mT).masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf).softmax(-1)
    return weights @ v


def rotate(x: Tensor) -> Tensor:
    """Rotary positions by complex numbers: (.., T, d)."""
    half = x.shape[-1] // 2
    angle = torch.arange(T)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([turned.real, turned.imag], -1)


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize(("activation", "group"), [("gelu", 1), ("swiglu", 2)])
def test_it_computes_its_formula(activation: str, group: int, post_norm: bool) -> None:
    torch.manual_seed(0)
    model = small(
        16,
        depth=1,
        activation=activation,
        group_size=group,
        post_norm=post_norm,
        attention_mult=0.5,
        residual_mult=0.7,
        input_mult=2.0,
        output_mult=3.0,
        bias=True,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    ids = tokens(T)
    (block,) = model.blocks

    def attention(x: Tensor) -> Tensor:
        q = block.attention.query(x).view(T, 4, 4).transpose(0, 1)
        k, v = (
            block.attention.key_value(x)
            .view(T, 2, 4 // group, 4)
            .permute(1, 2, 0, 3)
            .repeat_interleave(group, 1)
        )
        return block.attention.out(
            attend(rotate(q), rotate(k), v, 0.5 / 2).transpose(0, 1).reshape(T, 16)
        )

    def mlp(x: Tensor) -> Tensor:
        h = block.mlp.up(x)
        return block.mlp.down(F.gelu(h) if activation == "gelu" else F.silu(h[:, :64]) * h[:, 64:])

    x = 2 * model.embedding.weight[ids]
    for norm, function in ((block.attention_norm, attention), (block.mlp_norm, mlp)):
        x = norm(x + 0.7 * function(x)) if post_norm else x + 0.7 * function(norm(x))
    torch.testing.assert_close(model(ids), 3 * model.readout(x if post_norm else model.norm(x)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_inference_are_those_of_training_and_see_no_future(variant: str) -> None:
    torch.manual_seed(0)
    setup = Setup(partial(small, **VARIANTS[variant]), 16, base_width=BASE, lr=0.1)
    model, ids = setup.model, tokens(3, T)
    whole = model.train()(ids)
    model.eval()
    for t in range(1, T + 1):
        torch.testing.assert_close(model(ids[:, :t])[:, -1], whole[:, t - 1])
    torch.testing.assert_close(model(ids[0]), whole[0])  # any leading dimensions
    torch.testing.assert_close(model(ids.view(1, 3, T)), whole[None])


def test_generate_continues_past_the_context_and_is_reproducible() -> None:
    torch.manual_seed(0)
    model = small(16).eval()
    greedy = model.generate(tokens(2, 3), 12, temperature=0)
    assert greedy.shape == (2, 15)
    for t in range(3, 15):
        assert torch.equal(greedy[:, t], model(greedy[:, max(0, t - T) : t])[:, -1].argmax(-1))
    first, second = (
        model.generate(tokens(3), 20, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.shape == (23,)


def test_dropout_acts_in_training_only() -> None:
    model = small(16, dropout=0.5)
    ids = tokens(2, T)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("group", [1, 2])
def test_attention_with_dropout_is_fused_attention_where_nothing_is_dropped(group: int) -> None:
    model = small(16, dropout=1e-12, group_size=group)
    ids = tokens(2, T)
    torch.testing.assert_close(model.train()(ids), model.eval()(ids))


def test_unit_scaled_dropout_keeps_unit_scale_and_attention_its_own() -> None:
    torch.manual_seed(0)
    model = GPT(V, 64, 64, unit_scaling=True, norm_gain=False, dropout=0.4)
    x = torch.randn(64, 64, 64, requires_grad=True)
    y = model.dropout(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn(x.shape))
    assert [y.std().item(), gradient.std().item()] == pytest.approx([1, 1], rel=0.02)
    assert torch.equal(model.eval().dropout(x), x)

    attention, found = model.blocks[0].attention, []
    attention.out.register_forward_hook(lambda module, args, output: found.append(args[0].std()))
    attention.train()(x)
    attention.eval()(x)
    assert found[0].item() == pytest.approx(found[1].item(), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batchnorm"}, "model.norm=batchnorm: must be one of layernorm, rmsnorm"),
        ({"heads": 2}, "model.d_head=4, model.heads=2: give one"),
        ({"d_head": 5}, "model.d_head=5: must be a whole number that divides the width 16"),
        ({"group_size": 3}, "model.group_size=3: must divide the number of heads, 4"),
        ({"d_head": 1}, "model.d_head=1: must be even"),
        ({"tied": True, "zero_readout": True}, "model.zero_readout=true: a tied readout"),
        ({"depth": 0}, "depth=0"),
        ({"init_std": -1}, "model.init_std=-1"),
        ({"dropout": 1.0}, "model.dropout=1.0: must be at least 0 and below 1"),
        ({"experts": 1}, "model.experts=1: must be a whole number >= 2, a text"),
        ({"experts": "width / 16"}, "model.experts=width / 16: must be a whole number >= 2 .at wi"),
        ({"experts": "width / 3"}, "model.experts=width / 3: must be a whole number, and is 5.3"),
        ({"experts": "widht / 4"}, "model.experts=widht / 4: 'widht' is no size here"),
        (
            {"experts": "width / 8", "experts_per_token": 3},
            "model.experts_per_token=3: must be .* from 1 to 2, the number of experts .at width 16",
        ),
        (
            {"experts": 4, "experts_per_token": 5},
            "model.experts_per_token=5: must be .* from 1 to 4",
        ),
        (
            {"experts": 4, "unit_scaling": True, "norm_gain": False},
            "model.experts=4: unit scaling is without; say model.experts=null",
        ),
    ],
)
def test_a_bad_argument_is_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(16, **options)


def test_a_token_goes_through_the_experts_that_its_router_prefers() -> None:
    experts = small(16, experts=4, experts_per_token=2).blocks[0].mlp
    assert isinstance(experts, Experts)
    x = torch.randn(3, T, 16)
    y = experts(x)
    logits = experts.router(x)
    for b, t in itertools.product(range(3), range(T)):
        best = logits[b, t].argsort(descending=True)[:2]
        shares = logits[b, t, best].softmax(0)
        outputs = []
        for e in best:
            hidden = F.gelu(F.linear(x[b, t], experts.networks.up.weight[e]))
            outputs.append(F.linear(hidden, experts.networks.down.weight[e]))
        torch.testing.assert_close(y[b, t], shares[0] * outputs[0] + shares[1] * outputs[1])


def test_experts_that_are_alike_are_one_feed_forward_network() -> None:
    options = {"bias": True, "activation": "swiglu"}
    experts = small(16, experts=3, **options).blocks[0].mlp
    one = small(16, **options).blocks[0].mlp
    for name, w in one.named_parameters():
        nn.init.normal_(w)
        of_experts = experts.networks.get_parameter(name)
        of_experts.data = w.detach().expand_as(of_experts).clone()
    x = torch.randn(2, T, 16)
    torch.testing.assert_close(experts(x), one(x))


def test_roles_of_a_mixture_of_experts_follow_from_its_shapes() -> None:
    mlp = "blocks.0.mlp"
    infos = describe(partial(small, experts=4, bias=True), 16, BASE)
    assert infos[f"{mlp}.router.weight"].role is Role.OUTPUT
    down = infos[f"{mlp}.networks.down.weight"]
    assert (down.role, down.fan_in, down.fan_out, down.m_copies) == (Role.HIDDEN, 64, 16, 1)
    assert (down.copies_grow, infos[f"{mlp}.networks.up.bias"].row) == (False, "input_vector")

    growing = describe(partial(small, experts="width / 4", bias=True), 16, BASE)
    assert growing[f"{mlp}.router.weight"].role is Role.HIDDEN
    for name in ("up.weight", "up.bias", "down.weight", "down.bias"):
        info = growing[f"{mlp}.networks.{name}"]
        assert (info.row, info.m_out) == (infos[f"{mlp}.networks.{name}"].row, 2)
        assert (info.m_copies, info.copies_grow, info.batch_dims) == (2, True, 1)


def losses(
    parametrization: str, optimizer: str, width: int, steps: int = 12, **options: Any
) -> Tensor:
    """Trajectory on sequences that count up by one or by two."""
    tuned: dict[str, Any] = (
        {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1} if optimizer == "adamw" else {"lr": 0.1}
    )
    build = partial(small, **options)
    size = {"width": width, "base_width": BASE, "depth": 2, "base_depth": 2}
    setup = Setup(build, **size, parametrization=parametrization, optimizer=optimizer, **tuned)
    optimizer_ = setup.optimizer()
    found = []
    for step in range(steps):
        start, stride = tokens(4, 1, seed=step), 1 + tokens(4, 1, seed=100 + step) % 2
        ids = (start + stride * torch.arange(T + 1)) % V
        loss = setup.loss(setup.model(ids[:, :-1]), ids[:, 1:])
        optimizer_.zero_grad()
        loss.backward()
        optimizer_.step()
        found.append(loss.detach())
    return torch.stack(found)


UNTIED = ("mup_table3", "sp_full_align", "ntk_full_align")  # embedding and readout differ
FORMULATIONS = ["mup_table3", "mup_table9", "unit_init", "mulinear", "mean_field"]


FAST = [(variant, "adamw") for variant in VARIANTS if variant != "growing experts"]
FAST += [("plain", "sgd"), ("tied", "sgd")]


@pytest.mark.parametrize(
    ("variant", "optimizer"),
    [
        pytest.param(v, name, marks=() if (v, name) in FAST else pytest.mark.slow)
        for v, name in itertools.product(VARIANTS, ("adamw", "sgd"))
    ],
)
def test_formulations_of_mup_follow_one_trajectory(variant: str, optimizer: str) -> None:
    reference = losses("mup", optimizer, 2 * BASE, steps=6, **VARIANTS[variant])
    assert reference[-1] < reference[0]
    for name in FORMULATIONS:
        if (variant, name) != ("tied", "mup_table3"):
            other = losses(name, optimizer, 2 * BASE, steps=6, **VARIANTS[variant])
            torch.testing.assert_close(other, reference, atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_at_the_base_width_every_parametrization_is_the_standard_one(
    optimizer: str, tied: bool
) -> None:
    reference = losses("sp", optimizer, BASE, steps=6, tied=tied)
    for name in TABLES:
        if name.startswith("umup"):  # absolute
            continue
        if not (tied and name in UNTIED) and (name, optimizer) != (
            "cerebras",
            "sgd",
        ):
            torch.testing.assert_close(
                losses(name, optimizer, BASE, steps=6, tied=tied), reference, atol=1e-10, rtol=0
            )


@pytest.mark.parametrize("update_kind", ["sgd", "adam"])
def test_tied_embeddings_need_equal_rows_of_embedding_and_readout(update_kind: str) -> None:
    infos = describe(partial(small, tied=True), 32, BASE)
    assert "readout.weight" not in infos
    expected = {
        "mup": 1 / 4,
        "mup_table9": 1 / 4,
        "unit_init": 1 / 4,
        "mulinear": 1 / 4,
        "sp": 1 / 2,
        "ntk": 1 / 2,
    }
    for name, factor in expected.items():
        numbers = scale(infos, get_parametrization(name), update_kind, lr=0.1)
        assert numbers["readout"].mult == pytest.approx(factor * BASE**-0.5), name
    for name in UNTIED:
        with pytest.raises(
            ConfigError,
            match=rf"model.tied=true: parametrization={name} scales the lr of an embedding",
        ):
            scale(infos, get_parametrization(name), update_kind, lr=0.1)


def test_a_tied_readout_has_the_rows_of_its_embeddings_family() -> None:
    infos = describe(partial(small, tied=True), 32, BASE)
    numbers = scale(
        infos, get_parametrization("mup_table9"), optimizer_rules(resolve("muon")), lr=0.1
    )
    assert [numbers[n].update_kind for n in ("embedding.weight", "blocks.0.mlp.up.weight")] == [
        "adam",
        "orthogonal",
    ]
    assert numbers["readout"].mult == pytest.approx(BASE**-0.5 / 4)


@pytest.mark.parametrize(
    ("heads", "name", "factor"),
    [
        ({"d_head": 4}, "sp", 1 / 2),
        ({"d_head": 4}, "mup", 1 / 2),
        ({"d_head": None, "heads": 2}, "sp", 1 / 4),
        ({"d_head": None, "heads": 2}, "mup", 1 / 8),
    ],
)
def test_attention_scale_by_the_way_in_which_attention_grows(
    heads: dict, name: str, factor: float
) -> None:
    """Base: d_head = 4; at width 32, eight heads of 4 or two heads of 16."""
    build = partial(small, **heads)
    numbers = scale(describe(build, 32, BASE), get_parametrization(name), "adam", lr=0.1)
    assert numbers["blocks.1.attention.scale"].mult == pytest.approx(factor)
    model = initialize_(build(32), numbers, seed=0)
    assert model.blocks[1].attention.scale.value == pytest.approx(factor)
    assert set(parameters(model, numbers)) == {name for name, _ in build(32).named_parameters()}


def test_roles() -> None:
    infos = describe(partial(small, bias=True, positions="learned", qk_norm=True), 32, BASE)
    roles = {
        name.removeprefix("blocks.0."): info.role
        for name, info in infos.items()
        if "blocks.1" not in name
    }
    assert {n for n, r in roles.items() if r is Role.HIDDEN} == {
        f"{n}.weight"
        for n in ("attention.query", "attention.key_value", "attention.out", "mlp.up", "mlp.down")
    }
    assert [n for n, r in roles.items() if r is Role.OUTPUT] == ["readout.weight"]
    assert {n for n, r in roles.items() if r is Role.SCALAR} == {
        f"attention.{n}_norm.{leaf}" for n in ("query", "key") for leaf in ("weight", "bias")
    }
    assert {"embedding.weight", "positions.weight", "attention_norm.weight", "mlp.up.bias"} <= {
        n for n, r in roles.items() if r is Role.INPUT
    }
    assert [roles[n] for n in ("attention.scale", "mlp_residual")] == [
        MultiplierRole.ATTENTION,
        MultiplierRole.RESIDUAL,
    ]


def test_a_factor_has_no_role_to_give_a_tensor() -> None:
    with pytest.raises(
        ConfigError, match="roles=tied: must be one of input, hidden, output, scalar"
    ):
        describe(small, 16, BASE, roles={"embedding.weight": "tied"})


def check(
    along: str = "width", parametrization: Any = "mup", **options: Any
) -> set[tuple[str, str]]:
    """(kind, name) of what fails.

    In width: 64 to 256 unless told otherwise, with 2 blocks; in depth: width 32 with 4 to 16
    blocks, the base being 2. Few tokens, so that what an update adds to the logits for its own
    tokens exceeds others' noise.
    """
    generator = torch.Generator().manual_seed(0)
    start, stride = (
        torch.randint(8, (2, 1), generator=generator),
        torch.randint(1, 4, (2, 1), generator=generator),
    )
    ids = (start + stride * torch.arange(9)) % 8
    widths = options.pop("widths", (64, 128, 256))
    sizes: dict[str, Any] = {"widths": widths, "base_width": 64}
    seeds = range(options.pop("seeds", 3))
    if along == "depth":
        sizes = {"widths": [32], "base_width": 32, "depths": (4, 8, 16), "base_depth": 2}
    module = {"optimizer": options.pop("optimizer", "adam"), "lr": options.pop("lr", 0.01)}
    depth = {"depth": 2} if along == "width" else {}
    build = partial(GPT, 8, 8, **({"d_head": 32} | depth | options))
    rows = coord_check(
        build,
        batches=[(ids[:, :-1], ids[:, 1:])] * 3,
        seeds=seeds,
        parametrization=parametrization,
        **module,
        **sizes,
    )
    table = verdict(rows, along=along)
    failed = table[table["verdict"] == "fail"]
    return set(zip(failed["kind"], failed["name"], strict=True))


GROWING: dict[str, dict[str, Any]] = {
    "more heads": {"zero_readout": True},
    "larger heads": {"zero_readout": True, "d_head": None, "heads": 2, "attention_mult": 0.125},
    "tied": {"tied": True},
    "muon": {
        "optimizer": "muon",
        "lr": 0.02,
        "zero_readout": True,
        "widths": (64, 128, 256, 512),
    },
    "u-muP": {
        "parametrization": get_parametrization("umup").width_only(),
        "unit_scaling": True,
        "norm_gain": False,
        "zero_readout": True,
        "lr": 0.3,
    },
    "all else": {
        "zero_readout": True,
        "bias": True,
        "positions": "learned",
        "activation": "swiglu",
        "norm": "rmsnorm",
        "qk_norm": True,
        "post_norm": True,
        "group_size": 2,
    },
}


SLOW = ("muon", "more heads")  # "all else" has more heads too


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in GROWING],
)
def test_the_coordinate_check_in_width_passes_under_mup(variant: str) -> None:
    assert check(**GROWING[variant]) == set()


def test_the_coordinate_check_in_width_fails_under_sp() -> None:
    failed = check(parametrization="sp", zero_readout=True, seeds=2)
    assert {
        ("output", "readout"),
        ("output", "blocks.1.mlp_residual"),
        ("update", "blocks.0.mlp.up.weight"),
    } <= failed


def test_attention_by_the_root_of_a_growing_head_is_caught() -> None:
    wrong = get_parametrization("mup", {"*.attention.scale": {"mult": "m_in^-1/2"}})
    assert check(parametrization=wrong, seeds=2, **GROWING["larger heads"]) >= {
        ("output", f"blocks.{block}.attention.scale") for block in (0, 1)
    }


@pytest.mark.parametrize(
    ("heads", "low"), [({"d_head": 4}, 0.0), ({"d_head": None, "heads": 2}, -0.5)]
)
def test_attention_logits_must_not_grow_and_are_independent_at_the_start_where_heads_grow(
    heads: dict, low: float
) -> None:
    infos = describe(partial(small, **heads), 32, BASE)
    for name in ("mup", "sp"):
        found = expected_exponents(infos, get_parametrization(name), "adam", t=1)
        assert found["output", "blocks.1.attention.logits"] == Expected(low, 0.0)


@pytest.mark.parametrize("group", [1, 2])
def test_attention_logits_are_computed_for_those_who_look(group: int) -> None:
    torch.manual_seed(0)
    model, ids, found = small(16, group_size=group), tokens(3, T), []
    whole = model(ids)
    attention = model.blocks[0].attention
    queries = []
    attention.scale.register_forward_hook(lambda module, args, output: queries.append(output))
    attention.key_value.register_forward_hook(lambda module, args, output: queries.append(output))
    attention.logits.register_forward_hook(lambda module, args, output: found.append(output))
    torch.testing.assert_close(model(ids), whole)
    kv, q = queries
    k = kv.chunk(2, -1)[0].view(3, T, -1, 4).transpose(1, 2).repeat_interleave(group, 1)
    torch.testing.assert_close(found[0], (rotate(q.transpose(1, 2)) @ rotate(k).mT).tril())
    assert len(found) == 1


def test_an_untreated_tied_readout_is_caught() -> None:
    wrong = get_parametrization("mup", {"readout": {"mult": 1}})
    assert ("output", "readout") in check(parametrization=wrong, tied=True)


@pytest.mark.parametrize(
    ("name", "residual_mult"),
    [("depth_mup", 1), pytest.param("completep", 0.5, marks=pytest.mark.slow)],
)
def test_the_coordinate_check_in_depth_passes_with_rules_in_depth(
    name: str, residual_mult: float
) -> None:
    assert check("depth", name, residual_mult=residual_mult, seeds=4) == set()


def test_the_coordinate_check_in_depth_fails_under_mup_and_without_the_residual_multiplier() -> (
    None
):
    stream = {("output", "blocks.*.attention_residual"), ("output", "blocks.*.mlp_residual")}
    assert stream | {("update", "blocks.*.mlp.up.weight")} <= check("depth", "mup", seeds=2)
    unscaled = get_parametrization("completep", {"*_residual": {"mult": 1}})
    assert stream <= check("depth", unscaled, seeds=2)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_groups_in_depth_are_those_of_the_published_table(alpha: float) -> None:
    """CompleteP (Dey et al. 2025), table 1: AdamW, m_N = 4 in width and m_L = 3 in depth."""
    infos = describe(partial(GPT, V, T, d_head=4, bias=True), 32, BASE, depth=6, base_depth=2)
    table = get_parametrization("depth_mup" if alpha == 0.5 else "completep")
    numbers = scale(infos, table, "adam", lr=0.1, eps=1e-6, weight_decay=0.3)
    m, m_L = 4, 3
    inside = (0.1 * m_L ** (alpha - 1), 1e-6 / m * m_L**-alpha)
    expected = {
        "embedding.weight": (0.1, 1e-6 / m, 0.3),
        "norm.weight": (0.1, 1e-6 / m, 0.3),
        "readout.weight": (0.1, 1e-6 / m, 0.3),
    }
    for block in range(6):
        for layer in (
            "attention.query",
            "attention.key_value",
            "attention.out",
            "mlp.up",
            "mlp.down",
        ):
            expected[f"blocks.{block}.{layer}.weight"] = (inside[0] / m, inside[1], 0.3 * m)
            expected[f"blocks.{block}.{layer}.bias"] = (*inside, 0.3)
        for norm in ("attention_norm", "mlp_norm"):
            expected |= {
                f"blocks.{block}.{norm}.{leaf}": (*inside, 0.3) for leaf in ("weight", "bias")
            }
    for name, values in expected.items():
        found = numbers[name]
        assert (found.lr, found.eps, found.weight_decay) == pytest.approx(values), name
    assert numbers["blocks.5.mlp_residual"].mult == pytest.approx(m_L**-alpha)
    assert numbers["readout.weight"].mult == pytest.approx(1 / m)
    norm_bias = 1
    assert len(expected) + norm_bias == sum(
        info.role not in ("attention", "residual") for info in infos.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("completep", 0), ("depth_mup", 0), ("mup", 1)])
def test_the_experiment_in_depth_ends_with_a_verdict(name: str, code: int, tmp_path: Path) -> None:
    done = train(
        "-m",
        "experiment=coord_check_depth",
        f"parametrization={name}",
        "optimizer=adam",
        "trainer=cpu",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert failed(tmp_path)[name] >= (
        {("output", "blocks.*.mlp_residual"), ("update", "blocks.*.mlp.up.weight")}
        if code
        else set()
    )


@pytest.mark.slow
def test_both_experiments_check_a_whole_size_as_one_stack(tmp_path: Path) -> None:
    width = ("coord_check_gpt", "mup,sp", "width=64,128,256", "base_width=64")
    depth = ("coord_check_depth", "completep,mup,sp", "depth=2,4,8,16", "width=32", "base_width=32")
    for experiment, names, *sizes in (width, depth):
        folder = tmp_path / experiment
        done = train(
            "-m",
            "hydra/launcher=stacked",
            f"experiment={experiment}",
            f"parametrization={names}",
            *sizes,
            "optimizer=adam",
            "trainer=cpu",
            "seed=0,1,2",
            "hydra.launcher.memory_gb=4",
            f"hydra.sweep.dir={folder}",
        )
        assert done.returncode == 1, done.stderr
        assert done.stdout.count("stack ") == sizes[0].count(",") + 1
    assert failed(tmp_path / "coord_check_gpt")["mup"] == set()
    assert failed(tmp_path / "coord_check_gpt")["sp"] >= {
        ("output", "readout"),
        ("output", "blocks.1.mlp_residual"),
        ("update", "blocks.0.mlp.up.weight"),
    }
    in_depth = failed(tmp_path / "coord_check_depth")
    assert in_depth["completep"] == set()
    assert in_depth["mup"] & in_depth["sp"] >= {
        ("output", "blocks.*.attention_residual"),
        ("output", "blocks.*.mlp_residual"),
        ("update", "blocks.*.mlp.up.weight"),
    }


def failed(sweep_dir: Path) -> dict[str, set[tuple[str, str]]]:
    """(kind, name) of what fails in a sweep's verdict, by parametrization."""
    rows = json.loads((sweep_dir / "verdict.json").read_text())["rows"]
    names = [row.get("parametrization", "") for row in rows]
    return {
        name: {
            (r["kind"], r["name"])
            for r in rows
            if r.get("parametrization", "") == name and r["verdict"] == "fail"
        }
        for name in names
    }


def test_a_base_depth_needs_a_depth() -> None:
    with pytest.raises(
        ConfigError, match="base_depth=2: must be a whole number >= 1, beside a depth"
    ):
        describe(small, 16, BASE, base_depth=2)

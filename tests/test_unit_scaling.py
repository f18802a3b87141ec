"""Unit scaling: operations and groups as in the package `unit-scaling`; tensors have unit scale."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import unit_scaling as reference
import unit_scaling.functional as U
from torch import Tensor, nn
from unit_scaling.core.functional import transformer_residual_scaling_rule

from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import GPT
from mupl.models.gpt import Attention, FeedForward
from mupl.nn import unit_scaling
from mupl.nn.initialize import initialize_
from mupl.nn.layers import LinearScale, ScaledLinear
from mupl.nn.scaled_parameters import scaled
from mupl.nn.tensors import parameters
from mupl.nn.unit_scaling import UnitLinear
from mupl.optim.groups import build_optimizer
from mupl.optim.scaling import scale
from mupl.parametrization.rules import Parametrization, get_parametrization
from mupl.roles import describe
from mupl.training.setup import Setup
from tests.commands import train_here
from tests.loop import SGD, batches


@pytest.fixture(autouse=True)
def _double() -> Any:
    with default_dtype(torch.float64):
        yield


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Outputs and the gradients of all inputs agree to 1e-6, upstream gradients being random."""
    results = []
    for function in (ours, theirs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        results.append([y, *torch.autograd.grad(y, leaves, upstream)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * other.abs().max().item())


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_and_readouts(bias: bool) -> None:
    x, w, b = torch.randn(3, 5, 8), torch.randn(6, 8), torch.randn(6)
    tensors = (x, w, b) if bias else (x, w)

    def ours(forward: float, backward: float) -> Callable[..., Tensor]:
        scale = LinearScale(weight_mult=forward, bias_mult=forward)
        return lambda x, w, b=None: unit_scaling.linear(x, w, b, scale, backward)

    def theirs(function: Callable[..., Tensor], *arguments: Any) -> Callable[..., Tensor]:
        return lambda x, w, b=None: function(x, w, b, *arguments)

    same(ours(8**-0.5, 8**-0.5), theirs(U.linear), *tensors)
    same(ours(8**-0.5, 6**-0.5), theirs(U.linear, None), *tensors)
    same(ours(1 / 8, 6**-0.5), theirs(U.linear_readout), *tensors)
    same(ours(1 / 8, 1 / 8), theirs(U.linear_readout, "to_output_scale"), *tensors)


def output_and_gradients(layer: ScaledLinear, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    y = layer(x)
    y.square().sum().backward()
    return {"y": y.detach(), "weight": layer.weight.grad.clone(), "bias": layer.bias.grad.clone()}


@pytest.mark.parametrize("amplified", [1.0, 3.0])
def test_a_unit_scaled_layer_honours_all_that_a_parametrization_sets(amplified: float) -> None:
    x = torch.randn(5, 8)
    for layer in (ScaledLinear(8, 6), UnitLinear(8, 6), UnitLinear(8, 6, readout=True)):
        nn.init.normal_(layer.bias)
        if isinstance(layer, UnitLinear):
            layer.amplified.fill_(amplified)
        layer.set_scale("weight", 0.5, grad=1)
        layer.set_scale("bias", 3.0, grad=1)
        plain = output_and_gradients(layer, x)
        torch.testing.assert_close(plain["y"], 0.5 * x @ layer.weight.T + 3 * layer.bias)
        layer.set_scale("weight", 0.5, grad=4)
        layer.set_scale("bias", 3.0, grad=7)
        found = output_and_gradients(layer, x)
        torch.testing.assert_close(found["y"], plain["y"])
        torch.testing.assert_close(found["weight"], 4 * plain["weight"])
        torch.testing.assert_close(found["bias"], 7 * plain["bias"])


def test_embedding() -> None:
    ids = torch.randint(11, (4, 7))
    same(partial(unit_scaling.embedding, ids), partial(U.embedding, ids), torch.randn(11, 5))


@pytest.mark.parametrize("mult", [0.1, 1.0, 4.0])
def test_activations(mult: float) -> None:
    x, gate = torch.randn(2, 50)
    same(
        lambda x: unit_scaling.gelu_scale(mult) * F.gelu(mult * x) / mult,
        partial(U.gelu, mult=mult),
        x,
    )
    s = unit_scaling.silu_glu_scale(mult)
    same(
        lambda x, gate: s * x * F.silu(mult * gate) / mult, partial(U.silu_glu, mult=mult), x, gate
    )


@pytest.mark.parametrize("mult", [0.5, 1.0, 8.0])
def test_attention(mult: float) -> None:
    q, k, v = torch.randn(3, 2, 4, 16, 8)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(q * mult / 8, k, v, is_causal=True, scale=1.0)
        return unit_scaling.attention_scale(16, 8, mult) * y

    same(ours, partial(U.scaled_dot_product_attention, is_causal=True, mult=mult), q, k, v)


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
def test_residual(tau: float) -> None:
    x, w = torch.randn(5, 8), torch.randn(8, 8)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return unit_scaling.UnitResidual(tau)(x, lambda h: torch.tanh(h @ w))

    same(ours, lambda x, w: U.residual_apply(lambda h: torch.tanh(h @ w), x, tau), x, w)


def test_cross_entropy() -> None:
    target = torch.randint(9, (20,))
    logits = torch.randn(20, 9)
    same(
        lambda x: unit_scaling.cross_entropy(x, target),
        lambda x: U.cross_entropy(x, target),
        logits,
    )
    batched = unit_scaling.cross_entropy(logits.view(4, 5, 9), target.view(4, 5))
    torch.testing.assert_close(batched, F.cross_entropy(logits, target))
    single = unit_scaling.cross_entropy(logits[0], target[0])
    torch.testing.assert_close(single, F.cross_entropy(logits[0], target[0]))


def test_gradients_pass_a_readout_with_unit_variance() -> None:
    """A product with W (8, 50) of N(0, 1) has terms from each of the 8 outputs."""
    layer = UnitLinear(50, 8, bias=False, readout=True)
    x = torch.randn(4, 50, requires_grad=True)
    g = torch.randn(4, 8)
    (gradient,) = torch.autograd.grad(layer(x), x, g)
    torch.testing.assert_close(gradient, g @ layer.weight.detach() / math.sqrt(8))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.4, 0.9])
def test_dropout(p: float) -> None:
    generator = torch.Generator().manual_seed(1)  # no numbers that the masks are made of
    x, upstream = torch.randn(2, 400, 500, generator=generator)

    def seeded(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            torch.manual_seed(0)
            return function(x)

        return call

    same(seeded(lambda x: unit_scaling.dropout(x, p)), seeded(lambda x: U.dropout(x, p)), x)
    layer = unit_scaling.UnitDropout(p)
    x.requires_grad_()
    y = layer(x)
    y.backward(upstream)
    assert y.std().item() == pytest.approx(1, abs=0.01)
    assert x.grad.std().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("mults", [(1.0, 1.0), (0.5, 2.0)])
def test_shares_of_residual_branches(mults: tuple[float, float]) -> None:
    theirs = transformer_residual_scaling_rule(*mults)
    for index in range(8):
        assert unit_scaling.residual_tau(index, 8, *mults) == pytest.approx(
            theirs(index, 8), rel=1e-6
        )


V, T = 64, 16
unit_gpt = partial(GPT, V, T, unit_scaling=True, norm_gain=False, norm="rmsnorm")


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "SGD to_output_scale"])
def test_groups_are_those_of_the_package(optimizer: str) -> None:
    """Of a GPT of depth 3, tagged as the package's own layers tag theirs."""
    infos = describe(unit_gpt, 64, 32, depth=3, base_depth=1)
    name = "umup_output_scale" if " " in optimizer else "umup"
    numbers = scale(
        infos,
        name,
        optimizer.split()[0].lower(),
        lr=0.3,
        weight_decay=2e-3,
        weight_decay_mode="independent",
    )
    tagged = {}
    for tensor, p in unit_gpt(64, depth=3).named_parameters():
        tagged[tensor] = reference.Parameter(
            p.detach(), "output" if "readout" in tensor else "weight"
        )
        tagged[tensor].mup_scaling_depth = 3 if "blocks" in tensor else None
    constructor = getattr(reference.optim, optimizer.split()[0])
    options = {"readout_constraint": "to_output_scale"} if " " in optimizer else {}
    theirs = constructor(tagged.values(), lr=0.3, weight_decay=2e-3, **options)
    for tensor, group in zip(tagged, theirs.param_groups, strict=True):
        assert numbers[tensor].lr == pytest.approx(group["lr"], rel=1e-6), tensor
        assert numbers[tensor].weight_decay == pytest.approx(group["weight_decay"], rel=1e-6), (
            tensor
        )


@pytest.mark.parametrize(("name", "factor"), [("umup", 1.0), ("umup_output_scale", 64.0)])
def test_vectors_have_the_groups_of_the_package(name: str, factor: float) -> None:
    infos = describe(lambda w: nn.Sequential(nn.Linear(4, w), nn.LayerNorm(w)), 64, 32)
    numbers = scale(infos, name, "sgd", lr=0.3)
    for tensor in ("0.bias", "1.weight", "1.bias"):
        assert numbers[tensor].lr == pytest.approx(0.3 * factor)
        assert numbers[tensor].mult == 1


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def rms_at_start(depth: int, amplified: bool = True, **options: Any) -> dict[str, float]:
    """RMS by "KIND NAME" of parameters, what modules return, and the gradients of both."""
    module = Setup(
        partial(unit_gpt, **options),
        128,
        base_width=32,
        depth=depth,
        base_depth=1,
        parametrization="umup",
        lr=0.1,
    )
    if not amplified:
        for layer in module.model.modules():
            if isinstance(layer, Attention | FeedForward):
                layer.gradient_scale = 1.0
            if isinstance(layer, UnitLinear):
                layer.amplified.fill_(1.0)
    found: dict[str, float] = {
        f"param {name}": rms(p) for name, p in module.model.named_parameters()
    }

    def look(name: str, layer: nn.Module, args: Any, output: Tensor) -> None:
        found[f"output {name}"] = rms(output)
        output.register_hook(lambda g: found.__setitem__(f"gradient {name}", rms(g)))

    for name, layer in module.model.named_modules():
        if isinstance(layer, nn.Embedding | nn.Linear | unit_scaling.UnitResidual | nn.RMSNorm):
            layer.register_forward_hook(partial(look, name))
    ids = torch.randint(V, (16, T + 1), generator=torch.Generator().manual_seed(0))
    unit_scaling.cross_entropy(module.model(ids[:, :-1]), ids[:, 1:]).backward()
    return found | {f"gradient {name}": rms(p.grad) for name, p in module.model.named_parameters()}


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
@pytest.mark.parametrize(
    ("depth", "ratio", "band"),
    [
        (2, 1.0, (0.5, 2.0)),
        (4, 0.25, (0.5, 2.0)),
        (8, 0.25, (0.5, 2.2)),
        (8, 1.0, (0.35, 2.2)),
    ],  # attention over attention makes tokens alike, which makes queries' gradients small
)
def test_parameters_activations_and_gradients_have_unit_scale_at_the_start(
    activation: str, depth: int, ratio: float, band: tuple[float, float]
) -> None:
    found = rms_at_start(depth, activation=activation, residual_attention_ratio=ratio)
    assert found.pop("output readout") == pytest.approx(128**-0.5, rel=0.2)
    outside = {name for name, value in found.items() if not band[0] <= value <= band[1]}
    assert outside == set()
    small = {name for name, value in found.items() if value < 0.4}
    assert all(name.startswith("gradient") and "query" in name for name in small)


def test_the_published_operations_leave_the_gradients_of_queries_small() -> None:
    found = rms_at_start(2, amplified=False)
    queries = [found[name] for name in found if name.startswith("gradient") and "query" in name]
    assert len(queries) == 4
    assert all(0.04 < value < 0.2 for value in queries)


def test_amplified_gradients_are_those_of_their_own_weights_only() -> None:
    """All others are the gradients of the loss up to the factors that they had."""
    plain, amplified = (rms_at_start(2, amplified=a, mlp_ratio=4.0) for a in (False, True))
    factor = unit_scaling.logit_gradient_scale(T, 32)
    expected = {"query": factor, "mlp.up": 2.0}
    for name, value in amplified.items():
        if not name.endswith(("key_value", "key_value.weight")):
            part = next((p for p in expected if p in name and name.startswith("gradient")), None)
            assert value == pytest.approx(plain[name] * expected.get(part or "", 1.0), rel=1e-9), (
                name
            )


def test_the_inputs_of_an_amplified_linear_layer_have_the_gradients_of_the_loss() -> None:
    x, w, factors = torch.randn(3, 5, 8), torch.randn(6, 8), torch.linspace(1, 3, 6)

    def gradients(amplified: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        scale = LinearScale(weight_mult=8**-0.5)
        y = unit_scaling.linear(*leaves, None, scale, 8**-0.5, amplified)
        return torch.autograd.grad(scaled(y, 1, amplified).square().sum(), leaves)

    (x_plain, w_plain), (x_amplified, w_amplified) = gradients(torch.ones(6)), gradients(factors)
    torch.testing.assert_close(x_amplified, x_plain)
    torch.testing.assert_close(w_amplified, factors[:, None] * w_plain)


@pytest.mark.parametrize(
    ("length", "d_head", "mult"), [(16, 32, 1.0), (64, 64, 1.0), (64, 32, 0.5)]
)
def test_gradients_of_queries_and_keys_of_independent_tokens_have_the_derived_size(
    length: int, d_head: int, mult: float
) -> None:
    q, k, v = (torch.randn(64, length, d_head).requires_grad_() for _ in range(3))
    y = F.scaled_dot_product_attention(q * mult / d_head, k, v, is_causal=True, scale=1.0)
    y = unit_scaling.attention_scale(length, d_head, mult) * y
    found = torch.autograd.grad(y, (q, k), torch.randn(y.shape))
    wanted = 1 / unit_scaling.logit_gradient_scale(length, d_head, mult)
    assert [rms(g) for g in found] == pytest.approx([wanted, wanted], rel=0.1)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_logits_of_inference_are_those_of_training(activation: str) -> None:
    """Attention's output has the scale of a full context, whatever the number of tokens."""
    build = partial(unit_gpt, activation=activation, activation_mult=2.0, attention_mult=3.0)
    size = {"width": 64, "base_width": 32, "depth": 2, "base_depth": 1}
    model = Setup(build, **size, parametrization="umup", lr=0.1).model
    ids = torch.randint(V, (2, T))
    whole = model(ids)
    for t in range(1, T + 1):
        torch.testing.assert_close(model(ids[:, :t])[:, -1], whole[:, t - 1])


class UnitMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(UnitLinear(n, width, bias=False) for n in (6, width, width))
        self.readout = UnitLinear(width, 3, bias=False, readout=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.readout(x)


class PlainMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, width, bias=False) for n in (6, width, width))
        self.readout = nn.Linear(width, 3, bias=False)
        for layer in (*self.layers, self.readout):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    forward = UnitMLP.forward


@pytest.mark.parametrize("width", [8, 16, 48])
def test_sgd_of_u_mup_is_that_of_mup_with_constants_by_layer(width: int) -> None:
    """Unit-scaled gradients with lr 1/sqrt(fan_in) are one trajectory with Table 8's rules.

    They are the same function at every width, once the learning rates and the readout's multiplier
    at the base width are set by layer.
    """
    base, n, lr = 8, 16, 0.02  # width, examples of a batch
    # u-muP's gradient of the logits is n V / sqrt(V - 1) times the mean loss's, before the readout
    # width / sqrt(V) times more; the gradient of a w is over sqrt(n), without w's multiplier.
    delta = math.sqrt(n) * 3 / math.sqrt(2)
    constants = {
        "layers.0.weight": f"{delta * base / math.sqrt(3) / 6}*m_out",
        "layers.*[12].weight": f"{delta / math.sqrt(3)}",
        "readout.weight": f"{delta}*m_in",
    }
    mup = get_parametrization("mup", {n: {"lr": c} for n, c in constants.items()})
    mup = mup.override(
        {"readout.weight": {"lr": constants["readout.weight"], "mult": f"{base**-0.5}/m_in"}}
    )

    def losses(build: Any, parametrization: Parametrization, loss: Any) -> Tensor:
        infos = describe(build, width, base)
        drawn = {name: replace(info, own=None) for name, info in infos.items()}
        numbers = scale(drawn, parametrization, "sgd", lr=lr)
        model = initialize_(build(width), numbers, seed=0)  # the same samples for both models
        optimizer = build_optimizer(SGD, parameters(model, numbers), numbers)
        found = []
        for x, target in batches(30, n):
            value = loss(model(x), target)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            found.append(value.detach())
        return torch.stack(found)

    ours = losses(UnitMLP, get_parametrization("umup"), unit_scaling.cross_entropy)
    assert ours[-1] < 0.95 * ours[0]
    torch.testing.assert_close(ours, losses(PlainMLP, mup, F.cross_entropy), atol=1e-9, rtol=0)


@pytest.mark.parametrize("key", ["norm_gain", "bias", "tied", "post_norm"])
def test_what_unit_scaling_has_not_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"model.{key}=true: unit scaling is without"):
        unit_gpt(32, **{key: True})


def test_of_sgd_no_exponents_are_told() -> None:
    """Hidden updates fall with width^-1.5, as measured; the rules would say -3.5."""
    size = {"width": 64, "base_width": 32, "depth": 2, "base_depth": 1}
    module = partial(Setup, unit_gpt, **size, parametrization="umup", lr=0.1)
    assert module(optimizer="adam").expected_exponents(0)
    with pytest.raises(
        ConfigError,
        match="unit-scaled operations give SGD other gradients than the loss has",
    ):
        module(optimizer="sgd").expected_exponents(0)


@pytest.mark.filterwarnings(
    "ignore:.*exists and is not empty"
)  # as mupl.training.run does, once a process
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ([], 0),
        (["+parametrization.overrides={blocks.0.mlp.up.weight:{init:0.1}}"], 1),
        (["data=text"], 1),
    ],
)
def test_the_experiment_names_the_tensors_that_have_not_unit_scale(
    wrong: list[str], code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_default_dtype(torch.float32)
    sizes = ["width=64", "depth=2", "model.activation=gelu", "trainer=cpu", "data.context=16"]
    done = train_here(
        capfd, "-m", "experiment=unit_scale", *sizes, *wrong, f"hydra.sweep.dir={tmp_path}"
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert (tmp_path / "unit_scale.csv").exists(), done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "unit_scale.csv")
    failed = set(table.loc[~table["passed"], "name"])
    assert (tmp_path / "unit_scale.png").stat().st_size > 10_000
    assert set(table["kind"]) == {"param", "grad", "output", "output_grad"}
    assert {"embedding.weight", "blocks.1.attention.key_norm", "readout"} <= set(table["name"])
    if "blocks.0.mlp.up.weight" in str(wrong):
        assert {"blocks.0.mlp.up.weight", "blocks.0.mlp.up"} <= failed
        assert "blocks.1.mlp.up.weight" not in failed
    elif code:  # tokens that are not independent: their gradients add up
        assert {"blocks.0.attention.out.weight", "readout.weight"} <= failed
    else:
        assert failed == set()

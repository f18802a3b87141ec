"""Networks in one tensor, such as experts: what follows where their number grows with width."""

from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import mupl
from mupl.analysis.coordinates import verdict
from mupl.analysis.slopes import fit_slope
from mupl.initializers import default_dtype
from mupl.models import GPT
from mupl.nn.experts import ExpertLinear
from mupl.optim.blocked import BlockedSOAP
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.parametrization.cells import Monomial
from mupl.parametrization.exponents import Expected, Seen, expected_exponents
from mupl.parametrization.rules import get_parametrization
from mupl.roles import ParamInfo
from mupl.stats.reductions import TensorReductions, measure
from mupl.training.coord_check import coord_check

BASE, WIDTH = 16, 64
UP, ROUTER = "blocks.0.mlp.networks.up.weight", "blocks.0.mlp.router.weight"
REGIMES = {"fixed": 4, "growing": "width / 4"}
build = partial(GPT, 11, 8, depth=1, d_head=4)


@pytest.fixture(autouse=True)
def _double() -> Any:
    with default_dtype(torch.float64):
        yield


def group_of(setup: mupl.Setup, name: str) -> dict[str, Any]:
    """The param group of a tensor."""
    w = setup.model.get_parameter(name)
    groups = setup.optimizer().param_groups
    return next(group for group in groups if any(w is other for other in group["params"]))


def test_a_layer_of_experts_is_a_linear_layer_of_each() -> None:
    layer = ExpertLinear(3, 4, 2, bias=True)
    for w in layer.parameters():
        nn.init.normal_(w)
    x = torch.randn(5, 4)
    ys = layer(x.unsqueeze(0))
    again = layer(x.expand(3, 5, 4))
    for e in range(3):
        expected = nn.functional.linear(x, layer.weight[e], layer.bias[e])
        torch.testing.assert_close(ys[e], expected)
        torch.testing.assert_close(again[e], expected)


# Of arXiv 2605.14200, at four times the base width n: router and experts by number of experts
@pytest.mark.parametrize(
    ("experts", "optimizer", "router", "up"),
    [
        ("fixed", "adamw", {"lr": 1, "eps": 1 / 4}, {"lr": 1 / 4, "eps": 1 / 4}),
        ("growing", "adamw", {"lr": 1 / 4, "eps": 1 / 4}, {"lr": 1 / 4, "eps": 1 / 16}),
        ("fixed", "sgd", {"lr": 4}, {"lr": 1}),
        ("growing", "sgd", {"lr": 1}, {"lr": 4}),
        ("growing", "muon", {"lr": 1}, {"lr": 1}),
        ("growing", "lion", {"lr": 1 / 4}, {"lr": 1 / 4}),
    ],
)
def test_learning_rates_and_eps_are_the_published_ones(
    experts: str, optimizer: str, router: dict[str, float], up: dict[str, float]
) -> None:
    options = {"base_width": BASE, "lr": 1.0, "optimizer": optimizer}
    if optimizer == "adamw":
        options["eps"] = 1.0
    setup = mupl.Setup(partial(build, experts=REGIMES[experts]), WIDTH, **options)
    for name, expected in ((ROUTER, router), (UP, up)):
        group = group_of(setup, name)
        assert {key: group[key] for key in expected} == pytest.approx(expected), name
    is_readout = setup.scales[ROUTER].mult == 1 / 4  # std 1/n, lr 1/n of the effective matrix
    assert is_readout == (experts == "fixed")


def test_an_update_of_an_expert_is_that_of_any_hidden_matrix() -> None:
    """Whatever falls or rises with the number of experts cancels."""
    fixed, growing = (
        mupl.describe(partial(build, experts=experts), WIDTH, BASE) for experts in REGIMES.values()
    )
    table = get_parametrization("mup")
    for kind in table.update_kinds:
        expected = expected_exponents(fixed, table, kind, t=1)
        found = expected_exponents(growing, table, kind, t=1)
        if kind == "orthogonal":  # whose entries are as many as its directions
            assert found["update", UP, "spectral"] == expected["update", UP, "spectral"]
            assert found["update", UP] == Expected(-1.5, -1.0)
            assert found["update", ROUTER] == Expected(-1.0, -0.5)
        elif kind not in ("normalized", "whitened"):
            assert found["update", UP] == expected["update", UP], kind
            if kind != "sgd":  # which follows the gradient
                assert found["update", ROUTER] == expected["update", UP], kind
    found = expected_exponents(growing, table, "adam", t=1)
    assert found["effective", UP.removesuffix(".weight")] == Expected(-0.5, 0.0)
    assert found["effective", ROUTER.removesuffix(".weight")] == Expected(-0.5, 0.0)
    norms = [found["update", name, "frobenius"].low for name in (UP, ROUTER)]
    assert norms == [0.5, 0.0]
    norms = [found["update", name, "spectral"] for name in (UP, ROUTER)]
    assert norms == [Expected(0.0, 0.0), Expected(-0.5, 0.0)]


@pytest.mark.parametrize("table", ["mup", "mup_table3", "unit_init", "mean_field", "sgd"])
def test_updates_of_a_router_lie_between_random_and_aligned_if_they_follow_the_gradient(
    table: str,
) -> None:
    """In a table whose eps follows the gradient, an eps that is felt changes nothing else."""
    growing = partial(build, experts="width / 4", bias=True)
    infos = mupl.describe(growing, WIDTH, BASE)
    router, bias = ROUTER.removesuffix(".weight"), ROUTER.replace("weight", "bias")
    changed = {("update", ROUTER), ("update", bias), ("param", bias), ("effective", router)}
    changed |= {("update", ROUTER, norm) for norm in ("frobenius", "spectral", "rms_to_rms")}
    if table == "sgd":
        arguments = infos, get_parametrization("mup")
        found = expected_exponents(*arguments, "sgd", t=1)
    else:
        arguments = infos, get_parametrization(table)
        found = expected_exponents(*arguments, "adam", t=1, seen=Seen(felt_eps=infos))
    usual = expected_exponents(*arguments, "adam", t=1)
    assert {key for key in usual if found[key] != usual[key]} == changed
    for key in changed:
        assert found[key] == Expected(usual[key].low - 0.5, usual[key].high), key


def test_an_update_that_has_its_own_size_feels_no_eps() -> None:
    infos = mupl.describe(partial(build, experts="width / 4"), WIDTH, BASE)
    table = get_parametrization("mup")
    for kind in sorted({*table.update_kinds} - {"adam"}):
        usual = expected_exponents(infos, table, kind, t=1)
        found = expected_exponents(infos, table, kind, t=1, seen=Seen(felt_eps=infos))
        assert found == usual, kind


def test_a_router_between_a_fixed_number_of_experts_follows_such_a_gradient_too() -> None:
    """The readout of as many tokens does not."""
    infos = mupl.describe(partial(GPT, 4, 8, depth=1, d_head=4, experts=4), WIDTH, BASE)
    table = get_parametrization("mup")
    by_adam = expected_exponents(infos, table, "adam", t=1, seen=Seen(felt_eps=infos))
    for found in (by_adam, expected_exponents(infos, table, "sgd", t=1)):
        assert found["update", ROUTER] == Expected(-1.5, -1.0)
        assert found["effective", ROUTER.removesuffix(".weight")] == Expected(-0.5, 0.0)
        assert found["update", "readout.weight"] == Expected(-1.0, -1.0)
        assert found["update", UP] == Expected(-1.0, -1.0)


def test_experts_that_are_as_many_as_their_outputs_are_no_routers() -> None:
    infos = mupl.describe(partial(build, experts="width"), WIDTH, BASE)
    found = expected_exponents(infos, get_parametrization("mup"), "sgd", t=1)
    assert found["update", UP.replace("up", "down")] == Expected(-1.0, -1.0)
    assert found["update", ROUTER] == Expected(-1.5, -1.0)


@pytest.mark.parametrize("table", ["mup", "unit_init"])
def test_an_eps_is_felt_above_a_tenth_of_the_gradient(table: str) -> None:
    setup = mupl.Setup(
        partial(build, experts="width / 4"),
        WIDTH,
        base_width=BASE,
        lr=0.1,
        eps=1e-3,
        parametrization=table,
    )
    scale = setup.scales[ROUTER]
    assert (scale.mult == 1) == (table == "mup")
    limit = 10 * scale.eps / scale.mult  # the optimizer sees mult * d loss / d W
    for size, low in ((1.01 * limit, -1.0), (0.99 * limit, -1.5)):
        found = setup.expected_exponents(1, gradients={ROUTER: size})
        assert found["update", ROUTER] == Expected(low, -1.0)
    assert setup.expected_exponents(1)["update", ROUTER] == Expected(-1.0, -1.0)


def test_a_check_sees_by_the_gradients_whether_eps_is_felt() -> None:
    """What must be seen may differ between sizes; then the verdict allows all of it."""
    tokens = torch.arange(8)[None] % 11
    tables = []
    for width, eps in ((16, 1e-12), (32, 1e3)):
        rows = coord_check(
            partial(build, experts="width / 4"),
            [width],
            [(tokens, tokens)] * 2,
            base_width=BASE,
            lr=0.01,
            optimizer="adam",
            eps=eps,
            seeds=range(2),
            kinds=["update", "grad"],
        )
        tables.append(rows[(rows["name"] == ROUTER) & (rows["kind"] == "update")])
    lows = [set(table["low"]) for table in tables]
    assert lows == [{-1.0}, {-1.5}]
    together = verdict(pd.concat(tables))
    assert set(zip(together["low"], together["high"], strict=True)) == {(-1.5, -1.0)}


def test_gradients_of_experts_fall_as_their_number_grows() -> None:
    for experts, exponent in (("width / 4", -1.5), (4, -1.0)):
        infos = mupl.describe(partial(build, experts=experts), WIDTH, BASE)
        found = expected_exponents(infos, get_parametrization("sp"), "sgd", t=0)
        assert found["update", UP] == Expected(exponent, exponent)


def test_muon_moves_each_expert_as_a_matrix_of_its_own() -> None:
    setup = mupl.Setup(
        partial(build, experts="width / 4", activation="swiglu"),
        WIDTH // 2,
        base_width=BASE,
        lr=0.1,
        optimizer=partial(Orthogonal, method="svd", momentum=0.0, nesterov=False),
    )
    optimizer = setup.optimizer()
    before = {name: w.detach().clone() for name, w in setup.model.named_parameters()}
    setup.model(torch.arange(8)[None] % 11).square().sum().backward()
    optimizer.step()
    down = UP.replace("up", "down")
    for name, parts in ((UP, 2), (down, 1)):
        update = before[name] - setup.model.get_parameter(name)
        info = setup.infos[name]
        assert isinstance(info, ParamInfo)
        for matrix in update.flatten(0, 1).split(info.fan_out // parts):
            values = torch.linalg.svdvals(matrix.detach())
            present = values[values > 1e-6 * values[0]] if values[0] > 0 else values[:0]
            torch.testing.assert_close(present, values[0].expand_as(present))  # all alike


def trained(layer: nn.Module, optimizer: Any, gradients: list[Tensor], **group: Any) -> Tensor:
    (w,) = layer.parameters()
    groups = [{"params": [w], "update_kind": "adam", "lr": 0.1, "weight_decay": 0.0, **group}]
    moving = optimizer(groups, lr=0.1)
    for gradient in gradients:
        w.grad = gradient.clone()
        moving.step()
    return w.detach()


@pytest.mark.parametrize(
    ("optimizer", "group"),
    [
        (BlockedSOAP, {"eps": 1e-8}),
        (partial(BlockedSOAP, block_size=3), {"eps": 1e-8}),
        *(
            (partial(Normalized, normalise=how), {"inner_kind": "adam", "shape_factor": 2.0})
            for how in ("spectral", "hyperball")
        ),
    ],
)
def test_an_optimizer_of_matrices_moves_each_expert_alone(optimizer: Any, group: Any) -> None:
    torch.manual_seed(0)
    layer = ExpertLinear(3, 5, 4)
    layer.init_normal_(1.0)
    alone = [nn.Linear(5, 4, bias=False) for _ in range(3)]
    gradients = [torch.randn(3, 4, 5) for _ in range(4)]
    for e, linear in enumerate(alone):
        linear.weight.data = layer.weight[e].detach().clone()
    together = trained(layer, optimizer, gradients, batch_dims=1, **group)
    for e, linear in enumerate(alone):
        of_one = trained(linear, optimizer, [gradient[e] for gradient in gradients], **group)
        torch.testing.assert_close(together[e], of_one, rtol=1e-6, atol=1e-6)


def test_norms_are_those_of_matrices() -> None:
    x = torch.randn(2, 3, 5, 4)  # two members of a stack, three experts
    names = ["spectral", "rms_to_rms", "frobenius", "stable_rank"]
    found = measure(TensorReductions(x, members=1, batch_dims=1), names)
    spectral = torch.linalg.matrix_norm(x, ord=2).amax(-1)
    squares = x.square().sum((-3, -2, -1))
    torch.testing.assert_close(found["spectral"], spectral)
    torch.testing.assert_close(found["rms_to_rms"], spectral * (4 / 5) ** 0.5)
    torch.testing.assert_close(found["frobenius"], squares.sqrt())
    torch.testing.assert_close(found["stable_rank"], squares / 3 / spectral**2)
    biases = TensorReductions(x.new_zeros(2, 3, 5), members=1, batch_dims=1)
    assert measure(biases, names) == {}


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_the_plain_model_of_growing_experts_is_the_same_function(activation: str) -> None:
    options = {"experts": "width / 4", "activation": activation, "bias": True}
    setup = mupl.Setup(
        partial(GPT, 11, 8, d_head=4, **options),
        32,
        base_width=BASE,
        depth=2,
        base_depth=1,
        parametrization="completep",
        lr=0.1,
    )
    for w in setup.model.parameters():
        nn.init.normal_(w, std=0.3)
    tokens = torch.arange(8)[None] % 11
    plain = setup.fold()
    assert plain.get_submodule("blocks.0.mlp_residual").value == 1
    torch.testing.assert_close(plain(tokens), setup.model(tokens))


class ListOfExperts(nn.Module):
    """Experts as modules in a list."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(width // 4))


def test_a_list_of_modules_that_grows_is_refused_with_what_to_do() -> None:
    with pytest.raises(mupl.ConfigError) as caught:
        mupl.describe(ListOfExperts, 32, 16)
    assert str(caught.value) == (
        "parameter 'experts.4.weight' is not the same tensor at every width: keep names and ranks "
        "fixed (the base model has not 'experts.4.weight', 'experts.4.bias', 'experts.5.weight' "
        "and 5 more; where the number of equal networks in a list grows with width, such as of "
        "experts, hold their weights in one tensor (number, out, in))"
    )


class Cubes(nn.Module):
    """Tensors of three dimensions, of which the owner does not say what they count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.growing = nn.Parameter(torch.randn(width // 4, 2 * width, width))
        self.fixed = nn.Parameter(torch.randn(3, 2 * width, width))


class Told(nn.Module):
    """One that says it, and whose experts do not grow themselves."""

    def __init__(self, width: int, transposed: bool = False) -> None:
        super().__init__()
        self.num_experts = width // 4
        self.is_transposed = transposed
        self.up = nn.Parameter(torch.randn(width // 4, 6, width))
        self.up_bias = nn.Parameter(torch.randn(width // 4, 6))
        self.down_bias = nn.Parameter(torch.randn(width // 4, width))


class Router(nn.Module):
    """A matrix whose owner knows the number of experts, and holds none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_experts = width // 4
        self.weight = nn.Parameter(torch.randn(width // 4, width))


def test_a_router_that_knows_the_number_of_experts_is_one_matrix() -> None:
    info = mupl.describe(Router, 32, 16)["weight"]
    assert isinstance(info, ParamInfo)
    assert (info.row, info.m_in, info.m_out, info.copies_grow) == ("hidden", 2, 2, False)


def test_copies_are_found_in_other_modules() -> None:
    infos = mupl.describe(Cubes, 32, 16)
    found = {n: (i.role, i.m_in, i.m_out, i.m_copies, i.copies_grow) for n, i in infos.items()}
    assert found == {"growing": ("hidden", 2, 2, 2, True), "fixed": ("hidden", 2, 2, 1, False)}
    infos = mupl.describe(Told, 32, 16, roles={"up": "output"})
    found = {n: (i.row, i.m_in, i.m_out, i.m_copies, i.fan_in) for n, i in infos.items()}
    assert found == {
        "up": ("output", 2, 1, 2, 32),
        "up_bias": ("scalar_vector", 1, 1, 2, 1),
        "down_bias": ("input_vector", 1, 2, 2, 1),
    }


@pytest.mark.parametrize(("transposed", "role"), [(False, "output"), (True, "input")])
def test_a_role_is_proposed_for_experts_of_fixed_size(transposed: bool, role: str) -> None:
    with pytest.raises(mupl.ConfigError, match=f"say roles={{'up': '{role}'}}"):
        mupl.describe(partial(Told, transposed=transposed), 32, 16)


growing_gpt = partial(GPT, 32, 8, depth=1, d_head=16, experts="width / 8", zero_readout=True)


def text(power: float = 2.0) -> tuple[Tensor, Tensor]:
    """Tokens (32, 8) and those that follow them, the k-th token with frequency k^-power."""
    # One token is frequent, so that all gradients have a part in common. Of noise alone they would
    # fall as the root of the number of experts.
    frequencies = torch.arange(1.0, 33) ** -power
    generator = torch.Generator().manual_seed(0)
    ids = frequencies.expand(32, -1).multinomial(9, replacement=True, generator=generator)
    return ids[:, :-1], ids[:, 1:]


def checked(parametrization: Any, **options: Any) -> pd.DataFrame:
    """The verdict of a coordinate check of a GPT whose experts grow from 4 to 16."""
    defaults: dict[str, Any] = {"widths": (32, 64, 128), "base_width": 32, "seeds": range(3)}
    defaults |= {"batches": [text()] * 3}
    rows = coord_check(growing_gpt, parametrization=parametrization, **defaults | options)
    return verdict(rows)


def failures(parametrization: Any, **options: Any) -> set[tuple[str, str]]:
    """(kind, name) of what fails in that check."""
    table = checked(parametrization, **options)
    failed = table[table["verdict"] == "fail"]
    return set(zip(failed["kind"], failed["name"], strict=True))


# With so large an eps updates of Adam follow the gradient, and so the rule of eps
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "lr": 0.01},
    "adam with a large eps": {"optimizer": "adam", "lr": 0.3, "eps": 1.0},
    "sgd": {"optimizer": "sgd", "lr": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "seeds"), [("adam", 3), ("adam with a large eps", 8), ("sgd", 3)]
)
def test_a_coordinate_check_of_growing_experts_passes_under_mup(optimizer: str, seeds: int) -> None:
    assert failures("mup", seeds=range(seeds), **OPTIMIZERS[optimizer]) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "cell"), [("adam with a large eps", "eps"), ("sgd", "lr"), ("adam", None)]
)
def test_a_coordinate_check_fails_without_the_rule_of_copies_and_under_sp(
    optimizer: str, cell: str | None
) -> None:
    table = get_parametrization("sp")
    if cell is not None:
        without = str(
            getattr(get_parametrization("mup").rule(optimizer[:4].strip(), "hidden"), cell)
        )
        table = get_parametrization("mup", {"*.networks.*": {cell: without}})
    assert ("update", "blocks.0.mlp.networks.down.weight") in failures(
        table, **OPTIMIZERS[optimizer]
    )


# Of less frequent tokens a router learns for longer, until it has aligned at every width.
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.3, "batches": [text(power=1.2)]}
ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 0.01, "steps": [1]}


# Where updates follow the gradient they lie between -3/2, as at first, and -1, as later. So only
# the first ones tell a lr that is too small, and only later ones a lr that is too large. A lr that
# is too small by m_in^1/2 is at the edge of what 24 seeds tell.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("power", "options", "verdicts"),
    [
        ("m_in^1/2", ADAM, {"fail"}),
        ("m_in^-1/2", ADAM, {"fail"}),
        ("1", SGD | {"steps": [1, 2, 8], "seeds": range(12)}, {"pass"}),
        ("m_in^1/2", SGD | {"steps": [8], "seeds": range(12)}, {"fail"}),
        ("m_in^-1", SGD | {"lr": 0.1, "steps": [2], "seeds": range(12)}, {"fail"}),
    ],
)
def test_a_wrong_lr_of_a_router_is_seen(
    power: str, options: dict[str, Any], verdicts: set[str]
) -> None:
    rule = get_parametrization("mup").rule(options["optimizer"], "hidden")
    lr = str(rule.lr * Monomial.parse(power))
    table = checked(get_parametrization("mup", {ROUTER: {"lr": lr}}), kinds=["update"], **options)
    assert set(table[table["name"] == ROUTER]["verdict"]) == verdicts, table.to_string()


class RouterFactors:
    """The factors of a router's gradient, from hooks on a layer of two experts a token."""

    def __init__(self, mlp: nn.Module) -> None:
        self.outputs = self.logits = self.gradient = torch.empty(0)
        mlp.get_submodule("networks").register_forward_hook(self._keep_outputs)
        mlp.get_submodule("router").register_forward_hook(self._keep_logits)
        mlp.register_full_backward_hook(self._keep_gradient)

    def _keep_outputs(self, module: nn.Module, inputs: Any, outputs_EBTn: Tensor) -> None:
        self.outputs = outputs_EBTn.detach().movedim(0, -2)

    def _keep_logits(self, module: nn.Module, inputs: Any, logits_BTE: Tensor) -> None:
        self.logits = logits_BTE.detach()

    def _keep_gradient(self, module: nn.Module, inputs: Any, gradients: tuple[Tensor]) -> None:
        self.gradient = gradients[0]

    def cosine(self) -> float:
        """Mean |cosine| of the difference of a token's two outputs and the stream's gradient."""
        chosen = self.logits.topk(2, -1).indices.unsqueeze(-1)
        first, second = self.outputs.take_along_dim(chosen, -2).unbind(-2)
        cosines = nn.functional.cosine_similarity(first - second, self.gradient, -1, eps=1e-30)
        return cosines.abs().mean().item()


def router_rows(width: int, seed: int, steps: int) -> list[dict[str, Any]]:
    """Mean |update| and |cosine| after each step of SGD but the first, which moves no router."""
    options = {"optimizer": SGD["optimizer"], "lr": SGD["lr"], "seed": seed}
    setup = mupl.Setup(growing_gpt, width, base_width=32, **options)
    optimizer = setup.optimizer()
    router = setup.model.get_parameter(ROUTER)
    factors = RouterFactors(setup.model.get_submodule("blocks.0.mlp"))
    ((tokens, targets),) = SGD["batches"]
    rows = []
    for t in range(steps + 1):
        optimizer.zero_grad()
        setup.loss(setup.model(tokens), targets).backward()
        before = router.detach().clone()
        optimizer.step()
        row = {"width": width, "seed": seed, "t": t, "cosine": factors.cosine()}
        rows.append(row | {"update": (router.detach() - before).abs().mean().item()})
    return rows[1:]


@pytest.mark.slow
def test_the_factors_of_a_routers_gradient_are_random_at_first_and_then_align() -> None:
    """Random vectors of width n have a mean |cosine| of about n^-1/2, aligned ones of n^0."""
    rows = []
    for width in (32, 64, 128):
        for seed in range(8):
            rows += router_rows(width, seed, steps=8)
    table = pd.DataFrame(rows)
    found = {}
    for t in (1, 2, 4, 8):
        at_t = table[table["t"] == t]
        for column in ("cosine", "update"):
            fit = fit_slope(at_t.assign(value=at_t[column]), "width")
            found[column, t] = fit
            low, high = fit.interval()
            print(f"t={t} {column}: slope {fit.slope:.2f} ({low:.2f} to {high:.2f})")
        print(at_t.groupby("width")["cosine"].mean().round(3).to_dict())
    assert -0.6 < found["cosine", 1].slope < -0.3
    assert found["cosine", 8].interval()[0] > found["cosine", 1].interval()[1]
    assert found["update", 8].interval()[0] > found["update", 1].interval()[1]

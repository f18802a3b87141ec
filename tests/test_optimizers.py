"""Orthogonal and entrywise optimizers: what an update is, and that all others accept them."""

import copy
import inspect
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.elementwise import Lion, adam_atan2, lion, sign_momentum
from mupl.optim.groups import build_optimizer, with_groups_of
from mupl.optim.orthogonal import METHODS, SHAPE_FACTORS, Orthogonal, accumulate
from mupl.optim.registry import optimizer_rules, optimizers, resolve
from mupl.parametrization.scales import Scale
from mupl.parametrization.update_kinds import UpdateKind
from mupl.roles import describe
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup
from tests.models import perceptron

SHAPES = [(512, 2048), (2048, 512), (64, 64), (10, 784), (64, 32, 3, 3)]
ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "conf" / "optimizer"
DECAY = {"scion": 0.0}  # has one of its own
LR = {"scion": 3e-5}  # of configs whose updates are large at lr = 1
NEW = ("lion", "sign_sgd", "adam_atan2", "muon", "shampoo_svd", "scion")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_singular_values(s: Tensor, rows: int, columns: int) -> Tensor:
    u, v = (torch.linalg.qr(gaussian(n, len(s), seed=n).double())[0] for n in (rows, columns))
    return u * s @ v.mT


def matrices(*weights: Tensor) -> list[dict[str, Any]]:
    return [{"params": list(weights), "update_kind": "orthogonal"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_svd_makes_all_singular_values_one(shape: tuple[int, ...]) -> None:
    s = torch.linalg.svdvals(METHODS["svd"](gaussian(*shape).flatten(1)))
    torch.testing.assert_close(s, torch.ones_like(s), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "low", "high"), [("muon", 0.68, 1.21), ("accurate", 1 - 1e-5, 1 + 1e-5)]
)
def test_newton_schulz_keeps_singular_values_in_its_band(
    method: str, low: float, high: float
) -> None:
    """Of those that are at least 0.002 of the Frobenius norm; bfloat16 rounds by up to 0.4 %."""
    s = torch.logspace(-2, 0, 64, dtype=torch.float64)
    x = with_singular_values(s, 64, 96)
    assert s.min() / s.norm() > 0.002
    found = torch.linalg.svdvals(METHODS[method](x.float() * 7))
    assert low - 0.02 * (method == "muon") <= found.min()
    assert found.max() <= high + 0.02 * (method == "muon")


@pytest.mark.parametrize("method", METHODS)
def test_orthogonal_updates_depend_on_neither_scale_nor_company_nor_orientation(
    method: str,
) -> None:
    x = with_singular_values(torch.linspace(0.1, 1, 24), 24, 40).float()
    u = METHODS[method](x)
    close = partial(torch.testing.assert_close, atol=2e-2 if method == "muon" else 1e-5, rtol=0)
    close(METHODS[method](1e-6 * x), u)
    close(METHODS[method](x.mT).mT, u)
    close(METHODS[method](torch.stack([x, gaussian(24, 40), torch.zeros(24, 40)]))[0], u)
    close(METHODS[method](x.expand(2, 3, 24, 40))[1, 2], u)


@pytest.mark.parametrize("method", METHODS)
def test_directions_that_a_momentum_has_not_are_given_none(method: str) -> None:
    assert torch.equal(METHODS[method](torch.zeros(3, 5)), torch.zeros(3, 5))
    broken = METHODS[method](torch.stack([torch.full((3, 5), math.inf), gaussian(3, 5)]))
    assert broken[0].isnan().all()  # a run that diverges is a result, not an error
    assert broken[1].isfinite().all()
    if method != "muon":  # whose rounding to bfloat16 is a direction too
        low_rank = gaussian(40, 3) @ gaussian(3, 30, seed=1)
        assert torch.linalg.svdvals(METHODS[method](low_rank))[3] < 1e-2


@pytest.mark.parametrize("method", ["svd", "muon"])
@pytest.mark.parametrize("shape", SHAPES)
def test_under_spectral_scaling_the_rms_to_rms_norm_of_an_update_is_lr(
    shape: tuple[int, ...], method: str
) -> None:
    lr = 0.03
    w = nn.Parameter(torch.zeros(shape))
    w.grad = gaussian(*shape)
    Orthogonal(matrices(w), lr=lr, method=method).step()
    change = w.detach().flatten(1)
    rms_to_rms = torch.linalg.matrix_norm(change, ord=2).item() * math.sqrt(
        change.shape[1] / change.shape[0]
    )
    assert rms_to_rms == pytest.approx(lr, rel=1e-4 if method == "svd" else 0.25)


@pytest.mark.parametrize(
    ("scale", "theirs"),
    [
        ("keller", "original"),
        ("match_rms_adamw", "match_rms_adamw"),
        ("spectral", "spectral_unclamped"),
    ],
)
@pytest.mark.parametrize("nesterov", [True, False])
def test_parity_with_torch_muon(scale: str, theirs: str, nesterov: bool) -> None:
    shapes = [(64, 64), (96, 32), (64, 64), (32, 96), (96, 32)]
    ours, reference = (
        [nn.Parameter(gaussian(*s, seed=i)) for i, s in enumerate(shapes)] for _ in range(2)
    )
    common = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    try:
        muon = torch.optim.Muon(reference, adjust_lr_fn=theirs, **common)
    except ValueError as error:
        if "not supported" not in str(error):
            raise
        pytest.skip(f"torch {torch.__version__} has no {theirs}")
    optimizers = Orthogonal(matrices(*ours), scale=scale, **common), muon
    for step in range(20):
        for i, (p, q) in enumerate(zip(ours, reference, strict=True)):
            p.grad = gaussian(*p.shape, seed=100 * step + i) + p.detach()
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, reference, strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)


def quadratic(w: Tensor) -> Tensor:
    return (w * torch.arange(1.0, 1 + w.numel(), dtype=w.dtype).view_as(w) * w).sum()


def follow(make: Callable[[Any], Optimizer], steps: int = 20) -> Tensor:
    """Weights of an MLP and of a quadratic after some steps, in float64."""
    torch.manual_seed(0)
    model = MLP(6, 3, 12, activation="tanh").double()
    w = nn.Parameter(gaussian(4, 5).double())
    optimizer = make([*model.parameters(), w])
    x = gaussian(16, 6).double()
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)) + quadratic(w)).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in (*model.parameters(), w)])


def test_parity_of_lion_with_the_library() -> None:
    options = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.1}
    ours, theirs = (follow(partial(cls, **options)) for cls in (Lion, pytorch_optimizer.Lion))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("library", [pytorch_optimizer.SOAP, pytorch_optimizer.Shampoo])
def test_parity_of_param_groups_with_the_library_as_it_stands(library: type[Optimizer]) -> None:
    """At the base width our groups say what one group of the library's own says."""
    common = {"lr": 0.01, "weight_decay": 0.1}

    def ours(params: Any) -> Optimizer:
        named = {str(i): p for i, p in enumerate(params)}
        fixed = Scale(
            mult=1, init=None, eps=1e-8, grad=1, update_kind="adam", shape_factor=1, **common
        )  # type: ignore[arg-type]
        return build_optimizer(library, named, dict.fromkeys(named, fixed))

    torch.testing.assert_close(follow(ours), follow(partial(library, **common)), atol=1e-12, rtol=0)


def test_matrix_eps_comes_with_the_param_groups() -> None:
    """By default it is the library's own at the base width."""

    def groups(**options: float) -> list[float]:
        shampoo = partial(pytorch_optimizer.Shampoo, **options)
        setup = Setup(partial(MLP, 6, 3), 32, base_width=8, optimizer=shampoo, lr=0.1)
        return [group["matrix_eps"] for group in setup.optimizer().param_groups]

    library = inspect.signature(pytorch_optimizer.Shampoo).parameters["matrix_eps"].default
    of_hidden, of_others = library, library / 4
    assert sorted(set(groups())) == pytest.approx([of_others, of_hidden])
    assert sorted(set(groups(matrix_eps=0.1))) == pytest.approx([0.1 / 4, 0.1])


def test_the_other_tensors_follow_torch_adamw() -> None:
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-3}
    spectator = nn.Parameter(torch.ones(2, 2))

    def ours(params: Any) -> Optimizer:
        return Orthogonal(
            [{"params": params, "update_kind": "adam"}, *matrices(spectator)], **options
        )

    torch.testing.assert_close(
        follow(ours), follow(partial(torch.optim.AdamW, **options)), atol=1e-12, rtol=0
    )


def test_entrywise_directions_are_their_formulas() -> None:
    g, m, v = gaussian(5, 7), gaussian(5, 7, seed=1), gaussian(5, 7, seed=2).abs()
    assert torch.equal(sign_momentum(g, m, 0.0)[0], g.sign())
    assert torch.equal(sign_momentum(g, m, 0.9)[0], (0.9 * m + 0.1 * g).sign())
    u, after = lion(g, m, 0.9, 0.5)
    assert torch.equal(u, (0.9 * m + 0.1 * g).sign())
    torch.testing.assert_close(after, (m + g) / 2)
    zero = torch.zeros_like(g)
    first, m1, v1 = adam_atan2(g, zero, zero, 1, 0.9, 0.99)
    torch.testing.assert_close(first, g.sign())
    second, *_ = adam_atan2(m, m1, v1, 2, 0.9, 0.99)
    ratio = (0.9 * m1 + 0.1 * m) / (1 - 0.9**2) / ((0.99 * v1 + 0.01 * m**2) / (1 - 0.99**2)).sqrt()
    torch.testing.assert_close(second, 4 / math.pi * ratio.atan())
    assert torch.equal(adam_atan2(zero, zero, zero, 1, 0.9, 0.99)[0], zero)
    assert v.min() > 0


def test_directions_take_a_leading_member_axis() -> None:
    g, m, v = (gaussian(3, 5, 7, seed=s) for s in range(3))
    for rule, arguments in (
        (partial(sign_momentum, momentum=0.9), (g, m)),
        (partial(accumulate, momentum=0.9, nesterov=True), (g, m)),
        (partial(lion, beta1=0.9, beta2=0.99), (g, m)),
        (partial(adam_atan2, step=3, beta1=0.9, beta2=0.99), (g, m, v.square())),
        *((lambda x, f=f: (f(x),), (g,)) for f in (METHODS["svd"], METHODS["accurate"])),
    ):
        for whole, *parts in zip(
            rule(*arguments), *(rule(*(a[s] for a in arguments)) for s in range(3)), strict=True
        ):
            torch.testing.assert_close(whole, torch.stack(parts), atol=1e-5, rtol=0)


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 3),
        nn.Flatten(),
        nn.Linear(36 * width, 10),
    )


def prepared(
    optimizer: Any, build: Any = net, width: int = 16, name: str = "mup", **options: Any
) -> tuple:
    setup = Setup(
        build,
        width,
        base_width=8,
        parametrization=name,
        optimizer=optimizer,
        **{"lr": 0.01} | options,
    )
    return setup.model, setup.optimizer(), setup.scales


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    x = gaussian(8, 3, 8, 8)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def test_hidden_matrices_are_orthogonal_and_all_else_is_adam() -> None:
    _, optimizer, numbers = prepared("muon")
    found = {name for name, scale in numbers.items() if scale.update_kind == "orthogonal"}
    assert found == {
        "2.weight"
    }  # not the first and last layer, biases, gains, nor what is stored (in, out)
    assert numbers["2.weight"].shape_factor == pytest.approx(
        math.sqrt(32 / (16 * 9))
    )  # the receptive field counts as fan_in
    by_name = {
        n: group["update_kind"] for group in optimizer.param_groups for n in group["param_names"]
    }
    assert by_name == {name: scale.update_kind for name, scale in numbers.items()}
    _, _, every = prepared(partial(Orthogonal, roles=("input", "hidden", "output")))
    assert {n for n, s in every.items() if s.update_kind == "orthogonal"} == {
        "0.weight",
        "2.weight",
        "7.weight",
    }


def test_a_square_transposed_convolution_is_no_matrix_as_it_is_stored() -> None:
    def build(width: int) -> nn.Module:
        layers = (
            nn.Conv2d(3, width, 3),
            nn.ConvTranspose2d(width, width, 3),
            nn.Conv2d(width, width, 3),
        )
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36 * width, 10))

    _, _, numbers = prepared("muon", build)
    assert {name for name, scale in numbers.items() if scale.update_kind == "orthogonal"} == {
        "2.weight"
    }


@pytest.mark.parametrize("optimizer", NEW)
def test_gradients_are_only_read(optimizer: str) -> None:
    model, stepper, _ = prepared(optimizer, weight_decay=DECAY.get(optimizer, 0.1))
    train(model, stepper, 2)
    before = [p.grad.clone() for p in model.parameters()]
    stepper.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("optimizer", NEW)
def test_training_goes_on_from_a_saved_state(optimizer: str) -> None:
    model, stepper, _ = prepared(optimizer, weight_decay=DECAY.get(optimizer, 0.1))
    train(model, stepper, 3)
    saved = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(stepper.state_dict())
    train(model, stepper, 3)
    other, fresh, _ = prepared(optimizer, weight_decay=DECAY.get(optimizer, 0.1))
    other.load_state_dict(saved)
    fresh.load_state_dict(state)
    train(other, fresh, 3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_zero_gradient_moves_nothing() -> None:
    for method in METHODS:
        w = nn.Parameter(gaussian(4, 6))
        w.grad, before = torch.zeros_like(w), w.detach().clone()
        Orthogonal(matrices(w), method=method).step()
        assert torch.equal(w, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "qr"}, "optimizer.method=qr: must be one of svd"),
        ({"scale": "big"}, "optimizer.scale=big"),
        ({"roles": ("hiden",)}, "optimizer.roles=hiden: must be of input, hidden, output"),
    ],
)
def test_a_bad_argument_is_named_before_training(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepared(partial(Orthogonal, **options))


def test_a_model_without_matrices_of_these_roles_is_an_error() -> None:
    with pytest.raises(
        ConfigError,
        match=r"roles=hidden: the model has no such matrix, so everything would go to Adam",
    ):
        prepared("muon", build=lambda w: MLP(4, 2, w, depth=1))
    with pytest.raises(ConfigError, match="each param group must say update_kind"):
        Orthogonal([nn.Parameter(torch.ones(2, 2))])


@pytest.mark.parametrize("scale", SHAPE_FACTORS)
@pytest.mark.parametrize("name", ["mup", "mup_table3", "mup_table9", "unit_init", "mean_field"])
def test_under_mup_the_rms_to_rms_norm_of_updates_does_not_change_with_width(
    name: str, scale: str
) -> None:
    """Whatever the optimizer makes of shapes; at the base width it is left as it is."""
    optimizer = partial(Orthogonal, scale=scale, roles=("input", "hidden", "output"))

    def norms(width: int, name: str) -> dict[str, float]:
        _, _, numbers = prepared(optimizer, lambda w: MLP(6, 3, [w, 2 * w, w]), width, name)
        infos = describe(lambda w: MLP(6, 3, [w, 2 * w, w]), width, 8)
        return {
            n: s.mult * s.lr * s.shape_factor * math.sqrt(infos[n].fan_in / infos[n].fan_out)
            for n, s in numbers.items()
            if s.update_kind == "orthogonal"
        }

    base = norms(8, "sp")
    assert len(base) == 4
    for width in (8, 64):
        assert norms(width, name) == pytest.approx(base)
    if scale == "spectral":
        assert list(base.values()) == pytest.approx([0.01] * 4)
    assert (norms(64, "sp") == pytest.approx(base)) is (scale == "spectral")


@pytest.mark.parametrize("key", ["lr", "weight_decay", "eps"])
def test_loading_a_state_that_would_undo_hyperparameters_is_an_error(key: str) -> None:
    state = prepared("muon", weight_decay=0.1)[1].state_dict()
    optimizer = prepared("muon", **{"weight_decay": 0.1, key: 0.3})[1]
    with pytest.raises(ConfigError, match=f"saved under {key}="):
        optimizer.load_state_dict(state)
    mine = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict(with_groups_of(optimizer, state))  # what the message advises
    assert optimizer.state_dict()["param_groups"] == mine


@pytest.mark.parametrize(
    "name", [str(f.relative_to(CONFIGS).with_suffix("")) for f in CONFIGS.glob("**/*.yaml")]
)
def test_every_config_of_an_optimizer_trains(name: str) -> None:
    with initialize_config_dir(str(CONFIGS.parent), version_base="1.3"):
        cfg = compose("train", [f"optimizer={name}", "~parametrization"])
    model, optimizer, numbers = prepared(instantiate(cfg.optimizer), lr=LR.get(name, 1e-3))
    x = gaussian(8, 3, 8, 8)
    before = model(x).square().mean().item()
    train(model, optimizer, 5)
    assert model(x).square().mean() < before
    assert {scale.update_kind for scale in numbers.values()} <= set(UpdateKind)


@pytest.mark.parametrize(
    "name", ["mulinear", "cerebras", "sp_full_align", "depth_mup", "completep", "umup"]
)
def test_a_parametrization_without_rules_for_matrices_is_named(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"parametrization={name} has no rules for the update kind 'orthogonal'"
    ):
        prepared("muon", name=name)


def test_a_module_with_a_routed_optimizer_can_be_pickled() -> None:
    setup = Setup(partial(MLP, 4, 2), 8, base_width=4, lr=0.1, optimizer="muon")
    module = pickle.loads(pickle.dumps(TrainingModule(setup)))
    assert module.training_setup.scales == setup.scales


def test_every_named_optimizer_has_rules() -> None:
    assert set(NEW) <= set(optimizers())
    for name, constructor in optimizers().items():
        optimizer_rules(constructor)
        optimizer_rules(name)
    assert [
        optimizer_rules(o).idle_steps for o in (pytorch_optimizer.SOAP, pytorch_optimizer.Shampoo)
    ] == [1, 0]


def test_the_rules_of_whatever_says_how_updates_scale() -> None:
    matrix = describe(lambda w: MLP(6, 3, [w, w]), 16, 8)["layers.1.weight"]
    class_or_name = [(torch.optim.SGD, "sgd"), ("lion", "adam"), ("muon", "orthogonal")]
    partials = [(partial(Orthogonal, roles=("input",)), "adam"), (partial(Lion), "adam")]
    kinds = [("orthogonal", "orthogonal"), (UpdateKind.SGD, "sgd")]
    kinds += [(torch.optim.SGD([torch.ones(1)]), "sgd")]
    for optimizer, kind in (*class_or_name, *partials, *kinds):
        assert optimizer_rules(optimizer).kind_of(matrix) == kind
    rules = optimizer_rules("muon")
    assert optimizer_rules(rules) is rules
    for unknown, message in (
        ("mupn", "optimizer=mupn: must be one of sgd, adam, adamw, "),
        (torch.optim.Adagrad, "optimizer=Adagrad: how its updates scale is not known; "),
    ):
        with pytest.raises(ConfigError, match=message) as raised:
            optimizer_rules(unknown)
        assert "\n" not in str(raised.value)


def test_a_module_of_the_package_is_found_by_its_optimizers_name() -> None:
    code = "import sys; from mupl.optim.registry import resolve; print(resolve('lion').__name__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "Lion\n"
    assert resolve("lion") is Lion


@pytest.mark.parametrize("name", [*optimizers(), "soap"])
def test_an_eps_of_0_is_warned_of_where_it_lets_training_diverge(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    setup = Setup(perceptron, 16, base_width=8, lr=0.1, eps=0, optimizer=name)
    optimizer = setup.optimizer()
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0
    for _ in range(3):
        optimizer.zero_grad()
        setup.model(x).square().mean().backward()
        optimizer.step()
    diverged = not all(weight.isfinite().all() for weight in setup.model.parameters())
    warned = any(str(warning.message).startswith("eps=0: ") for warning in recwarn)
    assert warned is (diverged or name == "blocked_shampoo")  # which divides where it is grafted

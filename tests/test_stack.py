"""A stack trains each of its members as it would train alone."""

import copy
import functools
import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from mupl.data import Splits, digits
from mupl.data.batches import Batch
from mupl.data.modules import TensorData
from mupl.models import MLP
from mupl.nn.tensors import parameters
from mupl.optim.blocked import BlockedShampoo, BlockedSOAP
from mupl.optim.elementwise import AdamAtan2, Elementwise, Lion, SignSGD
from mupl.optim.groups import build_optimizer
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.registry import optimizer_rules
from mupl.optim.schedules import Schedule
from mupl.optim.scion import Scion
from mupl.parametrization.rules import get_parametrization
from mupl.parametrization.scales import Scale
from mupl.parametrization.tables import TABLES, UNIT_SCALED
from mupl.roles import describe
from mupl.stacked.compiled import compiled
from mupl.stacked.model import sample_weights
from mupl.stacked.optimizer import StackedOptimizer
from mupl.stacked.plan import shape_key
from mupl.stacked.rules import NotStackable, stackable
from mupl.stacked.stack import Stack
from mupl.training.callbacks import LossRecord
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup
from tests.resuming import trainer

CONF = Path(__file__).parents[1] / "conf"


def soft_sign(g: Tensor, m: Tensor, momentum: Any, eps: Any) -> tuple[Tensor, Tensor]:
    """Adam without a second moment: m over its own size."""
    m = m.lerp(g, 1 - momentum)
    return m / (m.abs() + eps), m


class SoftSign(Elementwise):
    """A new optimizer, with an eps: all that a newcomer writes, and nothing names it elsewhere."""

    buffers = ("momentum_buffer",)
    direction = staticmethod(soft_sign)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum, eps=eps)

    @staticmethod
    def scalars(options: Any, k: int) -> dict[str, float]:
        return {"momentum": options["momentum"]}


HYPERBALL = partial(Normalized, normalise="hyperball")
OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.8, nesterov=True),
    "adam": partial(torch.optim.Adam, betas=(0.8, 0.95)),
    "adamw": torch.optim.AdamW,
    "lion": partial(Lion, betas=(0.8, 0.9)),
    "sign_sgd": SignSGD,
    "adam_atan2": AdamAtan2,
    "soft_sign": partial(SoftSign, momentum=0.8),
    "shampoo_svd": partial(Orthogonal, method="svd", nesterov=False),
    "muon": partial(Orthogonal, method="accurate", scale="keller", momentum=0.9),
    "shampoo": partial(
        pytorch_optimizer.Shampoo,
        matrix_eps=1e-4,
        weight_decouple=True,
        preconditioning_compute_steps=4,
    ),
    "shampoo_coupled": partial(
        pytorch_optimizer.Shampoo, matrix_eps=1e-2, preconditioning_compute_steps=3
    ),
    "soap": pytorch_optimizer.SOAP,
    "blocked_soap": partial(BlockedSOAP, block_size=5),
    "blocked_shampoo": partial(
        BlockedShampoo,
        block_size=24,
        graft="rmsprop",
        matrix_eps=1e-4,
        preconditioning_compute_steps=4,
    ),
    "scion": partial(Scion, matrix_radius=2.0, readout_radius=2.0, other_radius=0.5, method="svd"),
    "adamh": partial(HYPERBALL, inner=partial(torch.optim.AdamW, betas=(0.8, 0.95))),
    "muonh": partial(HYPERBALL, inner=partial(Orthogonal, method="svd", scale="keller")),
    "lion_spectral": partial(Normalized, inner=Lion, normalise="spectral"),
    "sgd_frobenius": partial(
        Normalized,
        inner=partial(torch.optim.SGD, momentum=0.9),
        normalise="frobenius",
        roles=("hidden", "output"),
    ),
    "shampoo_frobenius": partial(
        Normalized,
        inner=partial(pytorch_optimizer.Shampoo, matrix_eps=1e-2, weight_decouple=True),
        normalise="frobenius",
    ),
}
IN_LIGHTNING = ("sgd", "adamw")  # a third of their members train alone as a run does, by Lightning
LR = dict.fromkeys(OPTIMIZERS, 0.01)
LR |= {"sgd": 0.05, "nesterov": 0.05, "shampoo_coupled": 0.001}
LR |= dict.fromkeys(("lion", "sign_sgd", "soft_sign"), 0.001)


def build(width: Any, **options: Any) -> nn.Module:
    return MLP(64, 10, width, **{"depth": 2, "activation": "tanh"} | options)


def conv_net(width: int) -> nn.Module:
    """A foreign module, with a buffer that training changes."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36 * width, 10),
    )


def square(width: int) -> nn.Module:
    """At width 32 all matrices are 10 x 10.

    So no gradient has a null space, in which rounding would make SOAP's basis.
    """
    return MLP(10, 10, 5 * width // 16, depth=2, activation="tanh")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits()


def largest_pixel() -> Splits:
    """Which of ten pixels is the largest."""
    x = torch.randint(
        256, (1100, 1, 2, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    y = x.flatten(1).int().argmax(1)
    return Splits(x[:1000], y[:1000], x[1000:], y[1000:], 10)


def members(optimizer: str, seeds: tuple[int, ...] = (0, 1)) -> list[dict[str, Any]]:
    """Every parametrization with rules for the optimizer, each seed with other numbers."""
    infos = describe(build, 32, 8)
    rules = optimizer_rules(OPTIMIZERS[optimizer])
    kinds = {str(rules.kind_of(info)) for info in infos.values()}
    tables = [get_parametrization(name).width_only() for name in TABLES]
    tables = [table for table in tables if kinds <= set(table.update_kinds)]
    if "adam" not in kinds or len(kinds) > 1:  # under SGD u-muP needs its own operations
        tables = [table for table in tables if table.name not in UNIT_SCALED]
    decays = 0.0 if rules.own_decay else 0.1
    return [
        {
            "parametrization": table,
            "seed": seed,
            "lr": LR[optimizer] * (1 + seed) / (1 + i % 3),
            "eps": 1e-4 * (1 + seed),
            "weight_decay": decays * (i % 2),
            "weight_decay_mode": ("coupled", 0.5, "independent", "decoupled")[(i + seed) % 4],
            "schedule": Schedule(("constant", "cosine", "linear")[i % 3], warmup=0.1 * (i % 4)),
        }
        for seed in seeds
        for i, table in enumerate(tables)
    ]


def setup_of(build: Any, arguments: dict[str, Any]) -> Setup:
    return Setup(**{"build": build, "width": 32, "base_width": 8} | arguments)


def stack_of(
    build: Any, arguments: list[dict[str, Any]], splits: Splits, train: int = 0, **options: Any
) -> Stack:
    """After `train` updates."""
    with torch.device("meta"):
        members = [setup_of(build, a) for a in arguments]
    stack = Stack(
        members, splits, **{"batch_size": 32, "max_steps": 100, "dtype": torch.float64} | options
    )
    stack.train(train)
    return stack


class Alone(NamedTuple):
    """What a training of one member left."""

    setup: Setup
    losses: Tensor
    validation: dict[str, float]


@functools.cache
def batches(splits: Splits, seed: int, steps: int) -> tuple[list[Batch], list[Batch]]:
    """Those to train and to validate on, in float64, of a run alone."""
    data = TensorData(splits, 32, seed=seed)
    loader = data.train_dataloader()
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    train = itertools.islice(epochs, steps)
    return [(x.double(), y) for x, y in train], [(x.double(), y) for x, y in data.val_dataloader()]


def alone(
    build: Any,
    arguments: dict[str, Any],
    splits: Splits,
    clip: float | None = None,
    steps: int = 100,
) -> Alone:
    """By a plain loop, which takes half the time of Lightning's."""
    setup = setup_of(build, arguments)
    model = setup.model.double()
    optimizer = setup.optimizer()
    scheduler = setup.schedule.scheduler(optimizer, steps)
    train, ((x, target),) = batches(splits, arguments["seed"], steps)
    losses = []
    for batch, labels in train:
        loss = setup.loss(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    model.eval()
    with torch.no_grad():
        output = model(x)
        accuracy = (output.argmax(-1) == target).double().mean()
        validation = {"val_loss": setup.loss(output, target), "val_accuracy": accuracy}
    return Alone(setup, torch.stack(losses), {k: v.item() for k, v in validation.items()})


def alone_in_lightning(
    build: Any,
    arguments: dict[str, Any],
    splits: Splits,
    clip: float | None = None,
    steps: int = 100,
) -> Alone:
    setup, record = setup_of(build, arguments), LossRecord()
    used = trainer(
        precision="64-true",
        max_steps=steps,
        gradient_clip_val=clip,
        callbacks=[record],
        val_check_interval=steps,
        check_val_every_n_epoch=None,
    )
    used.fit(TrainingModule(setup), datamodule=TensorData(splits, 32, seed=arguments["seed"]))
    validation = {name: value.item() for name, value in used.callback_metrics.items()}
    return Alone(setup, record.losses, validation)


def distances(stack: Stack, i: int, trained: Alone) -> tuple[float, float]:
    """Largest difference of a loss and of a final effective weight."""
    setup = trained.setup
    weights = parameters(setup.model, setup.scales)
    apart = [
        (w * setup.scales[n].mult - stack.weights[n][i]).abs().max().item()
        for n, w in weights.items()
    ]
    return (trained.losses - stack.losses[:, i]).abs().max().item(), max(apart)


def one_by_table(arguments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the members of two seeds one for each table, with every kind of weight decay."""
    count = len(arguments) // 2
    return [arguments[i // 4 % 2 * count + i] for i in range(count)]


def assert_as_alone(arguments: list[dict[str, Any]], splits: Splits) -> None:
    """Each member of a stack, after 100 steps, is where it would be alone."""
    stack = stack_of(build, arguments, splits, train=100)
    for i, own in enumerate(arguments):
        assert max(distances(stack, i, alone(build, own, splits))) < 1e-10


# variants of others that are fast, and what takes long
VARIANTS = (
    *("nesterov", "adam", "sign_sgd", "soft_sign", "shampoo_coupled", "blocked_shampoo"),
    *("sgd_frobenius", "shampoo_frobenius"),
)
UNCLIPPED = [
    pytest.param(name, None, marks=pytest.mark.slow if name in VARIANTS else ())
    for name in OPTIMIZERS
]
# gradients are clipped before the optimizer sees them, so that a few stand for all
CLIPPED = [
    pytest.param(name, 0.1, marks=() if name in ("sgd", "adamw", "muon") else pytest.mark.slow)
    for name in OPTIMIZERS
]


@pytest.mark.filterwarnings("ignore:optimizer. updates of")  # blocked_soap, of tiny matrices
@pytest.mark.parametrize(("optimizer", "clip"), [*UNCLIPPED, *CLIPPED])
def test_members_follow_the_trajectories_that_they_have_alone(
    optimizer: str, clip: float | None, splits: Splits
) -> None:
    is_soap = optimizer in ("soap", "blocked_soap")
    net, splits = (square, largest_pixel()) if is_soap else (build, splits)
    chosen = one_by_table(members(optimizer))
    arguments = [a | {"optimizer": OPTIMIZERS[optimizer]} for a in chosen]
    clips = [clip if i % 2 else None for i in range(len(arguments))]
    steps = 40 if is_soap else 20  # SOAP makes its basis anew at four of its
    stack = stack_of(net, arguments, splits, train=steps, max_steps=steps, clip=clips)
    validation = stack.evaluate()
    for i in range(0, len(arguments), 3 if clip else 1):
        in_lightning = optimizer in IN_LIGHTNING and i % 3 == 0
        train_alone = alone_in_lightning if in_lightning else alone
        trained = train_alone(net, arguments[i], splits, clips[i], steps)
        assert max(distances(stack, i, trained)) < 1e-10, arguments[i]
        for name in ("val_loss", "val_accuracy"):
            assert validation[name][i] == pytest.approx(trained.validation[name], abs=1e-6), name


SHAPES = {"square": (5, 5), "vector": (5,), "convolution": (4, 3, 2, 2), "long": (9, 3, 3)}


@pytest.mark.parametrize(
    ("optimizer", "shapes", "tolerance"),
    [
        (
            partial(pytorch_optimizer.SOAP, max_precondition_dim=8),
            SHAPES,
            1e-6,
        ),  # "long": two sides
        (
            partial(pytorch_optimizer.SOAP, precondition_frequency=15, betas=(0.9, 0.8)),
            SHAPES,
            1e-6,
        ),
        (partial(pytorch_optimizer.Shampoo, matrix_eps=1e-2), SHAPES | {"matrix": (6, 4)}, 1e-10),
    ],
)
def test_preconditioners_of_tensors_of_any_shape_are_the_librarys(
    optimizer: Any, shapes: dict[str, tuple[int, ...]], tolerance: float
) -> None:
    """SOAP's later bases are of a QR in float32, whose last digits depend on how memory is aligned.

    Its first basis is of one gradient, and arbitrary where that gradient's outer product on a side
    has a null space. So each side of a tensor here is at most as long as the rest of it.
    """
    generator = torch.Generator().manual_seed(0)
    every = [
        {
            n: torch.randint(-8, 9, (2, *s), generator=generator).double() / 8
            for n, s in shapes.items()
        }
        for _ in range(40)
    ]
    weights = {n: nn.Parameter(torch.ones(2, *s, dtype=torch.float64)) for n, s in shapes.items()}
    tuned = {
        "init": None,
        "lr": 0.01,
        "eps": 1e-4,
        "matrix_eps": 1e-2,
        "weight_decay": 0.1,
        "update_kind": "adam" if "SOAP" in str(optimizer) else "orthogonal",
        "shape_factor": 1.0,
    }
    scales = [Scale(mult=m, grad=grad, **tuned) for m, grad in ((0.75, 1.0), (2.0, 0.5))]
    stacked_too = StackedOptimizer(
        weights,
        [dict.fromkeys(shapes, s) for s in scales],
        2 * [optimizer],
        2 * [Schedule()],
        2 * [None],
        len(every),
    )
    with torch.no_grad():
        for k, gradients in enumerate(every):
            stacked_too.step(gradients, torch.tensor([k]), k)
    for i, scale in enumerate(scales):
        own = {
            n: nn.Parameter(torch.ones(s, dtype=torch.float64) / scale.mult)
            for n, s in shapes.items()
        }
        stepper = build_optimizer(optimizer, own, dict.fromkeys(shapes, scale))
        for gradients in every:
            for n, w in own.items():
                w.grad = gradients[n][i] * scale.mult * scale.grad
            stepper.step()
        for n, w in own.items():
            torch.testing.assert_close(weights[n][i], w * scale.mult, atol=tolerance, rtol=0, msg=n)
            assert (weights[n][i] - 1).abs().max() > 1e-2


def test_a_rule_that_is_wrong_is_seen(splits: Splits) -> None:
    arguments = [a | {"optimizer": "adamw"} for a in members("adamw", (1,))[:2]]
    stack = stack_of(build, arguments, splits)
    stack.optimizer._slots["layers.1.weight"].scalars["eps"].mul_(1.01)
    stack.train(100)
    assert distances(stack, 0, alone(build, arguments[0], splits))[1] > 1e-6


def test_in_float32_the_first_losses_are_equal(splits: Splits) -> None:
    arguments = [a | {"optimizer": "adamw"} for a in members("adamw")]
    stack = stack_of(build, arguments, splits, train=1, dtype=torch.float32)
    for i, a in enumerate(arguments):
        setup = setup_of(build, a)
        x, y = next(iter(TensorData(splits, 32, seed=a["seed"]).train_dataloader()))
        assert stack.losses[0, i].item() == pytest.approx(
            setup.loss(setup.model(x), y).item(), rel=1e-6
        )


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 0, 1), (5, 5)])
def test_seeds_may_be_shared_or_not(seeds: tuple[int, ...], splits: Splits) -> None:
    assert_as_alone(
        [{"seed": s, "lr": 0.01 * (i + 1), "optimizer": "adam"} for i, s in enumerate(seeds)],
        splits,
    )


def test_a_foreign_module_is_mapped_with_its_buffers_and_multipliers(splits: Splits) -> None:
    arguments = [
        {
            "parametrization": get_parametrization(name).width_only(),
            "seed": seed,
            "lr": 0.01,
            "eps": 1e-4,
            "optimizer": "adamw",
            "weight_decay": 0.1,
        }
        for seed in (0, 1)
        for name in ("sp", "mup", "mulinear")
    ]
    stack = stack_of(conv_net, arguments, splits, train=30, max_steps=30)
    validation = stack.evaluate()["val_loss"]
    for i, a in enumerate(arguments):
        trained = alone(conv_net, a, splits, steps=30)
        assert max(distances(stack, i, trained)) < 1e-10
        assert validation[i] == pytest.approx(trained.validation["val_loss"], rel=1e-6)


def test_members_may_differ_in_multipliers_of_the_model(splits: Splits) -> None:
    options = [
        {"input_mult": 0.5, "output_mult": 1.0},
        {"input_mult": 1.0, "output_mult": 4.0, "zero_readout": True},
    ]
    assert_as_alone(
        [{"build": partial(build, **o), "lr": 0.01, "seed": 3} for o in options], splits
    )


def test_any_loss_will_do(splits: Splits) -> None:
    def squared(output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, F.one_hot(target, 10).to(output.dtype))

    assert_as_alone([{"seed": s, "lr": 0.01, "loss": squared} for s in (0, 1)], splits)


def test_no_member_has_diverged_before_the_first_step(splits: Splits) -> None:
    arguments = [{"seed": seed, "lr": 0.01} for seed in (0, 1)]
    assert stack_of(build, arguments, splits).diverged() == [None, None]  # as after a signal


@pytest.mark.parametrize("optimizer", ["sgd", "shampoo"])
def test_a_member_that_diverges_is_frozen_and_touches_no_other(
    optimizer: str, splits: Splits
) -> None:
    common = {"seed": 0, "optimizer": OPTIMIZERS[optimizer], "parametrization": "sp"}
    arguments = [common | {"lr": lr} for lr in (0.01, 1e30, 0.02)]
    relu = partial(build, activation="relu")
    stack = stack_of(relu, arguments, splits, train=10, dtype=torch.float32)
    diverged = stack.diverged()
    assert (diverged[0], diverged[2]) == (None, None)
    assert diverged[1] is not None
    stack.train(100)
    assert stack.diverged() == diverged
    assert all((w[1] == 0).all() for w in stack.weights.values())
    without = stack_of(relu, [arguments[0], arguments[2]], splits, train=100, dtype=torch.float32)
    assert torch.allclose(without.losses, stack.losses[:, ::2], rtol=1e-4)


def test_a_stack_goes_on_from_its_state_and_from_that_of_some_members(splits: Splits) -> None:
    arguments = [a | {"optimizer": "adamw"} for a in members("adamw", (0, 1))]
    whole = stack_of(build, arguments, splits, train=60)
    state = copy.deepcopy(whole.state_dict())
    whole.train(100)
    again = stack_of(build, arguments, splits)
    again.load_state_dict(state)
    again.train(100)
    assert torch.equal(again.losses, whole.losses)
    some = [3, 7, 12]
    part = stack_of(build, [arguments[i] for i in some], splits)
    part.load_state_dict(state, some)
    part.train(100)
    assert (part.losses - whole.losses[:, some]).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.Adagrad, "optimizer Adagrad: a stack knows SGD, Adam, AdamW"),
        (partial(torch.optim.Adam, amsgrad=True), "optimizer.amsgrad=True: a stack knows betas"),
        (partial(torch.optim.SGD, momentum=0.9, dampening=0.1), "optimizer.dampening=0.1"),
        (
            partial(pytorch_optimizer.SOAP, merge_dims=True),
            "optimizer.merge_dims=True: a stack knows betas, precond",
        ),
        (
            partial(pytorch_optimizer.Shampoo, momentum=0.9),
            "optimizer.momentum=0.9: a stack knows matrix_eps, precond",
        ),
        (partial(pytorch_optimizer.SOAP, typo=1), "optimizer.typo=1"),
    ],
)
def test_what_a_stack_does_not_know_is_said(optimizer: Any, message: str) -> None:
    with pytest.raises(NotStackable, match=message):
        stackable(optimizer)


def test_a_new_elementwise_optimizer_is_known_to_the_rules_and_the_plan() -> None:
    assert optimizer_rules(partial(SoftSign, momentum=0.5)).kind_of(None) == "adam"
    known, options = stackable(partial(SoftSign, momentum=0.5, eps=1.0, lr=2.0))
    assert known.options == ("momentum",)
    assert options == {"momentum": 0.5}
    assert stackable(SoftSign)[0] is known  # so that its update is compiled once
    target = f"optimizer._target_={SoftSign.__module__}.SoftSign"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = []
        for momentum in (0.5, 0.9):
            changes = [target, "~optimizer.betas", f"+optimizer.momentum={momentum}"]
            config = compose("train", ["~parametrization", "trainer=cpu", "~logger", *changes])
            keys.append(shape_key(config))
    assert keys[0] == keys[1]
    assert "SoftSign" in keys[0]


def test_an_elementwise_optimizer_that_does_more_than_its_direction_says_runs_alone() -> None:
    class Own(SoftSign):
        def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
            super().update(group, weights)

    with pytest.raises(NotStackable, match="optimizer Own: has its own `update`"):
        stackable(Own)


def test_members_whose_tensors_follow_other_rules_cannot_be_stacked(splits: Splits) -> None:
    with pytest.raises(NotStackable, match="members differ in the kind of its updates: adam, sgd"):
        stack_of(build, [{"lr": 0.1, "update_kind": kind} for kind in ("sgd", "adam")], splits)
    with pytest.raises(NotStackable, match="a stack knows no updates of the kind sgd"):
        stack_of(build, [{"lr": 0.1, "update_kind": "sgd"}], splits)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "shampoo_coupled"])
def test_a_captured_step_is_the_same(optimizer: str, splits: Splits) -> None:
    arguments = [a | {"optimizer": OPTIMIZERS[optimizer]} for a in members(optimizer)]
    clips = [0.1 if i % 2 else None for i in range(len(arguments))]
    on_cpu = stack_of(build, arguments, splits, train=100, clip=clips)
    on_gpu = stack_of(build, arguments, splits, train=100, clip=clips, device="cuda")
    assert on_gpu._captured.graph is not None
    assert (on_gpu.losses.cpu() - on_cpu.losses).abs().max() < 1e-10


def test_initial_weights_of_one_seed_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        setup = setup_of(build, {"lr": 0.1})
    others = {"eps": 1e-8, "weight_decay": 0.0, "weight_decay_mode": "decoupled"}
    louder = {"hidden": {"init": 2.0}}
    members = []
    for seed, tune in [(0, None), (0, None), (1, None), (0, louder), (1, None), (0, louder)]:
        lr = 0.1 * (len(members) + 1)
        members.append(setup.with_tuned(seed=seed, lr=lr, tune=tune, **others))
    starts = []
    for member in members:
        model = member.initial_model()
        scales = member.scales
        starts.append({n: scales[n].mult * w for n, w in parameters(model, scales).items()})
    drawn = []
    draw = Setup.initial_model
    monkeypatch.setattr(Setup, "initial_model", lambda self: drawn.append(self.seed) or draw(self))
    weights = sample_weights(members, torch.device("cpu"), torch.float32)
    assert drawn == [0, 1, 0]
    for name, of_members in weights.items():
        for w, start in zip(of_members, starts, strict=True):
            assert torch.equal(w, start[name])


def test_updates_that_cannot_be_compiled_are_made_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda update, dynamic: refuse)
    update = compiled(lambda values: values.append(1), dynamic=True)
    values: list[int] = []
    update(values)
    update(values)
    assert values == [1, 1]
    assert caplog.text.count("cannot be compiled: no compiler") == 1

"""A stack of transformers trains each of its members as it would train alone."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from mupl.data import Tokens
from mupl.data.modules import TextData
from mupl.models import GPT
from mupl.nn.tensors import parameters
from mupl.optim.blocked import BlockedShampoo
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.scion import Scion
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder
from mupl.training.setup import Setup
from tests.commands import train

V, T, BATCH, STEPS = 11, 8, 4, 8
WIDTH, BASE, DEPTH, BASE_DEPTH = 16, 8, 2, 1

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned positions and biases": {"positions": "learned", "bias": True},
    "rmsnorm, swiglu, grouped heads that grow": {
        "norm": "rmsnorm",
        "activation": "swiglu",
        "qk_norm": True,
        "d_head": None,
        "heads": 2,
        "group_size": 2,
    },
    "tied": {"tied": True},
    "post-norm without gains": {"post_norm": True, "norm_gain": False},
    "dropout": {"dropout": 0.3, "d_head": 4, "group_size": 2},
    "experts": {"experts": 4, "experts_per_token": 2, "bias": True, "activation": "swiglu"},
}


class Foreign(GPT):
    """One that says nothing of a member axis."""

    member_axis: ClassVar = False


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Counting up by one or two, with a jump now and then."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 3, (600,), generator=generator)
    sequence = steps.cumsum(0) % V
    return Tokens(sequence[:500], sequence[500:], V, T)


def members(optimizer: str) -> list[dict[str, Any]]:
    names = ["sp", "mup", "completep", "depth_mup", "unit_init", "mulinear"]
    tuned = {"lr": 0.05} if optimizer == "sgd" else {"lr": 0.01, "eps": 1e-4, "weight_decay": 0.1}
    return [
        {
            **tuned,
            "parametrization": name,
            "optimizer": optimizer,
            "seed": i // 2 % 2,
            "lr": tuned["lr"] * (1 + i % 3),
        }
        for i, name in enumerate(names)
    ]


def setup_of(arguments: dict[str, Any], model: type[GPT], options: dict[str, Any]) -> Setup:
    build = partial(model, V, T, **{"d_head": 4} | options)
    return Setup(build, WIDTH, base_width=BASE, depth=DEPTH, base_depth=BASE_DEPTH, **arguments)


def stack_of(
    arguments: list[dict[str, Any]],
    tokens: Tokens,
    options: list[dict[str, Any]],
    model: type[GPT] = GPT,
    device: str = "cpu",
) -> Stack:
    with torch.device("meta"):
        members = [setup_of(a, model, o) for a, o in zip(arguments, options, strict=True)]
    return Stack(
        members, tokens, batch_size=BATCH, max_steps=STEPS, dtype=torch.float64, device=device
    )


def alone(
    arguments: dict[str, Any], tokens: Tokens, options: dict[str, Any]
) -> tuple[Setup, Tensor, Tensor]:
    """The setup after training, its losses, and its validation loss."""
    trained = setup_of(arguments, GPT, options)
    trained.model.double()
    optimizer = trained.optimizer()
    data = TextData(tokens, BATCH, seed=arguments["seed"])
    losses = []
    for _, (x, target) in zip(range(STEPS), data.train_dataloader(), strict=False):
        loss = trained.loss(trained.model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    trained.model.eval()
    with torch.no_grad():
        values = [(trained.loss(trained.model(x), y), len(y)) for x, y in data.val_dataloader()]
    validation = sum(value * count for value, count in values) / sum(count for _, count in values)
    return trained, torch.stack(losses), torch.as_tensor(validation)


def compare(
    stack: Stack, arguments: list[dict[str, Any]], tokens: Tokens, options: list[dict[str, Any]]
) -> None:
    stack.train(STEPS)
    validation = stack.evaluate()
    for i, (a, o) in enumerate(zip(arguments, options, strict=True)):
        trained, losses, loss = alone(a, tokens, o)
        torch.testing.assert_close(stack.losses[:, i], losses, atol=1e-9, rtol=0, msg=str(a))
        for name, w in parameters(trained.model, trained.scales).items():
            effective = w.detach() * trained.scales[name].mult
            torch.testing.assert_close(
                stack.weights[name][i].detach(), effective, atol=1e-9, rtol=0, msg=name
            )
        assert validation["val_loss"][i] == pytest.approx(loss.item(), abs=1e-9)
        assert losses[-1] != losses[0]


EVERY = slice(None)


@pytest.mark.parametrize(
    ("variant", "optimizer", "chosen"),
    [
        ("plain", "adamw", EVERY),
        # every second member in turn
        *((variant, "adamw", slice(i % 2, None, 2)) for i, variant in enumerate([*VARIANTS][1:])),
        *(pytest.param(v, "adamw", EVERY, marks=pytest.mark.slow) for v in [*VARIANTS][1:]),
        *(pytest.param(v, "sgd", EVERY, marks=pytest.mark.slow) for v in VARIANTS),
    ],
    ids=str,
)
def test_members_follow_the_trajectories_that_they_have_alone(
    variant: str, optimizer: str, chosen: slice, tokens: Tokens
) -> None:
    arguments = members(optimizer)[chosen]
    options = [VARIANTS[variant]] * len(arguments)
    compare(stack_of(arguments, tokens, options), arguments, tokens, options)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(Orthogonal, method="accurate"),
        partial(Normalized, inner="adamw", normalise="hyperball"),
        pytest.param(partial(BlockedShampoo, block_size=4), marks=pytest.mark.slow),
        pytest.param(Scion, marks=pytest.mark.slow),
    ],
)
def test_each_expert_is_moved_as_a_matrix_of_its_own(optimizer: Any, tokens: Tokens) -> None:
    arguments: list[dict[str, Any]] = []
    for seed, name in ((0, "mup"), (1, "unit_init")):
        tuned = {"parametrization": name, "lr": 0.01, "seed": seed}
        arguments.append({**tuned, "optimizer": optimizer})
    options = [{"experts": "width / 4", "bias": True, "activation": "swiglu"}] * 2
    compare(stack_of(arguments, tokens, options), arguments, tokens, options)


def test_a_loss_under_autocast_is_as_fine_as_that_of_a_run_alone(tokens: Tokens) -> None:
    arguments = {"lr": 0.01, "seed": 0, "parametrization": "sp"}
    with torch.device("meta"):
        member = setup_of(arguments, GPT, {})
    stack = Stack([member], tokens, batch_size=BATCH, max_steps=1, autocast=torch.bfloat16)
    stack.train(1)
    x, target = next(iter(TextData(tokens, BATCH, seed=0).train_dataloader()))
    trained = setup_of(arguments, GPT, {})
    with torch.autocast("cpu", torch.bfloat16):
        alone = trained.loss(trained.model(x), target)
    assert alone.dtype == torch.float32
    assert stack.losses[0].item() == pytest.approx(
        alone.item(), rel=1e-4
    )  # three digits would be 4e-3


def test_members_may_differ_in_every_multiplier_of_the_model(tokens: Tokens) -> None:
    options = [
        {},
        {
            "input_mult": 0.5,
            "attention_mult": 2.0,
            "activation_mult": 3.0,
            "residual_mult": 0.3,
            "output_mult": 4.0,
        },
        {"init_std": 0.5, "embedding_std": 0.1, "zero_readout": True},
    ]
    arguments: list[dict[str, Any]] = [{"lr": 0.01, "eps": 1e-4, "seed": 3}] * 3
    compare(stack_of(arguments, tokens, options), arguments, tokens, options)


def test_members_of_one_parametrization_share_batches_and_plain_numbers(tokens: Tokens) -> None:
    arguments: list[dict[str, Any]] = [
        {"lr": 0.01 * (1 + i), "eps": 1e-4, "seed": i // 2} for i in range(4)
    ]
    options: list[dict[str, Any]] = [{}] * 4
    stack = stack_of(arguments, tokens, options)
    assert isinstance(stack.model.get_submodule("blocks.0.mlp_residual").value, float)
    assert stack._batches()[0].shape == (2, BATCH, T)
    compare(stack, arguments, tokens, options)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention under vmap on a CPU
def test_a_model_without_a_member_axis_is_mapped_with_its_factors(tokens: Tokens) -> None:
    arguments = members("adamw")
    options: list[dict[str, Any]] = [{"d_head": None, "heads": 2}] * len(arguments)
    compare(stack_of(arguments, tokens, options, Foreign), arguments, tokens, options)


DROPOUT = {"dropout": 0.3}


def seeds_of(*seeds: int) -> list[dict[str, Any]]:
    return [{"lr": 0.02, "eps": 1e-4, "seed": seed} for seed in seeds]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("model", [GPT, Foreign])
def test_a_seed_draws_the_same_masks_alone_and_among_others(
    model: type[GPT], tokens: Tokens
) -> None:
    together = stack_of(seeds_of(4, 7, 1), tokens, [DROPOUT] * 3, model)
    alone = stack_of(seeds_of(7), tokens, [DROPOUT], model)
    without = stack_of(seeds_of(7), tokens, [{}], model)
    for stack in (together, alone, without):
        stack.train(STEPS)
    torch.testing.assert_close(together.losses[:, 1:2], alone.losses, atol=1e-12, rtol=0)
    assert (without.losses - alone.losses).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("model", [GPT, Foreign])
def test_a_stack_with_dropout_goes_on_bit_for_bit_also_in_halves(
    model: type[GPT], tokens: Tokens, tmp_path: Path
) -> None:
    seeds = (4, 7, 1, 9)
    whole = stack_of(seeds_of(*seeds), tokens, [DROPOUT] * 4, model)
    whole.train(5)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    whole.train(STEPS)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = stack_of(seeds_of(*seeds), tokens, [DROPOUT] * 4, model)
    resumed.load_state_dict(state)
    resumed.train(STEPS)
    assert torch.equal(resumed.losses, whole.losses)
    for half in ([0, 1], [3, 2]):
        part = stack_of(seeds_of(*(seeds[i] for i in half)), tokens, [DROPOUT] * 2, model)
        part.load_state_dict(state, half)
        part.train(STEPS)
        torch.testing.assert_close(part.losses, whole.losses[:, half], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("variant", "modules"),
    [
        ("learned positions and biases", None),
        ("rmsnorm, swiglu, grouped heads that grow", ["*.logits"]),
    ],
)
def test_a_recorder_sees_in_a_stack_what_it_sees_in_each_member(
    variant: str, modules: list[str] | None, tokens: Tokens
) -> None:
    arguments = members("adamw")[:3]
    options = [VARIANTS[variant]] * 3
    stack = stack_of(arguments, tokens, options)
    kinds = ("output", "param", "output_change")
    with Recorder(
        stack.model, columns=[{}] * 3, steps=[0, 2], kinds=kinds, modules=modules
    ) as recorder:
        stack.train(3, recorder=recorder)
    for i, a in enumerate(arguments):
        trained = setup_of(a, GPT, options[i])
        trained.model.double()
        optimizer = trained.optimizer()
        with Recorder(
            trained.model, trained.scales, steps=[0, 2], kinds=kinds, modules=modules
        ) as own:
            for _, (x, target) in zip(
                range(3), TextData(tokens, BATCH, a["seed"]).train_dataloader(), strict=False
            ):
                own.probe = x if own.probe is None else own.probe
                own.begin_step()
                optimizer.zero_grad()
                trained.loss(trained.model(x), target).backward()
                optimizer.step()
                own.end_step()
        found = {(r["t"], r["kind"], r["name"]): r["value"] for r in recorder.rows_of(i)}
        expected = {(r["t"], r["kind"], r["name"]): r["value"] for r in own.rows}
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert any(kind == "output" for _, kind, _ in found)


def test_unit_scaled_operations_are_refused(tokens: Tokens) -> None:
    with pytest.raises(NotStackable, match="unit-scaled operations have multipliers of gradients"):
        stack_of(
            [{"lr": 0.1, "parametrization": "umup"}],
            tokens,
            [{"unit_scaling": True, "norm_gain": False}],
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch.compile looks at
def test_compiled_blocks_are_the_same_and_compiled_once_for_all(tokens: Tokens) -> None:
    arguments = members("adamw")
    options = [VARIANTS["learned positions and biases"] | DROPOUT] * len(arguments)
    plain, compiled = (stack_of(arguments, tokens, options) for _ in range(2))
    plain.train(STEPS)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled._compile()
    compiled.train(STEPS)
    assert (compiled.losses - plain.losses).abs().max() < 1e-9
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # a block, and the loss
    assert compiled.evaluate()["val_loss"] == pytest.approx(plain.evaluate()["val_loss"], abs=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_captured_step_is_the_same(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mupl.stacked.stack.COMPILED_STEPS", 0)
    arguments = members("adamw")
    options = [VARIANTS["learned positions and biases"] | DROPOUT] * len(arguments)
    on_cpu = stack_of(arguments, tokens, options)
    on_cpu.train(STEPS)
    on_gpu = stack_of(arguments, tokens, options, device="cuda")
    on_gpu.train(STEPS)
    assert on_gpu._captured.graph is not None
    assert (on_gpu.losses.cpu() - on_cpu.losses).abs().max() < 1e-9


@pytest.mark.slow
def test_a_sweep_of_stacks_has_the_results_of_one_run_after_the_other(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(bytes(range(97, 107)) * 200)
    arguments = [
        "-m",
        "model=gpt",
        "model.d_head=8",
        "data=text",
        f"data.file={text}",
        "data.context=16",
        "width=16",
        "base_width=8",
        "depth=2",
        "base_depth=1,2",
        "parametrization=mup,completep",
        "batch_size=4",
        "max_steps=10",
        "trainer=cpu",
        "trainer.precision=64-true",
    ]
    results = []
    for launcher in ("stacked", "basic"):
        folder = tmp_path / launcher
        done = train(*arguments, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}")
        assert done.returncode == 0, done.stderr
        assert ("stack 1 of 1: 4 jobs" in done.stdout) == (launcher == "stacked")
        results.append(pd.read_csv(folder / "results.csv").drop(columns="seconds"))
    pd.testing.assert_frame_equal(*results, rtol=1e-9)

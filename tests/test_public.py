"""The public names: `import mupl` and nothing else."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mupl
from mupl.nn.unit_scaling import UnitLinear

ROOT = Path(__file__).parents[1]


def build(width: int) -> nn.Module:
    hidden = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> list[float]:
    """Losses of a few steps of a plain loop."""
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(count):
        x = torch.randn(16, 6, generator=generator)
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", mupl.__all__)
def test_every_public_name_is_there_and_says_what_it_is_with_an_example(name: str) -> None:
    value = getattr(mupl, name)
    assert name in dir(mupl)
    assert ">>>" in value.__doc__ or issubclass(value, Exception)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'apply'; it has .*initialize_"):
        mupl.apply  # noqa: B018


def test_importing_mupl_imports_nothing_else() -> None:
    code = "import sys, mupl; print({'torch', 'numpy', 'lightning', 'pandas'} & set(sys.modules))"
    assert run(code).stdout.strip() == "set()"


def test_param_groups_need_torch_and_numpy_only() -> None:
    code = """
import sys
others = "lightning hydra omegaconf pandas seaborn sklearn scipy rich torchvision wandb matplotlib"
sys.modules.update(dict.fromkeys(others.split()))  # None: as if it was not installed
import torch, mupl
def build(width):
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
infos = mupl.describe(build, width=64, base_width=16)
scales = mupl.scale(infos, "mup", torch.optim.AdamW, lr=1e-2)
model = mupl.initialize_(build(64), scales, seed=0)
optimizer = torch.optim.AdamW(mupl.param_groups(model, scales))
setup = mupl.Setup(build, width=64, base_width=16, lr=1e-2)
print(len(optimizer.param_groups), len(setup.table()), mupl.Recorder, mupl.MuLinear, mupl.shift)
try:
    mupl.TrainingModule
except ModuleNotFoundError as error:
    print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 4 ")
    assert (
        "mupl.TrainingModule needs the package lightning: pip install 'mupl[train]'" in done.stdout
    )


def test_a_setup_is_its_steps_by_hand() -> None:
    infos = mupl.describe(build, width=32, base_width=8)
    scales = mupl.scale(infos, "mup", torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    torch.manual_seed(3)
    model = mupl.initialize_(build(32), scales)
    by_hand = steps(model, torch.optim.AdamW(mupl.param_groups(model, scales)))
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "seed": 3}
    setup = mupl.Setup(build, 32, base_width=8, optimizer="adamw", **options)
    assert steps(setup.model, setup.optimizer()) == by_hand
    assert [row["name"] for row in setup.table()] == list(infos)


def test_learning_rates_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    setup = mupl.Setup(build, 32, base_width=8, lr=np.logspace(-3, -1, 3)[1])
    torch.save(setup.optimizer().state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt")  # refuses objects
    assert [group["lr"] for group in state["param_groups"]] == [0.01, 0.0025, 0.01]
    assert type(setup.lr) is float


def test_a_printed_table_has_a_line_a_tensor() -> None:
    lines = str(mupl.Setup(build, 32, base_width=8, lr=0.004).table()).splitlines()
    assert lines[0].split() == ["name", "role", "shape", "mult", "init", "init_std", "lr", "eps"]
    assert lines[3].split()[:4] == ["2.weight", "hidden", "32x32", "1"]
    assert lines[3].split()[-2:] == ["0.001", "2.5e-09"]
    assert len(lines) == 7


@pytest.mark.parametrize(
    "optimizer",
    ["adamw", torch.optim.AdamW, partial(torch.optim.AdamW, betas=(0.8, 0.9)), "adam"],
    ids=["name", "class", "partial", "update kind"],
)
@pytest.mark.parametrize("parametrization", ["mup", mupl.get_parametrization("mup")])
def test_names_or_objects_everywhere(parametrization: Any, optimizer: Any) -> None:
    infos = mupl.describe(build, width=32, base_width=8)
    assert mupl.scale(infos, parametrization, optimizer, lr=0.1)["2.weight"].lr == 0.025


def test_param_groups_of_a_model_its_named_parameters_or_a_dict() -> None:
    infos = mupl.describe(build, width=32, base_width=8)
    scales = mupl.scale(infos, "mup", "adamw", lr=0.1)
    model = mupl.initialize_(build(32), scales, seed=0)
    compiled = torch.compile(model)  # names begin with _orig_mod; nothing is compiled before a call
    found = [
        mupl.param_groups(given, scales)
        for given in (model, model.named_parameters(), dict(model.named_parameters()), compiled)
    ]
    names = [[name for group in groups for name, _ in group["params"]] for groups in found]
    assert all(set(those) == set(scales) for those in names)
    assert all([group["lr"] for group in groups] == [0.1, 0.025, 0.1] for groups in found)


def unit_scaled(width: int, readout: bool = True) -> nn.Module:
    return nn.Sequential(UnitLinear(6, width), UnitLinear(width, 3, readout=readout))


def setup(build: Any = build, **options: Any) -> mupl.Setup:
    return mupl.Setup(build, 32, base_width=8, lr=0.1, **options)


def in_width(name: str, **options: Any) -> mupl.Setup:
    return setup(parametrization=mupl.get_parametrization(name).width_only(), **options)


def test_rules_in_width_alone_are_those_at_the_base_depth() -> None:
    """The model has no blocks, so that m_L = 1 in any case; mup has the same rules in width."""
    assert in_width("completep").scales == setup(parametrization="mup").scales
    assert in_width("umup", build=unit_scaled, optimizer="sgd").scales
    assert in_width("umup", optimizer="adam").scales


def with_head() -> nn.Module:
    model = mupl.initialize_(build(32), SCALES, seed=0)
    model.add_module("head", nn.Linear(3, 2))
    return model


BATCH = (torch.ones(4, 6), torch.zeros(4).long())
INFOS = mupl.describe(build, width=32, base_width=8)
SCALES = mupl.scale(INFOS, "mup", "adamw", lr=0.1)
DRAWN = mupl.scale(
    mupl.describe(build, 32, 8, init={"*": {"name": "normal", "std": 0.1}}), "mup", "adamw", lr=0.1
)
WRONG: dict[str, tuple[Any, str]] = {
    "no function": (
        lambda: mupl.Setup(32, build, base_width=8, lr=0.1),  # type: ignore[arg-type]
        "build: must be a function width -> nn.Module, not a int",
    ),
    "function without width": (
        lambda: mupl.describe(lambda: build(8), 32, 8),
        "build: must be a function width -> nn.Module (too many positional arguments)",
    ),
    "function without depth": (
        lambda: mupl.describe(build, 32, 8, depth=4),
        "build: must be a function width, depth -> nn.Module (got an unexpected keyword",
    ),
    "function of no module": (
        lambda: mupl.describe(lambda width: None, 32, 8),
        "build: must return an nn.Module, not a NoneType",
    ),
    "list of roles": (
        lambda: mupl.describe(build, 32, 8, roles=["input"]),  # type: ignore[arg-type]
        "roles=['input']: must be a dict from globs on names",
    ),
    "word for init": (
        lambda: mupl.describe(build, 32, 8, init="normal"),  # type: ignore[arg-type]
        "init=normal: must be a dict from globs on names",
    ),
    "nan as lr": (
        lambda: mupl.Setup(build, 32, base_width=8, lr=float("nan")),
        "lr=nan: must be a finite number > 0",
    ),
    "tensor as lr": (
        lambda: mupl.scale(INFOS, "mup", "adamw", lr=torch.tensor(0.5)),  # type: ignore[arg-type]
        "lr=0.5: must be a finite number > 0, not a Tensor",
    ),
    "scales before the model": (
        lambda: mupl.param_groups(SCALES, build(32)),  # type: ignore[arg-type]
        "param_groups: takes a model",
    ),
    "infos for scales of groups": (
        lambda: mupl.param_groups(build(32), INFOS),  # type: ignore[arg-type]
        "scales: must be what mupl.scale(infos, parametrization, ...) returns",
    ),
    "infos for scales of weights": (
        lambda: mupl.initialize_(build(32), INFOS, seed=0),  # type: ignore[arg-type]
        "scales: must be what mupl.scale(infos, parametrization, ...) returns",
    ),
    "word for a loss": (
        lambda: mupl.Setup(build, 32, base_width=8, lr=0.1, loss="mse"),  # type: ignore[arg-type]
        "loss=mse: must be a function (output, target) -> mean loss",
    ),
    "word for a schedule": (
        lambda: mupl.Setup(build, 32, base_width=8, lr=0.1, schedule="cosine"),  # type: ignore[arg-type]
        "schedule=cosine: must be a mupl.optim.schedules.Schedule",
    ),
    "unknown parametrization": (
        lambda: mupl.scale(INFOS, "muP", "adamw", lr=0.1),
        "parametrization=muP: must be",
    ),
    "no parametrization": (lambda: mupl.scale(INFOS, 3, "adamw", lr=0.1), "parametrization=3: "),  # type: ignore[arg-type]
    "unknown optimizer": (
        lambda: mupl.scale(INFOS, "mup", "adamx", lr=0.1),
        "optimizer=adamx: must be",
    ),
    "foreign optimizer": (
        lambda: mupl.scale(INFOS, "mup", torch.optim.Adagrad, lr=0.1),
        "Adagrad: ",
    ),
    "negative lr": (lambda: mupl.scale(INFOS, "mup", "adamw", lr=-1), "lr=-1: "),
    "parameters without names": (
        lambda: mupl.param_groups(build(32).parameters(), SCALES),  # type: ignore[arg-type]
        "named_parameters",
    ),
    "another model": (lambda: mupl.param_groups(nn.Linear(3, 3), SCALES), "'weight' has no scale"),
    "a head that came later": (
        lambda: mupl.param_groups(with_head(), SCALES),
        "the parameter 'head.weight' has no scale, so nothing would train it",
    ),
    "a model without its readout": (
        lambda: mupl.param_groups(build(32)[:-1], SCALES),
        "there is a scale for '4.weight', which the model has not",
    ),
    "another readout": (
        lambda: mupl.param_groups(nn.Sequential(*build(32)[:-1], nn.Linear(32, 5)), SCALES),
        "'4.weight' is (3, 32) there and (5, 32) in the model",
    ),
    "a model in place of a setup": (lambda: mupl.TrainingModule(build(8)), "takes a Setup"),  # type: ignore[arg-type]
    "scales of another width": (
        lambda: mupl.initialize_(build(16), SCALES, seed=0),
        "'0.weight' is (32, 6) there and (16, 6) in the model",
    ),
    "scales of another model": (
        lambda: mupl.initialize_(nn.Linear(6, 32), SCALES, seed=0),
        "of another model",
    ),
    "a model that is not initialised": (
        lambda: mupl.param_groups(build(32), SCALES),
        "'4.weight' has not the multiplier 0.25 of its scale; call mupl.initialize_",
    ),
    "no width": (lambda: mupl.describe(build, 0, 8), "width=0: must be a whole number >= 1"),
    "a base width of text": (
        lambda: mupl.describe(build, 32, "8"),  # type: ignore[arg-type]
        "base_width=8: must be a whole number >= 1",
    ),
    "a model in place of a function": (
        lambda: mupl.describe(build(8), 32, 8),
        "build: must be a function width -> nn.Module, not a Sequential",
    ),
    "weight decay in the optimizer": (
        lambda: setup(optimizer=partial(torch.optim.AdamW, weight_decay=0.3)),
        "optimizer.weight_decay=0.3: each tensor gets its own weight_decay, scaled from the one at "
        "the base width; say weight_decay=0.3 beside the optimizer",
    ),
    "eps in the optimizer": (
        lambda: setup(optimizer=partial(torch.optim.AdamW, eps=1e-4)),
        "say eps=0.0001 beside the optimizer",
    ),
    "lr in the optimizer": (
        lambda: setup(optimizer=partial(torch.optim.AdamW, lr=1)),
        "say lr=1 beside the optimizer",
    ),
    "rules in depth without a base depth": (
        lambda: setup(parametrization="completep"),
        "base_depth=null: parametrization=completep scales with depth; say the depth where lr",
    ),
    "an override in depth without a base depth": (
        lambda: setup(parametrization=mupl.get_parametrization("sp", {"*": {"lr": "m_L"}})),
        "base_depth=null: parametrization=sp scales with depth",
    ),
    "u-muP under SGD on a plain model": (
        lambda: in_width("umup", optimizer="sgd"),
        "parametrization=umup: under SGD it is for unit-scaled operations only",
    ),
    "u-muP for another readout on a plain model": (
        lambda: in_width("umup_output_scale", optimizer="sgd"),
        "parametrization=umup_output_scale: under SGD it is for unit-scaled operations only",
    ),
    "u-muP for another readout": (
        lambda: in_width("umup_output_scale", build=unit_scaled, optimizer="sgd"),
        "the readout of this model, whose backward multiplier is one of its own: take umup",
    ),
    "u-muP for another layer": (
        lambda: in_width("umup", build=partial(unit_scaled, readout=False), optimizer="sgd"),
        "the readout of this model, whose backward multiplier is its forward one",
    ),
    "no seed": (lambda: mupl.initialize_(build(32), DRAWN), "seed"),
    "a seed of text in a setup": (lambda: setup(seed="one"), "seed=one: must be a whole number"),
    "a seed of text": (
        lambda: mupl.initialize_(build(32), DRAWN, seed="one"),  # type: ignore[arg-type]
        "seed=one: must be a whole number, not a str",
    ),
    "a width for widths": (
        lambda: mupl.coord_check(build, 64, [BATCH], base_width=8, lr=0.1),  # type: ignore[arg-type]
        "widths=64: must be a list, such as widths=[64,",
    ),
    "no rows": (lambda: mupl.verdict(3), "rows: must be a table as mupl.coord_check gives"),  # type: ignore[arg-type]
    "a recorder of no model": (
        lambda: mupl.Recorder(build),  # type: ignore[arg-type]
        "recorder.model: must be an nn.Module, not a function",
    ),
    "a model in place of a module": (
        lambda: mupl.find_lr(build(32), None),  # type: ignore[arg-type]
        "find_lr: takes a mupl.TrainingModule(setup), not a Sequential",
    ),
    "an optimizer of a model": (
        lambda: setup(optimizer=torch.optim.Adam(build(32).parameters())),  # type: ignore[arg-type]
        "optimizer: must be the class Adam or a functools.partial of it",
    ),
    "a state before its optimizer": (
        lambda: mupl.check_same_groups(setup().optimizer().state_dict(), setup().optimizer()),  # type: ignore[arg-type]
        "optimizer state: must be what the state_dict() of an optimizer returned",
    ),
    "a state in place of an optimizer": (
        lambda: mupl.with_groups_of({}, setup().optimizer().state_dict()),  # type: ignore[arg-type]
        "optimizer: must be an optimizer, not a dict; the state follows",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_says_in_one_line_what_is_right(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(mupl.ConfigError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_may_be_a_whole_number_of_numpy() -> None:
    assert setup(seed=np.int64(3)).seed == 3
    one, other = (mupl.initialize_(build(32), DRAWN, seed=seed) for seed in (np.int64(3), 3))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_base_width_is_never_assumed() -> None:
    with pytest.raises(mupl.ConfigError, match="base_width=None: must be a whole number"):
        mupl.describe(build, 32)

"""The residual network, and that the config of every model states its constructor's defaults."""

import inspect
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor

from mupl.analysis.coordinates import verdict
from mupl.data import Splits, digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import ResNet
from mupl.models.gpt import GPTConfig
from mupl.nn.tensors import parameters
from mupl.roles import MultiplierRole, Role, describe
from mupl.stacked.stack import Stack
from mupl.training.coord_check import coord_check
from mupl.training.setup import Setup
from tests.commands import IGNORED, ROOT, train_here

CONFIGS = [ROOT / f"conf/model/{name}.yaml" for name in ("gpt", "mlp", "resnet")]  # mupl's own
GIVEN = {"width", "in_features", "in_channels", "num_classes", "vocabulary", "context"}
NORMS = ["groupnorm", "batchnorm"]
small = partial(ResNet, 1, 4, depth=1, stages=2)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_models_config_states_its_constructors_defaults(file: Path) -> None:
    config = OmegaConf.load(file)
    model = get_class(config._target_)
    parameters = inspect.signature(model).parameters
    defaults = {key: p.default for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    if file.stem == "gpt":
        defaults = {field.name: field.default for field in fields(GPTConfig)}
    written = {str(key) for key in config} - {"_target_", "_partial_"}
    assert written == set(defaults) - GIVEN
    for key in written - {"depth"}:  # which is a key of the whole config
        assert config[key] == defaults[key], key


def images(count: int = 2, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, size, size, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 4


@pytest.mark.parametrize("norm", NORMS)
def test_a_resnet_computes_its_formula(norm: str) -> None:
    with default_dtype(torch.float64):
        model = small(width=8, norm=norm, residual_mult=0.5, output_mult=2.0)
    x, _ = images()
    first, second = model.blocks

    def branch(block: Any, h: Tensor) -> Tensor:
        h = block.conv1(block.norm1(h).relu())
        return block.conv2(block.norm2(h).relu())

    h = F.conv2d(x, model.stem.weight, padding=1)
    h = h + 0.5 * branch(first, h)
    h = F.conv2d(h, second.shortcut.weight, stride=2) + 0.5 * branch(second, h)
    assert h.shape == (2, 16, 3, 3)
    expected = 2 * model.readout(model.norm(h).relu().flatten(2).mean(-1))
    torch.testing.assert_close(model(x), expected)
    assert model(images(size=7)[0]).shape == (2, 4)


def test_roles_of_a_resnet_follow_from_its_shapes() -> None:
    infos = describe(small, 16, 8)
    roles = {name: info.role for name, info in infos.items()}
    hidden = {"conv1.weight", "conv2.weight", "shortcut.weight"}
    for name, role in roles.items():
        leaf = name.split(".", 2)[-1]
        if leaf in hidden:
            assert role is Role.HIDDEN, name
        elif leaf == "residual":
            assert role is MultiplierRole.RESIDUAL
        else:
            expected = Role.OUTPUT if name == "readout.weight" else Role.INPUT
            assert role is (Role.SCALAR if name == "readout.bias" else expected), name
    assert infos["blocks.1.conv1.weight"].fan_in == 16 * 9


def failures(along: str, parametrization: str, sizes: dict[str, Any], **options: Any) -> set[str]:
    """Names of what a coordinate check under Adam finds wrong."""
    build = partial(small, zero_readout=True, **options)
    if along == "depth":
        build = partial(ResNet, 1, 4, stages=2, zero_readout=True)
    with default_dtype(torch.float64):
        rows = coord_check(
            build,
            batches=[images()] * 3,
            seeds=range(3),
            parametrization=parametrization,
            optimizer="adam",
            lr=0.01,
            **sizes,
        )
    table = verdict(rows, along=along)
    return set(table["name"][table["verdict"] == "fail"])


@pytest.mark.parametrize("norm", ["groupnorm", pytest.param("batchnorm", marks=pytest.mark.slow)])
def test_a_resnets_coordinates_in_width_pass_under_mup_and_fail_under_sp(norm: str) -> None:
    sizes = {"widths": (16, 32, 64, 128), "base_width": 16}
    assert failures("width", "mup", sizes, norm=norm) == set()
    assert failures("width", "sp", sizes, norm=norm) >= {
        "readout",
        "blocks.0.conv1.weight",
        "blocks.1.shortcut.weight",
    }


def test_rules_in_depth_act_on_a_resnets_branches() -> None:
    sizes = {"widths": [16], "base_width": 16, "depths": (2, 4, 8), "base_depth": 2}
    assert failures("depth", "depth_mup", sizes) == set()
    assert failures("depth", "mup", sizes) >= {"blocks.*.residual", "blocks.*.conv1.weight"}


@pytest.fixture(scope="module")
def few_digits() -> Splits:
    splits = digits()
    return Splits(
        splits.train_x[:64], splits.train_y[:64], splits.val_x[:32], splits.val_y[:32], 10
    )


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of batch norm under vmap
@pytest.mark.parametrize("norm", NORMS)
def test_resnets_stack(norm: str, few_digits: Splits) -> None:
    """By vmap; members have other multipliers, parametrizations and seeds."""
    steps = 6
    mults = [(1.0, 1.0), (0.5, 2.0), (0.5, 1.0)]

    def member(index: int) -> Setup:
        residual_mult, output_mult = mults[index]
        build = partial(
            ResNet, 1, 10, depth=1, norm=norm, residual_mult=residual_mult, output_mult=output_mult
        )
        parametrization = ("sp", "mup", "mulinear")[index]
        return Setup(
            build, 8, base_width=4, lr=0.01, eps=1e-4, seed=index, parametrization=parametrization
        )

    with torch.device("meta"):
        members = [member(index) for index in range(3)]
    stack = Stack(members, few_digits, batch_size=16, max_steps=steps, dtype=torch.float64)
    stack.train(steps)
    for index in range(3):
        alone = member(index)
        model = alone.model.double()
        optimizer = alone.optimizer()
        loader = TensorData(few_digits, 16, seed=index).train_dataloader()
        batches = [*loader, *loader]
        for step, (x, target) in enumerate(batches[:steps]):
            loss = alone.loss(model(x.double()), target)
            torch.testing.assert_close(stack.losses[step, index], loss, atol=1e-9, rtol=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, w in parameters(model, alone.scales).items():
            effective = w.detach() * alone.scales[name].mult
            stacked = stack.weights[name][index].detach()
            torch.testing.assert_close(stacked, effective, atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": [8, 8]}, "width=[8, 8]: must be one whole number >= 1"),
        ({"depth": 0}, "depth=0: must be a whole number >= 1"),
        ({"stages": 0}, "model.stages=0: must be a whole number >= 1"),
        ({"norm": "layernorm"}, "model.norm=layernorm: must be one of groupnorm, batchnorm"),
        ({"groups": 3}, "model.groups=3: must divide the width 8"),
        ({"init_std": -1.0}, "model.init_std=-1.0: must be >= 0"),
    ],
)
def test_a_bad_argument_of_a_resnet_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        small(**{"width": 8} | options)
    assert str(caught.value).startswith(message)


@IGNORED[0]
@IGNORED[1]
def test_a_resnet_trains_on_digits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small_run = ["width=8", "base_width=4", "depth=1", "max_steps=20", "lr=0.01", "trainer=cpu"]
    done = train_here(capfd, "model=resnet", "data=digits", *small_run, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = OmegaConf.load(tmp_path / "result.json")
    assert result.steps == 20
    assert result.val_loss < 2.2

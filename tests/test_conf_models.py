"""Models of other libraries from a config: `model=hf_...`, `torchvision_...` and `timm_...`."""

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mupl.data import Splits, random_tokens
from mupl.data.text import Tokens
from mupl.errors import ConfigError
from mupl.identity.provenance import provenance
from mupl.initializers import on_meta
from mupl.models import from_library
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.training.config import build_setup
from mupl.training.setup import Setup
from tests.commands import IGNORED, ROOT, train_here

pytest.importorskip("transformers")
pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytestmark = IGNORED

GROUP = sorted(file.stem for file in (ROOT / "conf/model").glob("*_*.yaml"))
HEAD = 8  # size of a head
SMALL = {  # what makes a model as small as a test wants
    "hf_gpt2": [f"model.sizes.num_attention_heads=width / {HEAD}"],
    "hf_llama": [
        f"model.sizes.num_attention_heads=width / {HEAD}",
        f"model.sizes.num_key_value_heads=width / {HEAD}",
    ],
    "timm_vit": [f"model.sizes.num_heads=width / {HEAD}"],
    "torchvision_vit": [f"model.sizes.num_heads=width / {HEAD}"],
    "timm_resnet": [],
    "timm_mixer": [],
    "torchvision_resnet": [],
}
TOKENS = random_tokens(vocabulary=11, context=8, count=2**10)


def images() -> Splits:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (24, 3, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(24) % 5
    return Splits(x[:16], y[:16], x[16:], y[16:], num_classes=5)


IMAGES = images()


def data_of(name: str) -> Splits | Tokens:
    return TOKENS if name.startswith("hf") else IMAGES


def config_of(name: str, *overrides: str) -> DictConfig:
    small = ["base_width=16", "depth=1", "optimizer=adam", "lr=0.01", *SMALL[name]]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"model={name}", "trainer=cpu", *small, *overrides])


def setup_of(name: str, *overrides: str) -> Setup:
    return build_setup(config_of(name, *overrides), data_of(name).model_args)


def losses_alone(setup: Setup, data: Splits | Tokens, steps: int) -> list[float]:
    """Losses of a plain loop in float64."""
    model = setup.model.double()
    optimizer = setup.optimizer()
    batches = data.train_batches(4, [setup.seed])
    losses = []
    for step in range(steps):
        batches.set_step(step)
        x, target = (tensor[0] for tensor in batches())
        loss = setup.loss(model(x.double() if x.is_floating_point() else x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_every_yaml_is_tested() -> None:
    assert set(GROUP) == set(SMALL)


@pytest.mark.parametrize("name", GROUP)
def test_a_model_of_another_library_is_described_and_trains(name: str) -> None:
    setup = setup_of(name, "width=32")
    roles = {str(info.role) for info in setup.infos.values()}
    assert {"input", "hidden", "output"} <= roles
    assert not setup.warnings
    before = copy.deepcopy(setup.model).double()
    losses = losses_alone(setup, data_of(name), steps=4)
    assert torch.tensor(losses).isfinite().all()
    for tensor, w in before.named_parameters():
        assert not torch.equal(w, setup.model.get_parameter(tensor)), tensor


@pytest.mark.parametrize("name", GROUP)
def test_depth_is_the_number_of_blocks(name: str) -> None:
    deep = ["width=16", "parametrization=depth_mup", "base_depth=1"]
    setup = setup_of(name, *deep, "depth=2")
    infos = setup.infos
    branches = [n for n, info in infos.items() if info.row == "residual" and info.in_block]
    assert branches
    assert {setup.scales[n].mult for n in branches} == {2**-0.5}
    assert setup.warnings == []
    assert {info.m_L for info in infos.values()} == {1, 2}
    assert len(infos) > len(setup_of(name, *deep).infos)


STACKED = ("hf_gpt2", "hf_llama", "timm_mixer", "timm_vit", "torchvision_vit", "timm_resnet")


OFTEN = ("hf_llama", "timm_vit", "timm_resnet")  # a stack maps the others as it maps these


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in STACKED],
)
def test_a_stack_trains_each_member_as_it_trains_alone(name: str) -> None:
    variants = [
        ["lr=0.01", "seed=0"],
        ["lr=0.003", "seed=1", "parametrization=sp"],
        ["lr=0.02", "seed=0", "parametrization=mup_table3"],
    ]
    alone = [losses_alone(setup_of(name, "width=32", *v), data_of(name), 4) for v in variants]
    with on_meta():
        members = [setup_of(name, "width=32", *variant) for variant in variants]
    stack = Stack(members, data_of(name), batch_size=4, max_steps=4, dtype=torch.float64)
    stack.train(4)
    torch.testing.assert_close(stack.losses.T, torch.tensor(alone, dtype=torch.float64))
    assert len(stack.evaluate()["val_loss"]) == len(variants)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("width", 32),
        ("4 * width", 128),
        ("width/16", 2),
        ("8 / 3 * width * depth / 2", 128),
        (["width", "2 * width", 7], [32, 64, 7]),
        (5, 5),
        ("image_size", 8),
    ],
)
def test_an_argument_follows_from_sizes(said: Any, size: Any) -> None:
    sizes = {"size": said, "grows": "width", "deep": "depth"}
    options = {"constructor": "tests.test_conf_models.Arguments", "sizes": sizes}
    model = from_library(32, **options, depth=3, image_size=(8, 8))
    assert model.arguments == {"size": size, "grows": 32, "deep": 3}


class Arguments(torch.nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments


def test_an_argument_of_null_is_left_out_and_other_images_have_two_sides() -> None:
    sizes = {"left_out": None, "grows": "width", "side": "image_size"}
    constructor = "tests.test_conf_models.Arguments"
    model = from_library(32, constructor=constructor, sizes=sizes, image_size=(8, 6))
    assert model.arguments == {"grows": 32, "side": (8, 6)}


@pytest.mark.parametrize("package", ["transformers", "timm", "torchvision"])
def test_an_absent_package_is_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"transformers": "hf_gpt2"}.get(package, f"{package}_vit")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}.*'mupl\[models\]'"):
        setup_of(name, "width=32")


def test_a_model_of_transformers_returns_logits_and_pickles() -> None:
    setup = setup_of("hf_llama", "width=16")
    x = torch.zeros(2, 8, dtype=torch.long)
    logits = setup.model(x)
    assert logits.shape == (2, 8, 11)
    assert torch.equal(pickle.loads(pickle.dumps(setup.model))(x), logits)
    assert "model.embed_tokens.weight" in setup.infos  # names are the library's own


def test_a_stack_refuses_what_it_cannot_map() -> None:
    with on_meta():
        tied = setup_of("hf_gpt2", "width=16", "model.options.tie_word_embeddings=true")
        random = setup_of("hf_gpt2", "width=16", "model.options.attn_pdrop=0.5")
    with pytest.raises(NotStackable, match=r"lm_head reads out by transformer\.wte\.weight"):
        Stack([tied], TOKENS, batch_size=4, max_steps=2)
    stack = Stack([random], TOKENS, batch_size=4, max_steps=2)
    with pytest.raises(NotStackable, match="its forward is random"):
        stack.train(1)


def test_a_result_records_the_packages_that_made_its_model() -> None:
    config: Any = OmegaConf.to_container(config_of("hf_gpt2", "data=text", "width=32"))
    assert "transformers" in provenance(config)["packages"]
    config = OmegaConf.to_container(config_of("timm_vit", "width=32"))
    assert "timm" in provenance(config)["packages"]


@pytest.mark.slow
def test_a_sweep_of_both_launchers_and_a_coordinate_check(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
    small = ["base_width=16", "trainer=cpu", "trainer.precision=64-true", "max_steps=3", "depth=1"]
    sweep = ["-m", "model=timm_mixer", "data=digits", "width=16,32", "lr=0.01,0.02", *small, report]
    losses = []
    for launcher in ("stacked", "basic"):
        folder = f"hydra.sweep.dir={tmp_path / launcher}"
        done = train_here(capfd, *sweep, f"hydra/launcher={launcher}", folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "one by one" not in done.stdout
        losses.append(pd.read_csv(tmp_path / launcher / "results.csv").val_loss.tolist())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    check = ["-m", "experiment=coord_check_model", "model=timm_mixer", "width=16,32", "seed=0"]
    recorded = ["hydra/launcher=stacked", f"hydra.sweep.dir={tmp_path / 'check'}", report]
    done = train_here(capfd, *check, *small, *recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jobs run one by one: callbacks: a stack records models of mupl only" in done.stdout
    assert (tmp_path / "check" / "results.csv").exists()

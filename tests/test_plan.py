"""Which jobs are which and may share a stack, and the composing of their configs: no training."""

import functools
from collections.abc import Callable, Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mupl.identity import hydra_of, job_id, trained, without_hydra
from mupl.identity.folders import sweep_folder
from mupl.stacked.compose import SweepConfigLoader
from mupl.stacked.describe import describe
from mupl.stacked.options import Options
from mupl.stacked.plan import member_bytes, shape_key, split
from mupl.stacked.rules import NotStackable
from tests.commands import ROOT
from tests.composing import forgetting


@pytest.fixture(autouse=True, scope="module")
def configs() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def config(*overrides: str) -> DictConfig:
    return compose("train", [*overrides], return_hydra_config=True)


def resolved(*overrides: str) -> DictConfig:
    whole = config(*overrides, "hydra.runtime.output_dir=/tmp")
    with hydra_of(whole):
        plain = without_hydra(whole)
        OmegaConf.resolve(plain)
    return plain


@functools.cache
def default_key() -> str:
    """The shape key of a run without overrides."""
    return shape_key(resolved())


IGNORED_KEYS = [
    "logger=tensorboard",
    "logger={}",
    "logger.csv.name=x",
    "metric=train_loss",
    "rerun=all",
    "hydra/launcher=stacked",
    "hydra.sweep.dir=/elsewhere",
    "hydra.sweep.subdir=x",
    "hydra.run.dir=/elsewhere",
    "hydra.job.name=x",
    "width=128",
    "data.root=/data",
    "threads=1",
    "trainer.enable_progress_bar=true",
    "trainer.enable_model_summary=true",
    "lr=1.0e-3",
    "lr=0.001",
    "weight_decay=0",
    "model.output_mult=1.0",
    "optimizer.betas=[9e-1,0.999]",
]
TOLD = [
    "width=64",
    "width=[128]",
    "depth=2",
    "base_width=32",
    "lr=2e-3",
    "eps=1e-7",
    "weight_decay=0.1",
    "seed=1",
    "weight_decay_mode=coupled",
    "batch_size=32",
    "max_steps=999",
    "model.bias=false",
    "model.init_std=2",
    "+model.foo=1",
    "data=mnist",
    "parametrization=sp",
    "optimizer=adam",
    "scheduler=cosine",
    "optimizer.betas=[0.9,0.99]",
    "+optimizer.amsgrad=true",
    "trainer.precision=64-true",
    "trainer.accelerator=tpu",
    "trainer.log_every_n_steps=10",
    "callbacks=coordinates",
    "+roles={a:hidden}",
    "~scheduler.warmup",
]


def test_a_job_is_known_by_what_it_trains() -> None:
    same = job_id(config())
    assert [job_id(config(*(o,))) == same for o in IGNORED_KEYS] == [True] * len(IGNORED_KEYS)
    ids = [job_id(config(o)) for o in TOLD]
    assert len({same, *ids}) == 1 + len(TOLD)
    assert (
        job_id(config("callbacks=coordinates", "hydra.sweep.dir=/a"))
        == ids[TOLD.index("callbacks=coordinates")]
    )


def test_a_sweep_is_known_by_what_it_does_not_sweep() -> None:
    def name(*overrides: str) -> str:
        loader = GlobalHydra.instance().config_loader()
        return sweep_folder(
            loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)
        )

    first = name("width=8,16", "lr=0.1,0.2")
    for other in (
        ["width=8,16,32", "lr=0.1,0.2"],
        ["width=8", "lr=0.1,0.3", "seed=0,1"],
        ["lr=1,2", "logger={}"],
    ):
        assert name(*other) == first
    others = [
        name("lr=0.1"),
        name("width=8,16"),
        name("lr=0.1,0.2", "depth=2"),
        name("lr=1,2", "data=mnist"),
    ]
    assert len({first, *others}) == 5
    assert first.startswith("digits-")
    assert name("lr=1,2", "experiment=lr_transfer").startswith("lr_transfer_digits-")
    assert name("experiment=lr_transfer_text", "size=depth").startswith("lr_transfer_text_depth-")


JOBS = [
    [],
    ["width=8", "lr=0.1", "seed=3"],
    ["width=[8,16]", "+roles={a:hidden}", "+init={readout.*:{std:0.02}}"],
    ["optimizer=sgd", "optimizer.momentum=0.5", "parametrization=sp", "experiment=coord_check"],
    ["experiment=lr_transfer", "model.bias=false", "data=mnist", "data.root=/x"],
    ["+model.foo=1", "++model.bar=2", "+parametrization.overrides={readout.*:{mult:1}}"],
    ["~scheduler.warmup", "~logger", "lr=0.2"],
    ["callbacks=coordinates", "callbacks.coordinates.steps=[1,2]", "+extra.deep.key=${lr}"],
    ["hydra.job.name=x", "hydra.sweep.subdir=a", "hydra.job_logging.root.level=WARN", "lr=3"],
    [
        "+note='a: b, 1e3'",
        "+nothing=null",
        "+deep={a:[1,${lr}],b:'${width}'}",
        "eps=${lr}",
        "~model.init_std",
    ],
    [
        "+on=true",
        "model.bias=null",
        "optimizer.betas=[0.5,0.6]",
        "data.root='with space'",
        "+x.y=[]",
        "+text='12'",
    ],
    ["parametrization=absolute/groups", "logger=wandb", "logger.wandb.offline=false"],
]


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_job_has_the_config_that_hydra_composes(overrides: list[str]) -> None:
    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration(
        "train",
        ["width=64", "hydra/launcher=stacked", "hydra.sweep.dir=/a", "+hydra.job.env_set.A=b"],
        run_mode=RunMode.MULTIRUN,
    )
    fast = SweepConfigLoader(loader)
    overrides = (
        ["width=64", *overrides] if not any(o.startswith("width") for o in overrides) else overrides
    )
    fast.compose(master, [*overrides, "eps=1"])  # of a job like it, which must leave no trace
    with forgetting():
        expected = loader.load_sweep_config(master, overrides)
    found = fast.compose(master, overrides)
    assert OmegaConf.to_container(found, resolve=False) == OmegaConf.to_container(
        expected, resolve=False
    )
    assert found._metadata.flags == expected._metadata.flags
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    "override", ["wdith=3", "+lr=1", "parametrization=mupp", "~nothing", "lr=1,2,x=3", "lr="]
)
def test_bad_overrides_of_a_job_are_the_errors_that_they_are_for_hydra(override: str) -> None:
    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)

    def outcome(compose: Callable[..., DictConfig]) -> str:
        try:
            return str(OmegaConf.to_container(compose(master, [override])))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    assert outcome(SweepConfigLoader(loader).compose) == outcome(loader.load_sweep_config)


@pytest.mark.parametrize(
    "override",
    [
        "lr=1",
        "eps=1",
        "weight_decay=1",
        "weight_decay_mode=coupled",
        "seed=1",
        "base_width=1",
        "parametrization=sp",
        "scheduler=cosine",
        "roles={a:hidden}",
        "init={a:{std:1}}",
        "keep=[a]",
        "logger={}",
        "metric=train_loss",
        "rerun=all",
        "trainer.gradient_clip_val=1",
        "optimizer.betas=[0,0]",
        "model.init_std=2",
        "model.input_mult=2",
        "model.output_mult=2",
        "model.zero_readout=true",
        "+note=x",
    ],
)
def test_members_of_a_stack_may_differ_in_numbers(override: str) -> None:
    override = f"+{override}" if override.startswith(("roles", "init=")) else override
    assert shape_key(resolved(override)) == default_key()


def test_members_may_differ_in_multipliers_under_an_optimizer_with_options() -> None:
    for mult in (1, 2):
        job = resolved("width=64", "batch_scaling=sde", "base_steps=10", f"tune.output.mult={mult}")
        assert describe(job, trained(job)).scales["readout.weight"].mult == mult


@pytest.mark.parametrize(
    "override",
    [
        "width=1",
        "depth=1",
        "batch_size=1",
        "max_steps=1",
        "data=mnist",
        "model.activation=tanh",
        "model.bias=false",
        "optimizer=adam",
        "trainer.precision=tf32",
        "trainer.log_every_n_steps=1",
        "callbacks=coordinates",
    ],
)
def test_members_of_a_stack_must_agree_in_shapes_and_settings(override: str) -> None:
    assert shape_key(resolved(override)) != default_key()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.precision=16-true", "trainer.precision=16-true: a stack does not know it"),
        ("trainer.devices=2", "trainer.devices=2"),
        ("trainer.max_epochs=3", "trainer.max_epochs=3"),
        ("trainer.gradient_clip_val=0", "trainer.gradient_clip_val=0"),
        ("trainer.gradient_clip_val=high", "trainer.gradient_clip_val=high"),
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval=0.5"),
        ("+trainer.limit_val_batches=3", "trainer.limit_val_batches=3"),
        ("+trainer.limit_val_batches=1", "trainer.limit_val_batches=1: a stack"),  # one batch
        ("trainer.max_steps=-1", "trainer.max_steps=-1"),
        ("+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_algorithm=value"),
        ("callbacks=lr_monitor", "callbacks.lr_monitor: a stack does not know lightning"),
        (
            "optimizer._target_=torch.optim.Adagrad",
            "optimizer Adagrad: a stack knows SGD, Adam, AdamW",
        ),
    ],
)
def test_why_a_job_cannot_be_stacked_is_said(override: str, reason: str) -> None:
    with pytest.raises(NotStackable, match=reason):
        shape_key(resolved(override))


def test_stacks_are_few_within_the_limit_and_keep_seeds_together() -> None:
    members = [(seed, lr) for lr in range(5) for seed in range(3)]
    for limit, sizes in (
        (100, [15]),
        (10, [10, 5]),
        (8, [7, 8]),  # not one a seed: of two devices one would have two of three
        (5, [5, 5, 5]),
        (4, [3, 4, 4, 4]),
        (1, [1] * 15),
    ):
        stacks = split(members, limit, seed=lambda member: member[0])
        assert [len(stack) for stack in stacks] == sizes
        assert sorted(member for stack in stacks for member in stack) == sorted(members)
        assert all(stack == sorted(stack, key=lambda member: member[0]) for stack in stacks)
    assert split([], 4, seed=lambda member: 0) == []


def test_the_memory_of_a_member_is_that_of_its_tensors_and_outputs() -> None:
    shapes = [(16, 64), (16,), (10, 16), (10,)]
    parameters = 16 * 64 + 16 + 10 * 16 + 10
    assert member_bytes(shapes, states=2, positions=32, itemsize=4) == 4 * (
        4 * parameters + 4 * 32 * 26
    )


def test_a_launcher_has_the_options_that_its_config_has() -> None:
    defaults = config("hydra/launcher=stacked").hydra.launcher
    assert (
        Options(**{key: value for key, value in defaults.items() if key != "_target_"}) == Options()
    )

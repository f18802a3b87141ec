"""What the tests remember of Hydra's composing is what Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from tests.commands import ROOT
from tests.composing import forgetting, remembering

GROUPS = ["optimizer=muon", "experiment=lr_transfer", "hydra/launcher=stacked"]


def outcome(*overrides: str) -> DictConfig | str:
    try:
        return compose("train", [*overrides], return_hydra_config=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}: {error.__cause__}"


@pytest.mark.parametrize(
    "overrides",
    [
        [*GROUPS, "lr=3", "~eps", "+model.foo=[1]", "hydra.sweep.dir=/a"],
        ["optimizer=adamx"],
        ["widht=3"],
        ["+parametrization=sp"],
    ],
    ids=str,
)
def test_what_is_remembered_is_what_hydra_composes(overrides: list[str]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        with forgetting():
            expected = outcome(*overrides)
        with remembering():
            outcome(*GROUPS, "width=5", "hydra.job.name=x")  # which must leave no trace
            found = outcome(*overrides)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    plain = [OmegaConf.to_container(config, resolve=False) for config in (found, expected)]
    assert plain[0] == plain[1]
    assert str(found) == str(expected)  # in this order too
    for node in ("", "hydra", "hydra.launcher", "model", "optimizer"):
        one, other = (OmegaConf.select(config, node) for config in (found, expected))
        assert one._metadata.flags == other._metadata.flags, node
        assert one._metadata.object_type is other._metadata.object_type, node


@pytest.mark.parametrize(
    "overrides",
    [[], GROUPS, ["hydra.mode=MULTIRUN"], ["++hydra={mode:RUN}"], ["hydra.mode=SWEEP"]],
    ids=str,
)
def test_a_command_is_one_run_or_a_sweep_as_hydra_says(overrides: list[str]) -> None:
    found = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for context in (forgetting(), remembering()):
            with context:
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                found.append(hydra.get_mode("train", overrides))
    assert found[0] == found[1]

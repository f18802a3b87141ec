"""From a run's config to what it trains."""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from mupl.errors import ConfigError, enumerated
from mupl.files import write_csv
from mupl.names import find_object
from mupl.nn.unit_scaling import scales_gradients
from mupl.optim.batch_size import BatchScaling
from mupl.optim.registry import unwrapped
from mupl.parametrization.scales import scale_rows, telling
from mupl.parametrization.tables import UNIT_SCALED
from mupl.terminal import print_table
from mupl.training.arguments import check_arguments
from mupl.training.setup import Setup

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
SIZES = ("width", "depth")  # arguments of a model that a setup gives to it

TUNED_KEYS = ("lr", "eps", "weight_decay", "weight_decay_mode", "tune", "seed")


def load_data(cfg: DictConfig) -> Any:
    """Load the data of a config: `Splits`, `Arrays` or `Tokens`.

    Raises:
        ConfigError: on an argument that its source does not take, or what the source refuses.
    """
    check_arguments("data", cfg.data)
    splits = instantiate(cfg.data)
    if not hasattr(splits, "train_batches"):
        raise ConfigError(
            f"data={cfg.data._target_}: must return mupl.data.Arrays, not a {type(splits).__name__}"
        )
    return splits


def build_setup(cfg: DictConfig, offered: Mapping[str, Any]) -> Setup:
    """Build the setup of a config, for data that offer these arguments to its model.

    Raises:
        ConfigError: on what does not fit: an accelerator that is not there, or an argument that the
            model does not take.
    """
    build, arguments = setup_arguments(cfg, offered)
    setup = Setup(build, _plain(cfg.width), **arguments)
    _check_forward(cfg.model._target_, setup.model)
    return setup


def _check_forward(name: str, model: nn.Module) -> None:
    """Refuse a model that cannot be called with a batch of inputs alone."""
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError as error:
        raise ConfigError(
            f"model={name}: forward must take a batch of inputs and need nothing else ({error})"
        ) from error


def setup_arguments(
    cfg: DictConfig, offered: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return `build` of a config's `Setup`, and all other arguments but the width.

    Raises:
        ConfigError: as `build_setup` does.
    """
    _check_accelerator(cfg)
    check_arguments("model", cfg.model)
    check_arguments("optimizer", cfg.optimizer, beside=("update_kind",))
    check_arguments("scheduler", cfg.scheduler)
    model = _model(cfg)
    from_data = taken_arguments(cfg.model._target_, model, offered)
    in_depth = {}
    if cfg.base_depth is not None:
        in_depth = {"depth": cfg.depth, "base_depth": cfg.base_depth}
    sizes = SIZES if in_depth else SIZES[:1]
    _check_call(cfg.model._target_, model, {**dict.fromkeys(sizes), **from_data})
    optimizer, update_kind = _optimizer(cfg)
    arguments = {
        "base_width": _plain(cfg.base_width),
        **in_depth,
        "parametrization": instantiate(cfg.parametrization),
        "optimizer": batch_scaling(cfg).optimizer(optimizer),
        "update_kind": update_kind,
        "schedule": instantiate(cfg.scheduler),
        "loss": loss_function(cfg.loss),
        "roles": cfg.roles,
        "init": cfg.init,
        "keep": cfg.keep,
        **tuned(cfg),
    }
    return lambda width, **depth: model(width=width, **from_data, **depth), arguments


def _model(cfg: DictConfig) -> Any:
    """Return the function of a config that builds its model."""
    try:
        return instantiate(cfg.model)
    except InstantiationException as error:
        if cfg.model.get("_partial_") or not isinstance(error.__cause__, TypeError):
            raise
        raise ConfigError(
            f"model={cfg.model._target_}: is called too early ({error.__cause__}); "
            "its config needs _partial_: true"
        ) from error


def _check_accelerator(cfg: DictConfig) -> None:
    accelerator = OmegaConf.select(cfg, "trainer.accelerator")
    if accelerator in ("gpu", "cuda") and not torch.accelerator.is_available():
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch finds none here; say trainer=cpu or "
            "trainer=auto"
        )


def _optimizer(cfg: DictConfig) -> tuple[Callable[..., Optimizer], str | None]:
    """Return the constructor of the optimizer, and the update kind if the user says one."""
    constructor, options = unwrapped(instantiate(cfg.optimizer))
    update_kind = options.pop("update_kind", None)
    return partial(constructor, **options), update_kind


def _plain(width: Any) -> Any:
    return list(width) if OmegaConf.is_list(width) else width


def taken_arguments(
    name: str, model: Callable[..., Any], offered: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a model's constructor takes, among those that the data offer.

    One that the config has set already, a keyword of the partial `model`, is left as it is.

    Raises:
        ConfigError: if the constructor needs an argument that nobody gives.
    """
    parameters = inspect.signature(model).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = getattr(model, "keywords", {})
    taken = {}
    for key, value in offered.items():
        if (key in parameters or takes_any) and key not in given:
            taken[key] = value
    required = [key for key, p in parameters.items() if p.default is p.empty and p.kind in NAMED]
    missing = [key for key in required if key not in taken and key not in SIZES]
    if missing:
        said = [f"+model.{key}=..." for key in missing]
        raise ConfigError(
            f"model={name}: takes {enumerated(missing)}, which these data do not have (they have "
            f"{enumerated(offered)}); take other data, or say {' '.join(said)}"
        )
    return taken


def _check_call(name: str, model: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a constructor that cannot be called with the sizes and what it takes of the data."""
    try:
        inspect.signature(model).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"model={name}: must take {enumerated(arguments)} ({error})") from error


def loss_function(name: str) -> Callable[..., Any]:
    """Return the function of that dotted name.

    Raises:
        ConfigError: if there is none.
    """
    function = "a function (output, target) -> mean loss, such as mupl.training.setup.cross_entropy"
    return find_object("loss", name, function)


def tuned(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of a setup that follow from `TUNED_KEYS`; none shapes its model."""
    scaled = batch_scaling(cfg).values(cfg.lr, cfg.eps, cfg.weight_decay)
    others = {"weight_decay_mode": cfg.weight_decay_mode, "seed": cfg.seed}
    return {**scaled, **others, "tune": OmegaConf.to_container(cfg.tune, resolve=True)}


def batch_scaling(cfg: DictConfig) -> BatchScaling:
    """Return the rule from the base batch size and number of steps to this run's.

    A base batch size of null is this run's; base steps of null are those that make as many examples
    as this run.
    """
    base_batch = cfg.base_batch_size or cfg.batch_size
    m_D = 1.0  # number of examples, over the base's
    if cfg.base_steps:
        m_D = cfg.batch_size * cfg.max_steps / (base_batch * cfg.base_steps)
    return BatchScaling(cfg.batch_scaling, m_B=cfg.batch_size / base_batch, m_D=m_D)


def use_precision(word: str) -> str:
    """Set how torch multiplies matrices of float32, and return Lightning's word.

    Our `tf32` is Lightning's `32-true` with products in TF32; all other words are Lightning's own.
    """
    torch.set_float32_matmul_precision("high" if word == "tf32" else "highest")
    return "32-true" if word == "tf32" else word


def show_parametrization(setup: Setup, folder: Path, quiet: bool) -> list[dict[str, Any]]:
    """Write the parametrization table into the run's folder, print it unless `quiet`, return it."""
    rows = scale_rows(setup.infos, setup.scales)
    write_csv(folder / "parametrization.csv", rows, columns=list(rows[0]))
    if not quiet:
        print_table(telling(rows), f"parametrization={setup.parametrization.name}")
        for note in notes(setup):
            print(f"note: {note}", file=sys.stderr, flush=True)
    return rows


def notes(setup: Setup) -> list[str]:
    """Say what may be meant otherwise, as it is right in a comparison only or rarely."""
    found = []
    name = setup.parametrization.name
    if not setup.parametrization.has_depth and any(info.in_block for info in setup.infos.values()):
        found.append(
            f"base_depth: parametrization={name} has no rules in depth, so it changes nothing; "
            "depth_mup and completep have"
        )
    if name in UNIT_SCALED and not scales_gradients(setup.model):
        found.append(
            f"parametrization={name}: the model has no unit-scaled operations (of a GPT: "
            f"parametrization=umup/gpt), so that only its weights and learning rates are u-muP's"
        )
    return found

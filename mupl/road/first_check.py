"""What comes before a ladder: is the target possible, and is the model's parametrization right?"""

import json
import sys
import warnings
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.road.configs import resolved, target_sizes, with_values
from mupl.training.clear_errors import clear_errors
from mupl.training.compose import compose_job
from mupl.training.overrides import swept_values
from mupl.tuning.ladder import target_problems

VERDICT = "check/verdict.json"  # in the sweep's folder
SEEDS = 3
WIDER = (1, 2, 4)  # widths of the check, over the first of them
# The smallest width of a check. Below it networks are far from the limit of many units: what falls
# as 1 / width, such as the logits' variance, is as large as what stays
NARROWEST = 64


class FirstCheck(Callback):
    """A Hydra callback that ends a ladder before it begins if its target or its model is wrong.

    Hydra turns exceptions of callbacks into warnings, so this one exits by itself.

    Args:
        target: sizes of the run that the ladder is for; see `mupl.tuning.ladder`.
        check: whether to make a coordinate check.
    """

    def __init__(self, target: DictConfig, check: bool) -> None:
        self.target: Any = OmegaConf.to_container(target)
        self.check = check

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with clear_errors():
            first = compose_job(config, {})
            check_target(first, self.target, max(_ladder(config)))
            if not self.check:
                print("check=false: no coordinate check of the model comes first", flush=True)
                return
            widths = check_widths(min(_ladder(config)))
            failure = coordinate_check(first, widths, Path(str(config.hydra.sweep.dir)))
        if failure:
            sys.exit(f"error: {failure}; nothing was trained (check=false trains all the same)")


def _ladder(config: DictConfig) -> list[int]:
    """Return the widths of the proxies."""
    widths = swept_values(config).get("width") or [config.width]
    if not all(isinstance(width, int) for width in widths):
        raise ConfigError(f"width={widths[0]}: a ladder has one width for all layers")
    return widths


def check_widths(smallest: int) -> list[int]:
    """Return the widths of a check: a ladder's smallest one, doubled until it is wide enough, ...

    >>> check_widths(48), check_widths(256)
    ([96, 192, 384], [256, 512, 1024])
    """
    while smallest < NARROWEST:
        smallest *= 2
    return [smallest * times for times in WIDER]


def check_target(config: DictConfig, target: Mapping[str, Any], largest: int) -> None:
    """Refuse a target that cannot be, or cannot be built.

    Args:
        config: of a proxy.
        target: its sizes; see `mupl.tuning.ladder`.
        largest: width of the ladder.

    Raises:
        ConfigError: naming the key.
    """
    for problem in target_problems(target):
        raise ConfigError(problem)
    if target["width"] < largest:
        raise ConfigError(
            f"target.width={target['width']}: must not be below the widths of the ladder, up to "
            f"{largest}"
        )
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key in target["in_proportion"]:
        if "in_proportion" not in str(plain[key]):
            raise ConfigError(
                f"{key}={plain[key]}: is to grow in proportion (target.in_proportion); say "
                f"target.{key} only"
            )
    from mupl.road.cost import cost  # imports torch

    try:
        cost(with_values(config, target_sizes(config, target)))
    except ConfigError as error:
        raise ConfigError(f"the target cannot be built: {error}") from error


def coordinate_check(config: DictConfig, widths: list[int], folder: Path) -> str:
    """Check the model of a config at three widths; return a sentence if it fails, else "".

    The verdict is written to the sweep's folder, and one that is there is not made again.
    """
    file = folder / VERDICT
    if file.exists() and json.loads(file.read_text())["passed"]:
        print(f"the coordinate check has passed before ({file})", flush=True)
        return ""
    import torch

    from mupl.analysis import coordinates
    from mupl.data.modules import data_module
    from mupl.training.config import load_data, setup_arguments
    from mupl.training.coord_check import coord_check

    config = resolved(config)
    splits = load_data(config)
    loader = data_module(splits, batch_size=config.batch_size, seed=0).train_dataloader()
    build, arguments = setup_arguments(config, splits.model_args)
    arguments.pop("seed")
    is_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = coord_check(
            build,
            widths,
            islice(iter(loader), 3),
            seeds=range(SEEDS),
            device="cpu" if is_cpu else "cuda",
            **arguments,
        )
    verdict = coordinates.verdict(rows)
    write_verdict(file, coordinates.verdict_json(verdict))
    print(
        f"coordinate check at width {', '.join(map(str, widths))}: {coordinates.count(verdict)} "
        f"({file})",
        flush=True,
    )
    if not coordinates.has_failed(verdict):
        return ""
    failed = verdict[verdict["verdict"] == coordinates.FAIL]
    first, *others = coordinates.sentences(failed)
    more = f" (and {len(others)} more in {file})" if others else ""
    return f"the coordinate check fails: {first}{more}"


def write_verdict(file: Path, plain: Any) -> None:
    """Write a verdict as JSON, with its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(plain, indent=1))

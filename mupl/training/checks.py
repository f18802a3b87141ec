"""Check what a command line asks for before torch is imported and before any job is trained."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from mupl.errors import ConfigError
from mupl.identity import (
    METRICS,
    RERUN,
    RESULT_FILE,
    earlier_folder,
    remember_sweep,
    task_overrides,
)
from mupl.parametrization.hyperparameters import (
    SIZE_RULES,
    mode_problems,
    number_problems,
    tune_problems,
    word_problems,
)
from mupl.training.clear_errors import clear_errors
from mupl.training.compose import compose_choices
from mupl.training.keys import wandb_key_is_set
from mupl.training.loss_check import check_losses
from mupl.training.overrides import (
    MAX_JOBS,
    as_typed,
    jobs,
    known_keys,
    refuse_unknown,
    swept_values,
)
from mupl.tuning.halving import halving_problems

Values = Mapping[str, Any]  # by dotted key

# key -> smallest value
WHOLE = {
    "depth": 1,
    "batch_size": 1,
    "max_steps": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.max_epochs": -1,
    "micro_batches": 1,
    "checkpoint.keep": 1,
    "sample.tokens": 0,
}
BASES = ("base_batch_size", "base_steps")  # of batch_scaling
WHOLE_OR_NULL = ("base_depth", *BASES, "checkpoint.every_steps", "sample.top_k")
FLAGS = ("compile", "checkpoint_activations", "checkpoint.best")
PROCESSES = ("trainer.devices", "trainer.num_nodes")
RECORDED = "callbacks.coordinates.steps"
WIDTHS = ("width", "base_width")
NUMBERS = ("lr", "eps", "weight_decay")
WORDS = {
    "batch_scaling": tuple(SIZE_RULES),
    "rerun": RERUN,
    "metric": METRICS,
    # Lightning's, and our tf32
    "trainer.precision": (
        *("tf32", "32-true", "64-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true"),
        *("transformer-engine", "transformer-engine-float16", "32", "64", "bf16", "16"),
    ),
}
BY_NAME = ("roles", "init")
CHECKED = (
    *WIDTHS, *WHOLE, *NUMBERS, "weight_decay_mode", *WORDS, *WHOLE_OR_NULL, *BY_NAME,
    "keep", "tune", "halving", "seed", "threads", "loss", *PROCESSES, *FLAGS, "resume",
    "checkpoint.every_minutes", "sample.temperature", "sample.prompt", "trainer.strategy",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val", "trainer.val_check_interval", RECORDED,
)  # fmt: skip
SEEDS = 2**32  # what numpy's and Lightning's generators take

# What tells the folders of a sweep's jobs apart, whatever is swept
UNIQUE = ("job_folder:", "job_id:", "job.num", "job.id", "override_dirname")
COORDINATE_CHECKS = ("coordinate_check", "ablation")  # reports
# Class of a logger -> the package that it needs, which is also its extra
LOGGERS = {"WandbLogger": "wandb", "TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow"}


def check(cfg: DictConfig) -> None:
    """Check the values of a job's config that need no data and no model.

    Raises:
        ConfigError: at the first value that cannot be, naming its key and what would be right.
    """
    for problem in problems(values_of(cfg)):
        raise ConfigError(problem)


def values_of(cfg: DictConfig, swept: Iterable[str] = ()) -> dict[str, Any]:
    """Return the values that can be checked, by dotted key.

    Left out are references to what only a job has: Hydra's own values, and the keys that are swept.
    """
    values = {}
    for key in CHECKED:
        group, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, group) if group else cfg
        if node is None or name not in node.keys():  # noqa: SIM118 (`in` overlooks what is broken)
            continue
        try:
            value = node[name]
        except InterpolationKeyError as error:
            if any(f"'{key_of_job}" in str(error) for key_of_job in swept):
                continue
            raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error
        except InterpolationResolutionError:
            continue  # such as ${hydra:job.num}
        values[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return values


def problems(values: Values) -> Iterator[str]:
    """Say what is wrong with each value, each text beginning with its key."""
    checks: dict[Callable[[str, Any], Iterator[str]], tuple[str, ...]] = {
        _width_problems: WIDTHS,
        _whole_problems: tuple(WHOLE),
        number_problems: (*NUMBERS, "sample.temperature"),
        mode_problems: ("weight_decay_mode",),
        _whole_or_null_problems: WHOLE_OR_NULL,
        _mapping_problems: BY_NAME,
        _globs_problems: ("keep",),
        tune_problems: ("tune",),
        halving_problems: ("halving",),
        _seed_problems: ("seed",),
        _threads_problems: ("threads",),
        _loss_problems: ("loss",),
        _clip_problems: ("trainer.gradient_clip_val",),
        _interval_problems: ("trainer.val_check_interval",),
        _flag_problems: FLAGS,
        _resume_problems: ("resume",),
        _minutes_problems: ("checkpoint.every_minutes",),
        _prompt_problems: ("sample.prompt",),
        _process_problems: PROCESSES,
    }
    for say, keys in checks.items():
        for key in keys:
            if key in values:
                yield from say(key, values[key])
    for key, known in WORDS.items():
        if key in values:
            yield from word_problems(key, values[key], known)
    yield from _batch_scaling_problems(values)
    yield from _recorded_problems(values)
    yield from _micro_batch_problems(values)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _width_problems(key: str, value: Any) -> Iterator[str]:
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(_is_whole(entry, 1) for entry in entries):
        yield f"{key}={value}: must be a whole number >= 1, or a list of them"


def _whole_problems(key: str, value: Any) -> Iterator[str]:
    if not _is_whole(value, WHOLE[key]):
        yield f"{key}={value}: must be a whole number >= {WHOLE[key]}"


def _whole_or_null_problems(key: str, value: Any) -> Iterator[str]:
    if value is not None and not _is_whole(value, 1):
        yield f"{key}={value}: must be a whole number >= 1, or null"


def _mapping_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        entry = "hidden" if key == "roles" else "{name: normal, std: 0.02}"
        yield f"{key}={value}: must be by glob, such as '+{key}={{layers.1.weight: {entry}}}'"


def _globs_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        yield f"{key}={value}: must be a list of globs, such as 'keep=[layers.0.*]'"


def _seed_problems(key: str, value: Any) -> Iterator[str]:
    if not _is_whole(value, 0) or value >= SEEDS:
        yield f"{key}={value}: must be a whole number >= 0 and below 2^32"


def _threads_problems(key: str, value: Any) -> Iterator[str]:
    if value != "auto" and not _is_whole(value, 1):
        yield f"{key}={value}: must be a whole number >= 1, or auto"


def _loss_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or "." not in value:
        yield (
            f"{key}={value}: must be the dotted name of a function (output, target) -> mean loss, "
            "such as mupl.training.setup.cross_entropy"
        )


def _process_problems(key: str, value: Any) -> Iterator[str]:
    is_list = isinstance(value, list) and value and all(_is_whole(entry, 0) for entry in value)
    is_count = _is_whole(value, 1) or (isinstance(value, str) and value.isdecimal() and value > "0")
    if str(value) not in ("auto", "-1") and not is_list and not is_count:
        yield f"{key}={value}: must be a whole number >= 1, auto, or a list of devices"


def _sweep_problems(values: Values) -> Iterator[str]:
    """Refuse what is for a run that is alone."""
    alone = "a job of a sweep has one device; leave out -m to train on several"
    if values.get("trainer.strategy") is not None:
        yield f"trainer.strategy: {alone}"
    for key in PROCESSES:
        value = values.get(key, 1)
        count = len(value) if isinstance(value, list) else value
        if str(count) not in ("1", "auto"):
            yield f"{key}={value}: {alone}"
    resume = values.get("resume", False)
    if resume is not False:
        yield (
            f"resume={resume}: is for a run that is alone; the same command of a sweep goes on by "
            "itself"
        )


def _micro_batch_problems(values: Values) -> Iterator[str]:
    micro = values.get("micro_batches")
    batches = values.get("trainer.accumulate_grad_batches", 1)
    if micro not in (None, 1) and batches != 1:
        yield (
            f"micro_batches={micro}: cuts each batch and accumulates gradients; leave out "
            f"trainer.accumulate_grad_batches={batches}, which would accumulate over several"
        )


def _flag_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, bool):
        yield f"{key}={value}: must be true or false"


def _resume_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, bool | str):
        yield f"{key}={value}: must be true, false, or the folder of a run"
    elif isinstance(value, str) and not Path(value).exists():
        yield f"{key}={value}: there is no such folder; say a run's folder, or true"


def _minutes_problems(key: str, value: Any) -> Iterator[str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        yield f"{key}={value}: must be a number > 0, or null"


def _prompt_problems(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{key}={value}: must be a text"


def _clip_problems(key: str, value: Any) -> Iterator[str]:
    if value is not None:
        yield from number_problems(key, value)


def _interval_problems(key: str, value: Any) -> Iterator[str]:
    is_share = isinstance(value, float) and 0 < value <= 1
    if value is not None and not is_share and not _is_whole(value, 1):
        yield f"{key}={value}: must be a number of steps >= 1, or a share of an epoch"


def _recorded_problems(values: Values) -> Iterator[str]:
    """Refuse a list of steps of which training does not reach the last."""
    steps = values.get(RECORDED)
    updates = values.get("max_steps")
    if not isinstance(steps, list) or not all(_is_whole(step, 0) for step in steps):
        return  # what else it may be, the recorder says
    if steps and _is_whole(updates, 1) and max(steps) >= updates:
        yield (
            f"{RECORDED}={steps}: training ends before step {max(steps)}; say "
            f"max_steps={max(steps) + 1} or more"
        )


def _batch_scaling_problems(values: Values) -> Iterator[str]:
    rule = values.get("batch_scaling", "none")
    if rule != "none" and all(key in values and values[key] is None for key in BASES):
        yield (
            f"batch_scaling={rule}: changes nothing without base_batch_size or base_steps, where "
            "lr is right"
        )


class CheckInput(Callback):
    """A Hydra callback that ends a run or a sweep with one line if its input is wrong.

    Hydra turns exceptions of callbacks into warnings, so this one exits by itself.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with clear_errors():
            _check_keys(config)
            _refuse_sweep_without_m(config)
            _check_output("hydra.run.dir", str(config.hydra.run.dir))
            _check_entries(config)
            says_depth = any(text.startswith("depth=") for text in task_overrides(config))
            for problem in _command_problems(values_of(config), says_depth):
                raise ConfigError(problem)
            _check_loggers(config)
            if config.halving.rungs:
                raise ConfigError(_no_halving(config, "add -m hydra/launcher=stacked"))
            for key in BASES:
                if config.batch_scaling == "none" and config[key] is not None:
                    note = f"{key}={config[key]}: changes nothing under batch_scaling=none"
                    print(f"note: {note}", file=sys.stderr, flush=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with clear_errors():
            remember_sweep(config)
            swept = swept_values(config)
            _refuse_intervals(config, swept)
            _check_keys(config, swept)
            first = compose_choices(config)
            _check_coordinate_check(config, swept)
            _check_entries(config)
            _check_output("hydra.sweep.dir", str(config.hydra.sweep.dir))
            _check_folders(config, swept)
            _check_jobs(config, swept)
            _check_expectations(config)
            _check_loggers(config)
            _check_halving(config)
            check_losses(config, first)
            earlier = earlier_folder(config)
            if earlier is not None:
                text = f"note: {earlier} has this sweep under the name that it had before; say "
                print(f"{text}hydra.sweep.dir={earlier} to go on there", file=sys.stderr)


def _check_keys(config: DictConfig, swept: Iterable[str] = ()) -> None:
    keys = [str(key) for key in config]
    for key in swept:
        if "/" not in key and "@" not in key:  # else a config group of Hydra's, or within one
            keys.append(key.partition(".")[0])
    refuse_unknown((key for key in keys if key != "hydra"), config)
    optional = ("hydra", "size", "experiment", "setting", "local")
    for key in known_keys():
        if key not in keys and key not in optional:
            raise ConfigError(f"{key}: is missing; every run needs it")


def _check_entries(config: DictConfig) -> None:
    for group in ("callbacks", "logger"):
        for name, entry in (config[group] or {}).items():
            if not OmegaConf.is_dict(entry) or "_target_" not in entry:
                raise ConfigError(f"{group}.{name}={entry}: must have a _target_, a class")
    for group, example in (("checkpoint", "every_minutes=10"), ("sample", "tokens=50")):
        if not OmegaConf.is_dict(config[group]):
            raise ConfigError(f"{group}={config[group]}: has keys, as in {group}.{example}")


def _refuse_sweep_without_m(config: DictConfig) -> None:
    params = config.hydra.sweeper.get("params")
    if params:
        choices = config.hydra.runtime.choices
        group = "experiment" if choices.get("experiment") else "size"
        raise ConfigError(
            f"{group}={choices.get(group)}: is a sweep over {', '.join(params)}; add -m, or for "
            "one training hydra.sweeper.params=null"
        )


def _command_problems(values: Values, says_depth: bool) -> Iterator[str]:
    """Say what is wrong with the values of a job, whose depth was said beside its width or not."""
    yield from problems(values)
    width = values.get("width")
    depth = values.get("depth")
    if says_depth and isinstance(width, list) and depth != len(width):
        yield f"depth={depth}: width={width} is a list of {len(width)} layers; say one of the two"


def _refuse_intervals(config: DictConfig, swept: Mapping[str, list[Any] | None]) -> None:
    """Refuse values that a sweeper has to draw, if it goes over lists only."""
    for key, values in swept.items():
        if values is None and str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            raise ConfigError(
                f"{key}: an interval needs a sweeper that draws values, such as "
                f"hydra/sweeper=draws; for a grid say {key}=range(0,3) or values with commas"
            )


def _check_halving(config: DictConfig) -> None:
    """Refuse a halving where jobs run one by one, or record statistics to the end."""
    if not config.halving.rungs:
        return
    if not str(config.hydra.launcher._target_).endswith(".StackedLauncher"):
        raise ConfigError(_no_halving(config, "add hydra/launcher=stacked"))
    if config.callbacks:
        raise ConfigError(_no_halving(config, f"leave out callbacks={[*config.callbacks]}"))


def _no_halving(config: DictConfig, remedy: str) -> str:
    return (
        f"halving.rungs={config.halving.rungs}: drops jobs of a sweep in stacks that record "
        f"nothing; {remedy}, or say halving.rungs=[]"
    )


def _check_output(key: str, folder: str) -> None:
    """Refuse a folder of the output that cannot be made or written to."""
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir():
        raise ConfigError(f"{key}={folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder}: {there} cannot be written to; name another folder")


def _check_folders(config: DictConfig, swept: Mapping[str, list[Any] | None]) -> None:
    """Refuse a name of the jobs' folders that several of them would share."""
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    subdir = str(sweep["subdir"])
    if any(word in subdir for word in UNIQUE):
        return
    for key, values in swept.items():
        if (values is None or len(values) > 1) and key not in subdir:
            raise ConfigError(
                f"hydra.sweep.subdir={subdir}: jobs of several {key} would share a folder; leave "
                "it out, or say one that differs, such as ${hydra.job.num}"
            )


def _check_coordinate_check(config: DictConfig, swept: Mapping[str, list[Any] | None]) -> None:
    """Refuse a coordinate check of one size, unless it adds to one in the same folder."""
    report = OmegaConf.select(config, "hydra.callbacks.sweep_report.report")
    if report not in COORDINATE_CHECKS:
        return
    along = OmegaConf.select(config, "callbacks.coordinates.along")
    if along is None:
        raise ConfigError(f"callbacks: report={report} needs callbacks=coordinates")
    sizes = swept.get(along) or []
    folder = Path(str(config.hydra.sweep.dir))
    if len(sizes) < 2 and not any(folder.glob(f"*/{RESULT_FILE}")):
        example = "128,256,512" if along == "width" else "2,4,8"
        raise ConfigError(
            f"{along}: a coordinate check needs at least two, such as {along}={example}"
        )


def _check_jobs(config: DictConfig, swept: Mapping[str, list[Any] | None]) -> None:
    """Refuse a sweep whose jobs are all wrong; else say how many will fail, and why.

    Those become failed rows, so that the others are trained.
    """
    values = values_of(config, swept)
    points = jobs(swept, MAX_JOBS)
    wrong: Counter[str] = Counter()
    for point in points:
        job = {key: value for key, value in values.items() if key not in swept}
        for key, value in point.items():
            if "${" not in str(value):
                _set(job, key, value)
        for problem in (*_command_problems(job, "depth" in point), *_sweep_problems(job)):
            wrong[problem] += 1
            break
    if points and wrong.total() == len(points):
        raise ConfigError(next(iter(wrong)))
    for problem, count in wrong.items():
        text = f"{count} of {len(points)} jobs will fail: {as_typed(problem)}"
        print(text, file=sys.stderr, flush=True)


def _set(job: dict[str, Any], key: str, value: Any) -> None:
    """Enter a swept value into those that can be checked, if it is one of them."""
    if key in CHECKED:
        job[key] = value
    elif key.startswith("tune.") and isinstance(job.get("tune"), dict):
        name, _, factor = key.removeprefix("tune.").rpartition(".")
        job["tune"] = {**job["tune"], name: {**job["tune"].get(name, {}), factor: value}}


def _check_expectations(config: DictConfig) -> None:
    expect = config.get("expect", OmegaConf.create())
    report = OmegaConf.select(config, "hydra.callbacks.sweep_report.report")
    if not OmegaConf.is_dict(expect):
        raise ConfigError(f"expect={expect}: must be by parametrization, such as +expect.sp=fail")
    if expect and report != "coordinate_check":
        raise ConfigError("expect: is for coordinate checks, such as experiment=coord_check")
    for name, word in expect.items():
        for problem in word_problems(f"expect.{name}", word, ("pass", "fail")):
            raise ConfigError(problem)


def _check_loggers(config: DictConfig) -> None:
    """Refuse loggers that are not installed, and see to the key of W&B.

    The key is asked for now, or refused now, if runs are to be sent there.
    """
    for name, logger in (config.get("logger") or {}).items():
        package = LOGGERS.get(str(logger.get("_target_")).rpartition(".")[2])
        if package and find_spec(package) is None:
            raise ConfigError(
                f"logger={name}: needs the package {package}, which is not installed: "
                f"pip install 'mupl[{package}]'"
            )
        if package == "wandb" and logger.get("offline"):
            if not wandb_key_is_set():
                text = "no key is set, so that runs stay on this machine; wandb sync sends them"
                print(f"note: logger={name}: {text}", file=sys.stderr, flush=True)
        elif package == "wandb" and logger.get("offline") is False:
            _log_in(str(name))


def _log_in(name: str) -> None:
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:  # no key, one that W&B refuses, or no network
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"logger.{name}.offline=false: {reason} (or logger.{name}.offline=true)"
        ) from error

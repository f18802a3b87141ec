"""Names of the folders of sweeps and jobs: what a person recognises, and a short hash.

`multirun/lr_transfer_digits-771b/mup_width=256_lr=0.016-0caa` is the experiment and its data, and
what is swept. The digits begin the id of the sweep or the job, so that the same command finds what
it did before, however numbers are spelled. A job is found by its id whatever is before the digits,
as a command that sweeps one key more names its jobs otherwise.
"""

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mupl.identity.jobs import (
    IGNORED_KEYS,
    is_ignored,
    job_id,
    overridden_keys,
    sweep_id,
    swept_keys,
)
from mupl.identity.results import RESULT_FILE
from mupl.names import as_written

OUTPUTS = "outputs"  # has a folder a day, with one for each run
DIGITS = 4  # of an id in the name of a folder
OLD_DIGITS = 8  # in the names of sweeps before
MOST = 100  # characters of what is swept, of the 255 that a file system takes
SELF_EXPLAINING = ("parametrization", "optimizer", "model", "data")  # whose names need no "key="
FIRST = (*SELF_EXPLAINING, "width", "depth", "lr")  # in a label, in this order
LAST = "seed"
ALWAYS = ("parametrization", "optimizer", "width", "lr")  # in the label of a run that is alone


def sweep_folder(config: DictConfig) -> str:
    """Return the name of a multirun's folder: experiment, data and size, or `name`; and digits.

    The digits follow from all that is not swept. Width and seed count as swept even where they are
    not. So a sweep to which a width or a seed is added finds what it did before, and sweeps of
    different things keep apart.
    """
    return f"{_safe(sweep_title(config))}-{sweep_id(config)[:DIGITS]}"


def run_folder(config: DictConfig) -> str:
    """Return where a run that is alone writes: a new folder, or the one that it goes on in.

    `resume=true` takes the latest folder of `OUTPUTS` that has a checkpoint of this very job.
    """
    new = Path(OUTPUTS, time.strftime("%Y-%m-%d"), time.strftime("%H-%M-%S"))
    resume = config.get("resume")
    if isinstance(resume, str):
        folder = Path(resume)
        return str(folder.parents[1] if folder.is_file() else folder)
    if resume is not True:
        return str(new)
    job = job_id(config)
    for saved in sorted(Path(OUTPUTS).glob("*/*/checkpoints"), reverse=True):
        file = saved.parent / ".hydra" / "config.yaml"
        if file.exists() and any(saved.glob("step-*")) and job_id(_loaded(file)) == job:
            return str(saved.parent)
    return str(new)


def _loaded(file: Path) -> DictConfig:
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def sweep_title(config: DictConfig) -> str:
    """Return `name`, or else the experiment, the data and the size: "lr_transfer_digits"."""
    if config.get("name"):
        return str(config.name)
    choices = hydra_part(config).runtime.choices
    names: list[str] = []
    for group in ("experiment", "data", "size"):
        choice = str(choices.get(group) or "")
        if choice and not any(choice in name for name in names):
            names.append(choice)
    return "_".join(names)


def earlier_folder(config: DictConfig) -> Path | None:
    """Return the folder that has the sweep of this config under its name before `DIGITS`, if any.

    None too if the sweep has one under its present name.
    """
    folder = Path(str(config.hydra.sweep.dir))
    if folder.exists() or not folder.name.endswith(f"-{sweep_id(config)[:DIGITS]}"):
        return None
    return next(folder.parent.glob(f"*-{sweep_id(config)[:OLD_DIGITS]}"), None)


def job_folder(config: DictConfig, job: str) -> str:
    """Return the name of a job's folder in its sweep's: what is swept, and digits of its id.

    A folder in which the job ended before is taken as it is named. One that holds the result of
    another job is left alone: this one's then has its whole id.
    """
    label = _safe(run_label(config, "_"))
    name = f"{label[:MOST]}-{job if len(label) > MOST else job[:DIGITS]}"
    sweep_dir = str(config.hydra.sweep.dir)
    others = _folders(sweep_dir, _changed(sweep_dir)).get(job[:DIGITS], ())
    for other in sorted(others, key=lambda other: other != name):
        if is_folder_of(other, job) and _job_in(Path(sweep_dir, other)) == job:
            return other
    if name in others and _job_in(Path(sweep_dir, name)) not in (None, job):
        return f"{label[:MOST]}-{job}"
    return name


def is_folder_of(folder: str, job: str) -> bool:
    """Say whether a folder's name is an id, or ends with four digits of it or more.

    >>> is_folder_of("mup_width=8-0caa", "0caa85e4b1fd"), is_folder_of("copy", "0caa85e4b1fd")
    (True, False)
    """
    digits = folder.rpartition("-")[2]
    return folder == job or (len(digits) >= DIGITS and job.startswith(digits))


def run_label(config: DictConfig, separator: str = " ") -> str:
    """Return what tells a run from others: the values of swept keys, or the most usual ones.

    Args:
        config: of the job.
        separator: "_" for a folder, which has the names of the config: "mup_width=256"; else
            parametrizations are named as people write them: "muP width=256".
    """
    hydra = hydra_part(config)
    keys = OmegaConf.get_cache(config).get("swept")
    if keys is None:  # a run that is alone, or a sweep whose callbacks were taken away
        task: Any = OmegaConf.to_container(hydra.overrides.task)
        said = [key for key in overridden_keys(task) if not is_ignored(key, IGNORED_KEYS)]
        keys = [*ALWAYS, *said]
    choices = hydra.runtime.choices
    values = {}
    for key in keys or ALWAYS:
        values[key] = choices.get(key) or OmegaConf.select(config, key.replace("/", "."))
    if separator != "_" and "parametrization" in values:
        values["parametrization"] = as_written(str(values["parametrization"]))
    return separator.join(label_parts(values))


def hydra_part(config: DictConfig) -> Any:
    """Return Hydra's part of a config, or the one that holds for a config without."""
    whole: Any = config if "hydra" in config else HydraConfig.instance().cfg
    return whole.hydra


def label_parts(values: dict[str, Any]) -> list[str]:
    """Write settings as people do, the most telling ones first, whatever their order.

    >>> label_parts({"seed": 0, "lr": 0.0160, "parametrization": "mup", "model.init_std": 1.0})
    ['mup', 'lr=0.016', 'init_std=1', 'seed=0']
    """
    parts = []
    shorts = [key.rpartition(".")[2] for key in values]
    for key in sorted(values, key=_place):
        short = key.rpartition(".")[2]
        name = short if shorts.count(short) == 1 else key
        text = value_text(values[key])
        parts.append(text if key in SELF_EXPLAINING else f"{name}={text}")
    return parts


def value_text(value: Any) -> str:
    """Write a value in the one way of all that mean the same: 0.016 for 0.0160, 8-16 for a list.

    >>> value_text(1.6e-2), value_text(1.0), value_text([8, 16]), value_text(None)
    ('0.016', '1', '8-16', 'null')
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "-".join(map(value_text, value))
    if isinstance(value, dict):
        return "-".join(label_parts(value))
    return str(value)


def remember_sweep(config: DictConfig) -> None:
    """Let the configs of a multirun's jobs know what is swept, which theirs do not say.

    Hydra copies the cache of the multirun's config to theirs.
    """
    OmegaConf.get_cache(config)["swept"] = [key for key, n in swept_keys(config).items() if n != 1]


def remember_id(config: DictConfig, job: str) -> None:
    """Let `${job_folder:}` in this config be by an id that was found, which takes a hash of all."""
    OmegaConf.get_cache(config)["job_id"] = job


def register_resolvers() -> None:
    """Make `${job_id:}`, `${job_folder:}`, `${sweep_folder:}` and names of runs known to OmegaConf.

    The command line calls this. Hydra's launchers carry resolvers over to the processes that they
    start.
    """
    resolvers = {
        "job_id": _resolve_job_id,
        "job_folder": _resolve_job_folder,
        "sweep_folder": _resolve_sweep_folder,
        "run_folder": _resolve_run_folder,
        "run_name": _resolve_run_name,
        "run_group": _resolve_run_group,
        "run_experiment": lambda *, _root_: _resolve_run_group(_root_=_root_) or "mupl",
        "run_tags": _resolve_run_tags,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _resolve_job_id(*, _root_: DictConfig) -> str:
    return OmegaConf.get_cache(_root_).get("job_id") or job_id(_root_)


def _resolve_job_folder(*, _root_: DictConfig) -> str:
    return job_folder(_root_, _resolve_job_id(_root_=_root_))


def _resolve_sweep_folder(*, _root_: DictConfig) -> str:
    """Resolve the multirun's name once, as a job's config would have another.

    Hydra copies the cache of the multirun's config to the configs of its jobs.
    """
    cache = OmegaConf.get_cache(_root_)
    if "sweep_folder" not in cache:
        remember_sweep(_root_)
        cache["sweep_folder"] = sweep_folder(_root_)
    return cache["sweep_folder"]


def _resolve_run_folder(*, _root_: DictConfig) -> str:
    """Resolve the folder of a run that is alone, once, as the time goes on."""
    cache = OmegaConf.get_cache(_root_)
    if "run_folder" not in cache:
        cache["run_folder"] = run_folder(_root_)
    return cache["run_folder"]


def _resolve_run_name(*, _root_: DictConfig) -> str:
    title = "" if _resolve_run_group(_root_=_root_) else f"{sweep_title(_root_)} "
    return title + run_label(_root_)


def _resolve_run_group(*, _root_: DictConfig) -> str | None:
    """Return the name of the sweep's folder; None for a run that is alone."""
    hydra = hydra_part(_root_)
    is_sweep = str(hydra.mode).endswith("MULTIRUN")
    return Path(str(hydra.sweep.dir)).name if is_sweep else None


def _resolve_run_tags(*, _root_: DictConfig) -> Any:
    """Return what runs are looked up by: experiment, data, model, optimizer, parametrization."""
    choices = hydra_part(_root_).runtime.choices
    groups = ("experiment", "data", "model", "optimizer", "parametrization")
    return OmegaConf.create([choices[group] for group in groups if choices.get(group)])


def _place(key: str) -> tuple[int, str]:
    """Return the sort key of a setting in a label."""
    if key in FIRST:
        return FIRST.index(key), ""
    return (len(FIRST) + (key == LAST), key)


def _safe(text: str) -> str:
    """Replace what is awkward in a path or on a command line: "absolute/groups"."""
    return re.sub(r"[^\w.=+-]+", "-", text)


def _changed(folder: str) -> int:
    """Return when the last entry was added to a folder; 0 if it is not there."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _folders(sweep_dir: str, changed: int) -> dict[str, Sequence[str]]:
    """Return the names of folders of jobs by the first digits of the ids at their ends.

    Args:
        changed: when the sweep's folder changed, so that it is read once for thousands of jobs.
    """
    found: dict[str, Sequence[str]] = defaultdict(list)
    for name in _names(sweep_dir):
        digits = name.rpartition("-")[2]
        found[digits[:DIGITS]] = [*found[digits[:DIGITS]], name]
    return found


def _names(folder: str) -> Iterable[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # not there yet
        return ()


def _job_in(folder: Path) -> str | None:
    """Return the id of the job whose result a folder holds; None if it has none, or a damaged one.

    A result that is damaged is dealt with where it is read.
    """
    try:
        return json.loads((folder / RESULT_FILE).read_bytes()).get("job")
    except (OSError, ValueError, AttributeError):
        return None

"""Can a sweep's data be read, its model be called, and does its loss fit? Asked before a job."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE, hydra_of, read_result
from mupl.training.clear_errors import error_line
from mupl.training.compose import compose_job
from mupl.training.overrides import MAX_JOBS, jobs, swept_texts

DECIDING = ("loss", "model", "data")  # swept keys that decide it, with data.*
EXAMPLES = 3  # given to the loss: neither one, which is broadcast, nor many, which take memory
HERE = ("BasicLauncher", "StackedLauncher")  # which train in the process of the command


def check_losses(config: DictConfig, first: DictConfig) -> None:
    """Refuse a multirun of which no job can be trained; else say how many jobs will fail.

    Those become failed rows, so that the others are trained. A sweep of which a job was trained
    before is not looked at again, nor one whose jobs are trained in processes elsewhere.

    Args:
        config: of the multirun.
        first: of its first job.

    Raises:
        ConfigError: of the data's source, of the setup, of what the user's model raises, or see
            `mupl.training.losses.CheckedLoss`.
    """
    launcher = str(config.hydra.launcher._target_).rpartition(".")[2]
    if launcher not in HERE or _has_trained(Path(str(config.hydra.sweep.dir))):
        return
    from mupl.training.config import TUNED_KEYS  # not before, as other checks do without torch

    swept = {key: texts for key, texts in swept_texts(config).items() if texts}
    deciding = {key: swept[key] for key in swept if key in DECIDING or key.startswith("data.")}
    others = {}
    for key, texts in swept.items():
        if key not in deciding and key.partition(".")[0] not in TUNED_KEYS:
            others[key] = texts
    cases = jobs(deciding, MAX_JOBS)

    def composed(chosen: Mapping[str, str]) -> DictConfig:
        is_first = all(swept[key][0] == text for key, text in chosen.items())
        return first if is_first else compose_job(config, chosen)

    wrong = Counter(filter(None, (_problem_of_all(composed, case, others) for case in cases)))
    if wrong.total() == len(cases):
        raise ConfigError(next(iter(wrong)))
    total = len(jobs(swept, MAX_JOBS))
    for problem, count in wrong.items():
        of_all = count * total // len(cases)
        print(f"{of_all} of {total} jobs will fail: {problem}", file=sys.stderr, flush=True)


def _has_trained(sweep_dir: Path) -> bool:
    """Say whether a sweep's folder holds the result of a job that did not fail."""
    for file in sweep_dir.glob(f"*/{RESULT_FILE}"):
        row = read_result(file)
        if row is not None and row["status"] != "failed":
            return True
    return False


def _problem_of_all(
    composed: Callable[[Mapping[str, str]], DictConfig],
    case: Mapping[str, str],
    others: Mapping[str, list[Any] | None],
) -> str:
    """Say what is wrong with all jobs of a case; "" if one is right, as the first one mostly is."""
    first = ""
    for point in jobs(others, MAX_JOBS):
        job = composed({**case, **point})
        with hydra_of(job), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said where the job is trained
            splits, problem = _load(job)
            if splits is None:
                return problem  # no other key changes it
            problem = _problem_of_model(job, splits)
        if not problem:
            return ""
        first = first or problem
    return first


def _load(config: DictConfig) -> tuple[Any, str]:
    """Return the data of a job; or None, and why they cannot be had."""
    from mupl.training.config import load_data

    try:
        return load_data(config), ""
    except Exception as error:
        return None, error_line(error)


def _problem_of_model(config: DictConfig, splits: Any) -> str:
    """Say why a job's model cannot be set up or called, or why its loss does not fit.

    "" if all is well, or an error is mupl's own, which is raised where the job is trained.
    """
    import torch

    from mupl.training.config import build_setup

    try:
        batches = splits.train_batches(config.batch_size, [0])
        batches.set_step(0)
        x, target = (of_seeds[0] for of_seeds in batches())
        setup = build_setup(config, splits.model_args)
        setup.model.eval()
        with torch.no_grad():
            try:
                output = setup.model(x[:EXAMPLES])
            except Exception:  # it may be made for batches of one size, or for an accelerator
                _call_as_in_training(config, setup.model, x)
                return ""
        setup.loss(output, target[:EXAMPLES])
    except InterpolationResolutionError:
        return ""  # a size of a ladder without a target, which a check of ladders refuses
    except Exception as error:
        return error_line(error)
    return ""


def _call_as_in_training(config: DictConfig, model: Any, x: Any) -> None:
    """Call a model on a whole batch where it will be trained, unless in another precision."""
    import torch

    if config.trainer.get("precision", "32-true") not in ("32-true", "tf32"):
        return
    on_cpu = config.trainer.get("accelerator") == "cpu" or not torch.accelerator.is_available()
    device = "cpu" if on_cpu else torch.accelerator.current_accelerator()
    model.to(device)(x.to(device))

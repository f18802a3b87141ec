"""Does the loss of a sweep fit its model and its data? Asked before its first job is trained."""

import sys
import warnings
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE, hydra_of, read_result
from mupl.training.compose import compose_job
from mupl.training.overrides import MAX_JOBS, jobs, swept_texts

DECIDING = ("loss", "model", "data")  # swept keys that decide whether a loss fits, with data.*
EXAMPLES = 3  # given to the loss: neither one, which is broadcast, nor many, which take memory
HERE = ("BasicLauncher", "StackedLauncher")  # which train in the process of the command


def check_losses(config: DictConfig) -> None:
    """Refuse a multirun if no loss fits model and data; else say how many jobs will fail, and why.

    Those become failed rows, so that the others are trained. A sweep of which a job was trained
    before is not looked at again, nor one whose jobs are trained in processes elsewhere.

    Raises:
        ConfigError: see `mupl.training.losses.CheckedLoss`.
    """
    launcher = str(config.hydra.launcher._target_).rpartition(".")[2]
    if launcher not in HERE or _has_trained(Path(str(config.hydra.sweep.dir))):
        return
    swept = {key: texts for key, texts in swept_texts(config).items() if texts}
    deciding = {key: swept[key] for key in swept if key in DECIDING or key.startswith("data.")}
    cases = jobs(deciding, MAX_JOBS)
    wrong = Counter(filter(None, (_problem(compose_job(config, case)) for case in cases)))
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


def _problem(config: DictConfig) -> str:
    """Say why the loss of a job does not fit; "" if it does, or the job cannot be set up.

    The latter is said where the job is trained.
    """
    import torch  # not before, as other checks do without

    from mupl.training.config import build_setup, load_data

    with hydra_of(config), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said where the job is trained
        try:
            splits = load_data(config)
            batches = splits.train_batches(config.batch_size, [0])
            batches.set_step(0)
            x, target = (of_seeds[0] for of_seeds in batches())
            setup = build_setup(config, splits.model_args)
            setup.model.eval()
            with torch.no_grad():
                output = setup.model(x[:EXAMPLES])
        except Exception:
            return ""
        try:
            setup.loss(output, target[:EXAMPLES])
        except ConfigError as error:
            return str(error)
    return ""

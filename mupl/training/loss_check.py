"""Can a sweep's data be read, and does its loss fit them? Asked before its first job is trained."""

import sys
import warnings
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from mupl.errors import ConfigError, bad_input
from mupl.identity import RESULT_FILE, hydra_of, read_result
from mupl.training.compose import compose_job
from mupl.training.overrides import MAX_JOBS, in_plain_words, jobs, swept_texts

DECIDING = ("loss", "model", "data")  # swept keys that decide it, with data.*
EXAMPLES = 3  # given to the loss: neither one, which is broadcast, nor many, which take memory
HERE = ("BasicLauncher", "StackedLauncher")  # which train in the process of the command


def check_losses(config: DictConfig) -> None:
    """Refuse a multirun whose data are refused or fit no loss; else say how many jobs will fail.

    Those become failed rows, so that the others are trained. A sweep of which a job was trained
    before is not looked at again, nor one whose jobs are trained in processes elsewhere.

    Raises:
        ConfigError: of the data's source, or see `mupl.training.losses.CheckedLoss`.
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
    """Say which key is missing, why the data of a job are refused, or why its loss does not fit.

    "" if all is well, or the model cannot be set up, which is said where the job is trained.
    """
    import torch  # not before, as other checks do without

    from mupl.training.config import build_setup, load_data

    with hydra_of(config), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said where the job is trained
        try:
            splits = load_data(config)
        except MissingMandatoryValue as error:
            return in_plain_words(error)
        except Exception as error:
            cause = bad_input(error)
            return str(cause) if isinstance(cause, ConfigError) else ""
        try:
            batches = splits.train_batches(config.batch_size, [0])
            batches.set_step(0)
            x, target = (of_seeds[0] for of_seeds in batches())
            setup = build_setup(config, splits.model_args)
            setup.model.eval()
            with torch.no_grad():
                output = setup.model(x[:EXAMPLES])
        except MissingMandatoryValue as error:
            return in_plain_words(error)
        except Exception:
            return ""
        try:
            setup.loss(output, target[:EXAMPLES])
        except ConfigError as error:
            return str(error)
    return ""

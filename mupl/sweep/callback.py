"""What a multirun does beside its jobs: it shows progress, and reports the results when it ends."""

import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mupl.claims import POLL, delete_useless, holder, waiting_for
from mupl.errors import ConfigError, disk_error, disk_message
from mupl.figures.look import Look, looking
from mupl.files import delete_stale_partials
from mupl.identity import RESULT_FILE, read_result, swept_keys
from mupl.sweep.plan import figure_options
from mupl.sweep.reports import get_report, run_report, write_page

MOST_KEYS = 5  # of a job's swept ones in its line


class SweepReport(Callback):
    """A Hydra callback that prints a line for each finished job, and ends a multirun with a report.

    Single runs are left alone. Hydra turns exceptions of callbacks into warnings, so this one exits
    by itself.

    Args:
        report: one of `mupl.sweep.reports.REPORTS`, or the dotted name of a function of one's own.
    """

    def __init__(self, report: str) -> None:
        self.report = report
        self.started: float | None = None  # time; None: not a multirun
        self.first_end: float | None = None  # time when the first job ended here
        self.swept: dict[str, int] = {}  # key -> number of values
        self.total: int | None = None  # jobs; None: the sweeper decides as it goes
        self.trained = 0  # jobs that ended in this process
        self.found = 0  # jobs that had been done before
        self.left: list[Path] = []  # folders of jobs that other processes ran
        # Launchers send copies of this object to processes that see a part of the jobs only
        self.process: int | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            get_report(self.report)
            _look(config)
        except ConfigError as error:
            sys.exit(f"error: {error}")
        self.started = time.time()
        self.process = os.getpid()
        self.swept = swept_keys(config)
        if str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            self.total = math.prod(self.swept.values())
        jobs = "jobs" if self.total is None else f"{self.total} job{'s' * (self.total != 1)}"
        print(f"{jobs} in {config.hydra.sweep.dir}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self.started is None:
            return
        file = Path(config.hydra.runtime.output_dir, RESULT_FILE)
        if not file.exists():
            self.left.append(file.parent)
            return
        if file.stat().st_mtime < self.started:
            self.found += 1
            return
        row = read_result(file)
        if row is None:
            return
        self.trained += 1
        number = f"[{config.hydra.job.num + 1}/{self.total or '?'}]"
        job = self._name(config.hydra.overrides.task)
        outcome = _outcome(row, config.metric)
        print(f"{number} {job}: {row['status']} {outcome}{self._time_left(config)}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        sweep_dir = Path(config.hydra.sweep.dir)
        _wait_for_others(sweep_dir)
        delete_useless(sweep_dir)
        delete_stale_partials(sweep_dir)  # tables of processes that were killed
        done, found = self._count(sweep_dir)
        if found:
            print(f"{found} of {done} jobs were done before (rerun=all trains them anew)")
        sys.stdout.flush()
        code = self._report(sweep_dir, config, _look(config))
        lost = [folder for folder in self.left if not (folder / RESULT_FILE).exists()]
        if lost:
            sys.exit(
                f"error: {len(lost)} jobs were left to a process that is gone; the same "
                "command runs them"
            )
        if code:
            sys.exit(code)

    def _report(self, sweep_dir: Path, config: DictConfig, look: Look) -> int | str:
        """Report on the sweep; return the exit code, or the error that ends the command.

        The page is written also where the report fails: it says why jobs did.
        """
        code: int | str = 1
        try:
            expect = config.get("expect")
            with looking(look):
                code = run_report(self.report, sweep_dir, config.metric, expect=expect)
        except ConfigError as error:
            code = f"error: {error}"
        except Exception as error:
            full = disk_error(error)
            if full is not None:
                return f"error: {disk_message(full, str(sweep_dir))}"
            traceback.print_exc()
        write_page("write_sweep_page", sweep_dir, config.metric)
        return code

    def _name(self, overrides: list[str]) -> str:
        """Join the overrides of the keys that are swept, or all where it is not known which are."""
        names = []
        for text in overrides:
            key = text.lstrip("+~").partition("=")[0]
            if not self.swept or key in self.swept:
                names.append(text)
        if len(names) > MOST_KEYS:
            names[MOST_KEYS:] = [f"and {len(names) - MOST_KEYS} more"]
        return " ".join(names)

    def _time_left(self, config: DictConfig) -> str:
        """Say how long the rest takes, where jobs run one by one and are reported as they end."""
        one_by_one = str(config.hydra.launcher._target_).endswith(".BasicLauncher")
        if self.started is None or self.total is None or not one_by_one:
            return ""
        if self.process != os.getpid():
            return ""
        if self.first_end is None:  # a job that also imported all packages tells little
            self.first_end = time.time()
            return ""
        left = self.total - self.trained - self.found - len(self.left)
        per_job = (time.time() - self.first_end) / (self.trained - 1)
        return f" (about {duration(per_job * left)} left)" if left else ""

    def _count(self, sweep_dir: Path) -> tuple[int, int]:
        """Return how many jobs there were, and how many of them had been done before the sweep."""
        if self.total is None or self.started is None:
            return self.trained + self.found, self.found
        # Some launchers run jobs in other processes, or tell nobody of jobs that were done before
        trained = 0
        for file in sweep_dir.glob(f"*/{RESULT_FILE}"):
            trained += file.stat().st_mtime >= self.started
        return self.total, self.total - trained


def _look(config: DictConfig) -> Look:
    """Return how the config asks for figures."""
    return Look.of(figure_options(config))


def _wait_for_others(sweep_dir: Path) -> None:
    """Wait for the jobs that other processes run, so that the report has their results."""
    said = False
    while others := [found for found in map(holder, sweep_dir.glob("*/")) if found]:
        if not said:
            said = True
            print(waiting_for(others), flush=True)
        time.sleep(POLL)


def duration(seconds: float) -> str:
    """Write a time as a person says it.

    >>> duration(42.3), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _outcome(row: dict[str, Any], metric: str) -> str:
    """Say the loss of a job that completed, when one diverged, or the error of one that failed."""
    if row["status"] == "diverged":
        return f"at step {row['steps']}"
    if row["status"] not in ("completed", "dropped"):
        return row.get("error", "")
    if not math.isfinite(row.get(metric, math.nan)):
        metric = "train_loss"
    at_step = f"at step {row['steps']}, " if row["status"] == "dropped" else ""
    return f"{at_step}{metric} {row[metric]:.4g}"

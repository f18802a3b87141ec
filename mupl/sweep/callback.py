"""What a multirun does beside its jobs: show progress, and gather the results when it ends."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mupl.identity import RESULT_FILE
from mupl.sweep.identity import swept_keys
from mupl.sweep.reporter import Reporter


class SweepReport(Callback):
    """Hydra callback: a line for each finished job, and a report at the end. Single runs are left alone.

    Args:
        report: that of `mupl.sweep.reporter.Reporter`.
    """

    def __init__(self, report: str) -> None:
        self._report = report
        self._reporter: Reporter | None = None
        self._started = 0.0  # time; 0: not a multirun
        self._process: int | None = (
            None  # that of the multirun; launchers may send copies of this to others
        )
        self._done = self._found = 0  # of the jobs that ended in this process
        self._sweeps: dict[str, int] = {}
        self._total: int | None = None  # None: the sweeper decides as it goes

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._started, self._process = time.time(), os.getpid()
        self._reporter = Reporter(self._report)
        self._sweeps = swept_keys(config)
        if str(config.hydra.sweeper._target_).endswith(BasicSweeper.__name__):
            self._total = math.prod(self._sweeps.values())

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not self._started:
            return
        self._done += 1
        file = Path(config.hydra.runtime.output_dir, RESULT_FILE)
        if file.stat().st_mtime < self._started:
            self._found += 1
            return
        row = json.loads(file.read_text())
        loss = config.metric if math.isfinite(row.get(config.metric, math.nan)) else "train_loss"
        outcome = (
            f"{loss} {row[loss]:.4g}" if row["status"] == "completed" else row.get("error", "")
        )
        left = ""
        if self._total and self._process == os.getpid():
            new = self._done - self._found
            seconds = (time.time() - self._started) / new * (self._total - self._done)
            left = f" ({seconds:.0f} s left)"
        task = config.hydra.overrides.task
        job = " ".join(
            o for o in task if not self._sweeps or o.lstrip("+~").split("=")[0] in self._sweeps
        )
        number = config.hydra.job.num + 1
        print(f"[{number}/{self._total or '?'}] {job}: {row['status']} {outcome}{left}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        done, found = self._done, self._found
        if not done and self._total:  # they ended in other processes
            files = Path(config.hydra.sweep.dir).glob(f"*/{RESULT_FILE}")
            done, found = (
                self._total,
                self._total - sum(f.stat().st_mtime >= self._started for f in files),
            )
        if found:
            print(
                f"{found} of {done} jobs were done before (rerun=all trains them anew)", flush=True
            )
        assert self._reporter is not None
        if code := self._reporter(Path(config.hydra.sweep.dir), config.metric):
            sys.exit(code)

"""The report of a sweep in a process of its own, whose imports are done before the sweep ends."""

import json
import os
import pkgutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

from mupl.errors import ConfigError
from mupl.garbage import no_garbage


class Reporter:
    """Makes the report when it is called; what it needs (pandas, seaborn: 1.5 s) is imported from the start.

    Args:
        report: dotted name of a function `(sweep folder, metric) -> exit code`, such as those in `mupl.sweep.report`.
    """

    def __init__(self, report: str) -> None:
        path = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path))
        }  # finds what this process finds
        command = [sys.executable, "-m", __name__, report]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, text=True, env=os.environ | path
        )
        weakref.finalize(self, _end, self._process)  # of a sweep that has ended without a report

    def __call__(self, sweep_dir: Path, metric: str) -> int:
        """Exit code of the report; an exception in it is 1, with its traceback on stderr."""
        sys.stdout.flush()
        self._process.communicate(json.dumps([str(sweep_dir), metric]))
        return self._process.returncode

    def __getstate__(self) -> dict[str, object]:
        """None: launchers send copies of Hydra's callbacks to processes that make no report."""
        return {}


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the sweep, and thereby this process
    try:
        with no_garbage():
            report = pkgutil.resolve_name(sys.argv[1])
    except (ImportError, AttributeError, ValueError) as error:
        sys.exit(f"error: hydra.callbacks.sweep_report.report={sys.argv[1]}: {error}")
    told = sys.stdin.readline()
    if not told:  # the sweep was killed
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sweep_dir, metric = json.loads(told)
    try:
        sys.exit(report(Path(sweep_dir), metric))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

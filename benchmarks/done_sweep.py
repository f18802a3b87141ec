"""A sweep of many tiny jobs, and the same command again, which has nothing to do.

    python benchmarks/done_sweep.py [JOBS]

Prints seconds and peak memory of each whole process, report included. 2,000 jobs if none are given.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOB = ["trainer=cpu", "depth=1", "width=4,8,16,32", "base_width=4", "max_steps=2"]


def run(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds that a process took, and the megabytes that it had at most."""
    started = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "train.py", *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"train.py ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    os.chdir(ROOT)
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rates = ",".join(f"{k}e-5" for k in range(1, jobs // 4 + 1))
    with tempfile.TemporaryDirectory() as folder:
        sweep = ["-m", "hydra/launcher=stacked", *JOB, f"lr={rates}", f"hydra.sweep.dir={folder}"]
        for name in ("trained", "done before", "done before"):
            seconds, megabytes = run(sweep)
            print(f"{jobs} jobs, {name}: {seconds:.1f} s, {megabytes:.0f} MB", flush=True)


if __name__ == "__main__":
    main()

"""How far a sweep is, whoever runs it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mupl.claims import CLAIM_FILE, Holder, holder
from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE, STATES, read_result
from mupl.sweep.plan import command, job_count, read_plan


@dataclass
class Status:
    """The jobs of a sweep's folder, by their state.

    Attributes:
        ended: number of jobs that ended as completed, diverged or failed.
        running: the process that runs each of the jobs that are run now.
        lost: folders of jobs that were begun, have not ended, and that no process runs.
        asked: number of jobs of the sweep's last command; 0 where that is not known.
        command: that command; "" where it is not known.
    """

    ended: Counter[str] = field(default_factory=Counter)
    running: list[Holder] = field(default_factory=list)
    lost: list[Path] = field(default_factory=list)
    asked: int = 0
    command: str = ""

    def __str__(self) -> str:
        """Say it in a line for each state."""
        parts = [f"{count} {state}" for state, count in sorted(self.ended.items())]
        lines = [f"{self.ended.total()} ended" + (f": {', '.join(parts)}" if parts else "")]
        for process, count in Counter(map(str, self.running)).items():
            lines.append(f"{count} running in {process}")
        if self.lost:
            lines.append(f"{len(self.lost)} begun by a process that is gone")
        if self.command and not self.running and (self.lost or self.ended.total() < self.asked):
            asked = f" (it asked for {self.asked} jobs)" if self.asked else ""
            lines.append(f"it goes on by its command{asked}: {self.command}")
        return "\n".join(lines)


def status(sweep_dir: Path) -> Status:
    """Return how far the sweep in a folder is.

    Raises:
        ConfigError: if there is no job, and no record of a sweep's command.
    """
    found = Status()
    plan = read_plan(sweep_dir)
    if plan is not None:
        found.asked = job_count(plan)
        found.command = command(plan)
    for folder in sorted(sweep_dir.glob("*/")):
        if folder.name == STATES:
            continue
        result = read_result(folder / RESULT_FILE)
        process = holder(folder)
        if result is not None:
            found.ended[result["status"]] += 1
        elif process is not None:
            found.running.append(process)
        elif plan is not None or (folder / CLAIM_FILE).exists():
            found.lost.append(folder)
    if not (found.ended or found.running or found.lost or plan):
        raise ConfigError(f"{sweep_dir}: no job of a sweep was begun there")
    return found

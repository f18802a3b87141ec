"""Training the runs of a figure: the commands of its config, in a folder that resumes."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mupl.errors import ConfigError
from mupl.reproduce.entries import ROOT, Size
from mupl.signals import passed_on
from mupl.training.overrides import PACKAGE

TRAIN = ["python", "train.py"]
STOPPED = 128  # exit codes above it are of signals


def train(size: Size, folder: Path, data: str, overrides: Sequence[str] = ()) -> int:
    """Run the commands of a figure into a folder; what was done there before is not done again.

    Args:
        size: the figure at one size.
        folder: of the sweep.
        data: the folder with data that FOLDER stands for.
        overrides: of the config of every command that trains, in place of its own.

    Returns:
        The largest exit code: 1 if a run failed, or a check is not as it says.
    """
    worst = 0
    for command in size.commands:
        arguments = command_line(command, folder, data, overrides)
        print(f"$ {command}", flush=True)
        code = start(arguments)
        if code < 0 or code > STOPPED:
            sys.exit(code if code > 0 else STOPPED - code)
        worst = max(worst, code)
    return worst


def start(arguments: Sequence[str]) -> int:
    """Run a process in which this package and its launcher are found; return its exit code.

    A signal that ends this process ends that one, which saves what it has.
    """
    paths = [str(PACKAGE.parent), str(PACKAGE / "stacked" / "plugin")]
    if before := os.environ.get("PYTHONPATH"):
        paths.append(before)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(arguments, env=environment, start_new_session=True)
    with passed_on(process):
        return process.wait()


def command_line(command: str, folder: Path, data: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the arguments of a process that does what a command of a config says.

    >>> line = command_line("python train.py -m width=8,16 lr=0.1", Path("here"), "data", ["lr=1"])
    >>> line[2:]
    ['mupl', 'train', '-m', 'width=8,16', 'lr=1', 'hydra.sweep.dir=here']
    """
    words = shlex.split(command.replace("FOLDER", data))
    if words[:2] == TRAIN:
        replaced = {override.partition("=")[0] for override in overrides}
        kept = [word for word in words[2:] if word.partition("=")[0] not in replaced]
        sweep = f"hydra.sweep.dir={folder}"
        return [sys.executable, "-m", "mupl", "train", *kept, *overrides, sweep]
    if overrides:
        raise ConfigError(f"{' '.join(overrides)}: `{command}` takes no keys of a config")
    script = ROOT / words[1]
    if not script.is_file():
        raise ConfigError(f"{words[1]}: is not part of the package; run this in a checkout of mupl")
    return [sys.executable, str(script), *words[2:], "--folder", str(folder)]

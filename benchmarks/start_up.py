"""What importing mupl and composing a config add to importing torch and lightning.

    python benchmarks/start_up.py

Fresh interpreters in turn: one imports torch and lightning, one also all that train.py imports to
run, and one also composes conf/train.yaml with an override.
"""

import subprocess
import sys
from pathlib import Path

from timing import Times, add_rows, new_table, show

ROUNDS = 5
CONF = Path(__file__).resolve().parent.parent / "conf"
BASELINE = "import torch, lightning\n"
IMPORTS = """
import mupl.data, mupl.training.module, mupl.training.run
from mupl.training.cli import register_configs
"""
COMPOSE = f"""
from hydra import compose, initialize_config_dir
register_configs()
with initialize_config_dir({str(CONF)!r}, version_base="1.3"):
    compose("train", ["width=256"])
"""
PROGRAMS = {
    "import torch, lightning": BASELINE,
    "and mupl": BASELINE + IMPORTS,
    "and compose the config": BASELINE + IMPORTS + COMPOSE,
}
READ_CLOCK = "\nimport time; print(time.perf_counter())\n"


def seconds(program: str) -> float:
    """How long the program takes in an interpreter that is up."""
    command = [sys.executable, "-c", READ_CLOCK + program + READ_CLOCK]
    start, end = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(end) - float(start)


def main() -> None:
    for program in PROGRAMS.values():  # into the file cache
        seconds(program)
    times: Times = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    table = new_table("Start of a process")
    add_rows(
        table, "start", times, "import torch, lightning", {"and compose the config": 1.3}, unit="s"
    )
    show(table)


if __name__ == "__main__":
    main()

"""Search factors by module on a small model, and carry what is found to larger ones.

python scripts/search_and_carry.py [--folder outputs/carried] [--search KEYS] [--transfer KEYS] KEYS

KEYS such as data.file=FILE go to all commands, --search and --transfer to commands of one kind.
Five commands run one after the other, each into a folder of its own:

- search: experiment=per_module_search;
- near: the same between the quartiles of its best tenth, with another seed;
- uniform, uniform_near: the same of experiment=uniform_search, which has no factors by module;
- transfer: experiment=per_module_transfer, with the best setting of near, the one of uniform_near
  under the name uniform, and plain.

They end with transfer/carried.csv and carried.png. The same command goes on where it was
interrupted. docs/tuning.md says what was found.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

from mupl.reproduce.run import start

FOLDERS = ("search", "near", "uniform", "uniform_near", "transfer")


def searches(experiment: str, first: Path, near: Path, keys: list[str]) -> list[list[str]]:
    """Return what follows `python train.py -m` of a search, and of one near its best settings."""
    command = [f"experiment={experiment}", *keys]
    again = [*command, "setting=near", "seed=1"]
    return [
        [*command, f"hydra.sweep.dir={first}"],
        ["--config-dir", str(first), *again, f"hydra.sweep.dir={near}"],
    ]


def transfer(near: Path, folder: Path, keys: list[str]) -> list[str]:
    """Return what follows `python train.py -m` of the sweep that carries the settings."""
    command = ["experiment=per_module_transfer", "setting=best,uniform,plain", *keys]
    return ["--config-dir", str(near), *command, f"hydra.sweep.dir={folder}"]


def run(command: list[str], keys: list[str]) -> None:
    """Run a command; end the script with its exit code if it fails."""
    arguments = ["-m", *command, "hydra/launcher=stacked", *keys]
    print("$ python train.py", shlex.join(arguments), flush=True)
    code = start([sys.executable, "-m", "mupl", "train", *arguments])
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/carried"))
    parser.add_argument("--search", nargs="+", default=[], metavar="KEY")
    parser.add_argument("--transfer", nargs="+", default=[], metavar="KEY")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="of all commands")
    given = parser.parse_args()
    search, near, uniform, uniform_near, last = (given.folder / name for name in FOLDERS)
    by_module = searches("per_module_search", search, near, given.search)
    for command in by_module + searches("uniform_search", uniform, uniform_near, given.search):
        run(command, given.keys)
    shutil.copy(uniform_near / "setting/best.yaml", near / "setting/uniform.yaml")
    run(transfer(near, last, given.transfer), given.keys)


if __name__ == "__main__":
    main()

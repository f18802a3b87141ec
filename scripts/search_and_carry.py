"""Search factors by module on a small model, and carry what is found to larger ones.

python scripts/search_and_carry.py [--folder outputs/carried] [--search KEYS] [--transfer KEYS] KEYS

KEYS such as data.file=FILE go to all commands, --search and --transfer to commands of one kind.
Four commands run one after the other, each into a folder of its own:

- search: experiment=per_module_search;
- near: the same between the quartiles of its best tenth, with another seed;
- uniform: experiment=uniform_search, which has no factors by module;
- transfer: experiment=per_module_transfer, with the best setting of near, the best one of uniform
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


def searches(folder: Path, keys: list[str]) -> list[list[str]]:
    """Return what follows `python train.py -m` of the three searches."""
    by_module = ["experiment=per_module_search", *keys]
    near_its_best = ["--config-dir", str(folder / "search"), *by_module, "setting=near", "seed=1"]
    return [
        [*by_module, f"hydra.sweep.dir={folder / 'search'}"],
        [*near_its_best, f"hydra.sweep.dir={folder / 'near'}"],
        ["experiment=uniform_search", *keys, f"hydra.sweep.dir={folder / 'uniform'}"],
    ]


def transfer(folder: Path, keys: list[str]) -> list[str]:
    """Return what follows `python train.py -m` of the sweep that carries the settings."""
    command = ["experiment=per_module_transfer", "setting=best,uniform,plain", *keys]
    near = str(folder / "near")
    return ["--config-dir", near, *command, f"hydra.sweep.dir={folder / 'transfer'}"]


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
    for command in searches(given.folder, given.search):
        run(command, given.keys)
    settings = given.folder / "near/setting"
    shutil.copy(given.folder / "uniform/setting/best.yaml", settings / "uniform.yaml")
    run(transfer(given.folder, given.transfer), given.keys)


if __name__ == "__main__":
    main()

"""Search factors by module on a small model, and carry what is found to larger ones.

python scripts/search_and_carry.py [--folder outputs/carried] [--search KEYS] [--transfer KEYS] KEYS

KEYS such as data.file=FILE are of all commands, those of --search and --transfer of one kind. Three
commands run one after the other, each into a folder of its own:

- search: experiment=per_module_search;
- near: the same between the quartiles of its best tenth, with another seed;
- transfer: experiment=per_module_transfer, with the settings best and mean of near beside plain.

They end with transfer/carried.csv and carried.png. The same command goes on where it was
interrupted. docs/tuning.md says what was found.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # works from a checkout that is not installed

from mupl.reproduce.run import start


def commands(folder: Path, search: list[str], transfer: list[str]) -> list[list[str]]:
    """Return what follows `python train.py -m` of each command."""
    first, near, last = folder / "search", folder / "near", folder / "transfer"
    searching = ["experiment=per_module_search", *search]
    again = [*searching, "setting=near", "seed=1"]
    taking = ["experiment=per_module_transfer", "setting=best,mean,plain", *transfer]
    return [
        [*searching, f"hydra.sweep.dir={first}"],
        ["--config-dir", str(first), *again, f"hydra.sweep.dir={near}"],
        ["--config-dir", str(near), *taking, f"hydra.sweep.dir={last}"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/carried"))
    parser.add_argument("--search", nargs="+", default=[], metavar="KEY")
    parser.add_argument("--transfer", nargs="+", default=[], metavar="KEY")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="of all commands")
    given = parser.parse_args()
    for command in commands(given.folder, given.search, given.transfer):
        arguments = ["-m", *command, "hydra/launcher=stacked", *given.keys]
        print("$ python train.py", shlex.join(arguments), flush=True)
        code = start([sys.executable, "-m", "mupl", "train", *arguments])
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()

"""Make figures of papers again: `mupl reproduce` for a checkout that is not installed.

python scripts/reproduce.py --list
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mupl.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])

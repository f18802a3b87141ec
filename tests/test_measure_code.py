"""scripts/measure_code.py counts what it says."""

import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT

SOURCE = '''"""Of nothing in particular."""


def function(a, b):
    """Do it."""
    rows = [x if x else 0 for x in a]  # a comment is no token
    pairs = [[y for y in row] for row in b]
    return f"{rows} and {pairs}"
'''


def test_measures_of_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SOURCE)
    command = [sys.executable, ROOT / "scripts/measure_code.py", "small.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    head, _, places = done.stdout.partition("* per 10,000 tokens")
    measured = dict(line.rsplit(maxsplit=1) for line in head.strip().splitlines())
    tokens = 8 + 13 + 15 + 2
    assert measured == {
        "files": "1",
        "tokens": str(tokens),
        "code lines": "4",
        "tokens a code line": f"{tokens / 4:.2f}",
        "lines over 100 columns": "0",
        "comprehensions*": f"{3e4 / tokens:.1f}",
        "nested comprehensions*": f"{1e4 / tokens:.1f}",
        "conditional expressions*": f"{1e4 / tokens:.1f}",
        "functions over 50 lines": "0",
        "functions of over 12 arguments": "0",
        "elliptical docstrings": "1",
    }
    assert "5 small.py:4 function" in places
    assert "small.py:1 Of nothing in particular." in places

"""Measure how plain the code is, and compare it with another git revision.

    python scripts/measure_code.py [FOLDER_OR_FILE ...] [--compare REV] [--files]

A code line holds a token other than a comment, a line break or a triple-quoted string. An f-string
is one token under every version of Python. A comprehension with two `for`s counts as a nested one.
CONTRIBUTING.md says which values are aimed at.
"""

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_COLUMNS = 100
MAX_FUNCTION_LINES = 50
MAX_ARGUMENTS = 12
LONGEST_SHOWN = 5
# A docstring that begins so leans on a noun that the reader has to look for elsewhere
ELLIPTICAL_STARTS = ("That of ", "Those of ", "Of ", "As ")

LAYOUT_TOKENS = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
# Python 3.12 and newer split an f-string into tokens of its own
FSTRING_START = getattr(tokenize, "FSTRING_START", None)
FSTRING_END = getattr(tokenize, "FSTRING_END", None)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@dataclass
class Measures:
    """What was counted in one or more files; `+` adds two of them."""

    files: int = 0
    tokens: int = 0
    code_lines: int = 0
    long_lines: int = 0
    comprehensions: int = 0
    nested_comprehensions: int = 0
    conditional_expressions: int = 0
    functions: list[tuple[int, str]] = field(default_factory=list)  # (lines, where)
    many_arguments: list[str] = field(default_factory=list)
    elliptical_docstrings: list[str] = field(default_factory=list)

    def __add__(self, other: "Measures") -> "Measures":
        total = Measures()
        for name in vars(total):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def per_10_000_tokens(self, count: int) -> float:
        return 1e4 * count / max(1, self.tokens)

    @property
    def tokens_per_line(self) -> float:
        return self.tokens / max(1, self.code_lines)

    @property
    def long_functions(self) -> list[tuple[int, str]]:
        return [entry for entry in self.functions if entry[0] > MAX_FUNCTION_LINES]

    def rows(self) -> list[tuple[str, str]]:
        """Each measure's name and its value as text."""
        nested = self.per_10_000_tokens(self.nested_comprehensions)
        return [
            ("files", f"{self.files:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("code lines", f"{self.code_lines:,}"),
            ("tokens a code line", f"{self.tokens_per_line:.2f}"),
            (f"lines over {MAX_COLUMNS} columns", f"{self.long_lines}"),
            ("comprehensions*", f"{self.per_10_000_tokens(self.comprehensions):.1f}"),
            ("nested comprehensions*", f"{nested:.1f}"),
            (
                "conditional expressions*",
                f"{self.per_10_000_tokens(self.conditional_expressions):.1f}",
            ),
            (f"functions over {MAX_FUNCTION_LINES} lines", f"{len(self.long_functions)}"),
            (f"functions of over {MAX_ARGUMENTS} arguments", f"{len(self.many_arguments)}"),
            ("elliptical docstrings", f"{len(self.elliptical_docstrings)}"),
        ]


def measure_file(path: Path, label: str) -> Measures:
    """Measure one Python file; `label` is how its places are called in the output."""
    text = path.read_text()
    tree = ast.parse(text)
    measures = Measures(files=1)
    measures.tokens, measures.code_lines = count_tokens(text)
    measures.long_lines = sum(len(line) > MAX_COLUMNS for line in text.splitlines())
    count_expressions(tree, measures)
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            add_function(node, label, measures)
        if isinstance(node, DOCUMENTED):
            docstring = ast.get_docstring(node) or ""
            if docstring.startswith(ELLIPTICAL_STARTS):
                line = getattr(node, "lineno", 1)
                measures.elliptical_docstrings.append(f"{label}:{line} {docstring.splitlines()[0]}")
    return measures


def count_tokens(text: str) -> tuple[int, int]:
    """Count the tokens of code, and the lines that hold at least one of them."""
    count = 0
    depth = 0  # of f-strings within f-strings
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in LAYOUT_TOKENS:
            continue
        if token.type == tokenize.STRING and token.string.startswith(('"""', "'''")):
            continue
        lines.update(range(token.start[0], token.end[0] + 1))
        if token.type == FSTRING_START:
            depth += 1
        elif depth == 0:
            count += 1
        elif token.type == FSTRING_END:
            depth -= 1
            count += depth == 0
    return count, len(lines)


def count_expressions(tree: ast.AST, measures: Measures) -> None:
    """Count comprehensions, nested ones and conditional expressions."""
    nested: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            measures.conditional_expressions += 1
        if isinstance(node, COMPREHENSIONS):
            measures.comprehensions += 1
            if len(node.generators) > 1:
                nested.add(id(node))
            for inner in ast.walk(node):
                if inner is not node and isinstance(inner, COMPREHENSIONS):
                    nested.add(id(inner))
    measures.nested_comprehensions += len(nested)


def add_function(
    function: ast.FunctionDef | ast.AsyncFunctionDef, label: str, measures: Measures
) -> None:
    """Note a function's length, and its place if it takes too many arguments."""
    where = f"{label}:{function.lineno} {function.name}"
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    measures.functions.append((length, where))
    arguments = function.args
    names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    names = [name for name in names if name.arg not in ("self", "cls")]
    count = len(names) + bool(arguments.vararg) + bool(arguments.kwarg)
    if count > MAX_ARGUMENTS:
        measures.many_arguments.append(f"{where} ({count})")


def python_files(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield the Python files under `root` that are named or lie in a named folder."""
    for name in names:
        path = root / name
        if path.is_file():
            yield path
        else:
            yield from sorted(path.rglob("*.py"))


def measure(root: Path, names: Sequence[str], show_files: bool = False) -> Measures:
    """Measure all Python files of `names` under `root` together."""
    total = Measures()
    for path in python_files(root, names):
        label = str(path.relative_to(root))
        measures = measure_file(path, label)
        if show_files:
            print(f"{label:48}{measures.tokens:8,}{measures.tokens_per_line:8.2f}")
        total = total + measures
    return total


def measure_revision(revision: str, names: Sequence[str]) -> Measures:
    """Measure the same folders as they were in another git revision.

    Raises:
        SystemExit: with git's own words, if there is no such revision.
    """
    command = ["git", "archive", "--format=tar", revision]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode != 0:
        sys.exit(f"--compare {revision}: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        return measure(Path(folder), names)


def print_places(measures: Measures) -> None:
    """Print where the longest functions are, and every place that is over a limit."""
    print(f"\nlongest functions ({len(measures.long_functions)} over {MAX_FUNCTION_LINES} lines)")
    by_length = sorted(measures.functions, reverse=True)
    shown = max(LONGEST_SHOWN, len(measures.long_functions))
    for length, where in by_length[:shown]:
        print(f"  {length:4} {where}")
    print_list(f"functions of over {MAX_ARGUMENTS} arguments", measures.many_arguments)
    print_list("elliptical docstrings", measures.elliptical_docstrings)


def print_list(title: str, places: Sequence[str]) -> None:
    if places:
        print(f"\n{title}")
    for place in places:
        print(f"  {place}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["mupl"], help="folders or files")
    parser.add_argument("--compare", metavar="REV", help="a git revision to show beside")
    parser.add_argument("--files", action="store_true", help="tokens, and tokens a line, by file")
    arguments = parser.parse_args()
    here = measure(Path.cwd(), arguments.names, arguments.files)
    if here.files == 0:
        parser.error(f"no Python files in {' '.join(arguments.names)}")
    rows = here.rows()
    if arguments.compare:
        other = measure_revision(arguments.compare, arguments.names)
        print(f"{'':36}{'here':>12}{arguments.compare[:12]:>14}")
        for (name, value), (_, before) in zip(rows, other.rows(), strict=True):
            print(f"{name:36}{value:>12}{before:>14}")
    else:
        for name, value in rows:
            print(f"{name:36}{value:>12}")
    print("* per 10,000 tokens")
    print_places(here)


if __name__ == "__main__":
    main()

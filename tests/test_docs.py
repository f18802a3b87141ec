"""What README.md and docs/*.md show: Python runs, commands are accepted, links lead somewhere.

A comment directly before a Python block or an indented block changes what is done with it:
`<!-- test: slow -->` has the Python of that page run by `make test-slow` only, and
`<!-- test: skip REASON -->` leaves the block out.
"""

import importlib
import json
import pkgutil
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from mupl.identity import write_result
from mupl.parametrization.tables import TABLES
from mupl.report.search import settings, write_setting
from tests.commands import FOREIGN, ROOT, row_of

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TRAIN = ("python train.py", "mupl train")
# Words that stand for any row or column of a table of experiments, and what the test puts there
STANDS_FOR = {"experiment=ROW": "experiment=lr_transfer_text", "size=COLUMN": "size=depth"}

MARK = r"(?:<!-- test: (?P<mark>\w+)\s*(?P<reason>.*?) -->\n)?"
PYTHON = re.compile(MARK + r"```python\n(?P<code>.*?)```", re.DOTALL)
INDENTED = re.compile(MARK + r"(?:(?<=\n)|^)(?P<code>(?:    .*\n)+)", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """Code on a page: its text, the line on which it begins, and the mark before it, if any."""

    code: str
    line: int
    mark: str | None
    reason: str


def blocks(page: str, pattern: re.Pattern[str]) -> list[Block]:
    """Find the blocks of a page that match, in order; a mark must be known and give a reason."""
    text = (ROOT / page).read_text()
    found = []
    for match in pattern.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        mark, reason = match["mark"], match["reason"] or ""
        assert mark in (None, "slow", "skip"), f"{page}:{line}: unknown mark {mark}"
        assert mark != "skip" or reason, f"{page}:{line}: skip needs a reason"
        found.append(Block(match["code"], line, mark, reason))
    return found


# --- Python


def with_python() -> list[object]:
    """A parameter for each page with Python; a page with a slow block is slow as a whole."""
    parameters = []
    for page in NAMES:
        found = blocks(page, PYTHON)
        marks = [pytest.mark.slow] if any(block.mark == "slow" for block in found) else []
        if found:
            parameters.append(pytest.param(page, id=page, marks=marks))
    return parameters


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # of data loaders and loggers
@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # of the Trainer of transformers
@pytest.mark.parametrize("page", with_python())
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what a page writes
    namespace = {"__name__": "__main__"}
    for block in blocks(page, PYTHON):
        if block.mark == "skip":
            continue
        padding = "\n" * (block.line - 1)  # so that a traceback has the line of the page
        exec(compile(padding + block.code, str(ROOT / page), "exec"), namespace)


# --- commands


def commands(page: str) -> list[str]:
    """The shell commands of a page, one a line, without the shorthands that the page has explained.

    A page's shorthands are `T="..."` in an indented block, written `$T` later on, and
    "`C` stands for `...`" in the text, with which inline code then begins.
    """
    text = (ROOT / page).read_text()
    found = []
    for block in blocks(page, INDENTED):
        if block.mark != "skip":
            found += block.code.replace("\\\n", " ").splitlines()
    without_python = PYTHON.sub("", text)
    inline = [" ".join(code.split()) for code in INLINE.findall(without_python)]
    short = dict(re.findall(r"`(\w)` stands for\s+`([^`]+)`", text))
    for code in inline:
        first, _, rest = code.partition(" ")
        found.append(f"{short[first]} {rest}" if first in short and rest else code)

    variables: dict[str, str] = {}
    written = []
    for line in map(str.strip, found):
        if match := re.fullmatch(r'(\w)="(.*)"', line):
            variables[f"${match[1]}"] = match[2]
            continue
        for variable, value in variables.items():
            line = line.replace(variable, value)
        for word, value in STANDS_FOR.items():
            line = line.replace(word, value)
        written.append(line)
    return written


def trainings() -> list[tuple[str, str]]:
    """Page and command, of all that train; a command in the text may be cut short by "...".

    A command that several pages show is tried for the first of them.
    """
    found = []
    seen: set[str] = set()
    for page in NAMES:
        for command in dict.fromkeys(commands(page)):
            if command in seen:
                continue
            seen.add(command)
            # a ladder writes the config that the last of these names; tests/test_road.py runs both
            cut = any(words in command for words in ("...", "--config-name recommendation"))
            if command.startswith(TRAIN) and not cut and " " in command:
                found.append((page, command))
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the folders of configs lie that commands name: a page's own, and a search's."""
    parent = tmp_path_factory.mktemp("repository")
    searched = pd.DataFrame({"lr": [0.3]})
    liked = pd.DataFrame({"key": ["lr"], "top_low": 0.1, "top_mean": 0.2, "top_high": 0.4})
    (parent / "SWEEP").mkdir()
    for name, values in settings(searched, liked).items():
        write_setting(parent / "SWEEP", name, values)
    shown = [block.code for block in blocks("docs/command_line.md", INDENTED)]
    (config,) = [code for code in shown if "_target_: " in code]
    mine = parent / "my_conf/model/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(re.sub("(?m)^    ", "", config))
    return parent


def single(overrides: list[str]) -> list[str]:
    """The overrides of the first job of a sweep."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    firsts = []
    for text, override in zip(overrides, parsed, strict=True):
        key = text.partition("=")[0]
        if override.is_interval_sweep():
            firsts.append(f"{key}={override.value().start}")
        elif override.is_sweep_override():
            firsts.append(f"{key}={next(iter(override.sweep_string_iterator()))}")
        else:
            firsts.append(text)
    return firsts


@pytest.mark.parametrize(("page", "command"), trainings())
def test_a_command_that_trains_composes(page: str, command: str, folders: Path) -> None:
    words = shlex.split(command, comments=True)[2:]
    overrides = []
    while words:
        word = words.pop(0)
        if word == "--config-dir":
            folder = folders / words.pop(0)
            assert folder.exists()
            overrides.append(f"hydra.searchpath=[file://{folder}]")
        elif not word.startswith("-"):
            overrides.append(word)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", single(overrides), return_hydra_config=True)
    if "-m" not in shlex.split(command):
        assert not config.hydra.sweeper.params, "an experiment that sweeps needs -m"


def of_mupl() -> list[object]:
    """A parameter for the page and the command of each of `mupl` that does not train.

    A command that several pages show is tried for the first of them, unless it is about a page's
    own model. A report or a figure that says no option that an earlier one did not say is slow.
    """
    found = []
    seen: set[str] = set()
    options: dict[str, set[str]] = {}
    for page in NAMES:
        for command in dict.fromkeys(commands(page)):
            is_new = command not in seen or "my_net" in command
            if is_new and re.match(r"mupl (?!train\b)\w", command):
                name = command.split()[1]
                said = {name, *re.findall(r" (--\w[\w-]*)", command)}
                repeats = name in ("report", "reproduce") and said <= options.get(name, set())
                marks = [pytest.mark.slow] if repeats else []
                found.append(pytest.param(page, command, marks=marks))
                options.setdefault(name, set()).update(said)
            seen.add(command)
    return found


def with_folder(word: str) -> str:
    """Say where a table lies that a command names; without a table of others, skip the test."""
    if not word.endswith(".csv"):
        return word
    for folder in (ROOT, FOREIGN):
        if (folder / word).exists():
            return str(folder / word)
    pytest.skip(f"{word}, which others measured, is not here")


def certify(run: Path, lr: float, changed: dict[str, dict[str, float]]) -> None:
    """Write the certificate of a run of a recommendation."""
    certificate = {"metric": "val_loss", "recommended": {"lr": 1.0}, "values": {"lr": lr}}
    certificate |= {"measured": 2.0 + lr, "predicted": None, "changed": changed}
    certificate |= {"regret": 0.1, "scatter": 0.01, "ladder": None}
    run.mkdir()
    (run / "certificate.json").write_text(json.dumps(certificate))


@pytest.mark.parametrize(("page", "command"), of_mupl())
def test_a_command_of_mupl_runs(
    page: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    code = blocks("README.md", PYTHON)[0].code
    of_page = [block.code for block in blocks(page, PYTHON) if block.code.startswith("def ")]
    (tmp_path / "my_net.py").write_text("\n\n".join([code.partition("\n\n\nsetup")[0], *of_page]))
    monkeypatch.chdir(tmp_path)  # where a user's module is found
    words = [with_folder(word) for word in shlex.split(command, comments=True)]
    if words[1] in ("status", "ls"):  # of a sweep's folder, which is here
        write_result(tmp_path / "sweep" / "a", row_of("a", parametrization="mup"))
        words[2:] = ["sweep"]
    if words[1] == "reproduce":
        words.append("--redraw")  # from the kept table: it would train for minutes
    if words[1] == "certificate":  # of runs of a recommendation, the first as it says
        for place, word in enumerate(words[2:]):
            changed = {"lr": {"value": 1.0 + place, "recommended": 1.0}} if place else {}
            certify(tmp_path / word, lr=1.0 + place, changed=changed)
    if words[1] == "export":  # of a ladder's or a run's folder
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("train", ["trainer=cpu"])
        (tmp_path / "run/.hydra").mkdir(parents=True)
        OmegaConf.save(config, tmp_path / "run/.hydra/config.yaml")
        words[2] = "run"
    if words[1] == "report" and "--figure-format" not in words:
        # what figures show is the matter of other tests
        monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: Path(file).touch())
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        done = pkgutil.resolve_name(scripts["mupl"])()
    except SystemExit as end:
        done = end.code
    finally:
        sys.modules.pop("my_net", None)
    assert done in (None, 0)


def test_other_commands_name_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for page in NAMES:
        for command in commands(page):
            where = f"{page}: {command}"
            for name in re.findall(r"^make ([a-z-]+)", command):
                assert name in targets, where
            for extras in re.findall(r'^pip install .*"[^"]*\[(.*)\]"', command):
                assert set(extras.split(",")) <= set(project["optional-dependencies"]), where
            for file in re.findall(r"(?:^|python |pytest )((?:\w+/)+\w+\.(?:py|yaml))", command):
                stands_for_another = file.startswith("my_") or "NAME" in file
                assert stands_for_another or (ROOT / file).exists(), where


# --- names, choices, links


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_to_files(page: str) -> None:
    text = PYTHON.sub("", (ROOT / page).read_text())
    for target in LINK.findall(text):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", NAMES)
def test_dotted_names_exist(page: str) -> None:
    """Every `mupl.x.y` in the text is a module, or an attribute of one."""
    text = PYTHON.sub("", (ROOT / page).read_text())
    for name in set(re.findall(r"`(mupl(?:\.\w+)+)", text)):
        pkgutil.resolve_name(name)


def test_the_page_of_tables_lists_parametrizations_that_are_there() -> None:
    text = (ROOT / "docs/rule_tables.md").read_text()
    table = text.partition("| `parametrization=` |")[2].partition("\n\n")[0]
    names = re.findall(r"(?m)^\| `(\w+)` \|", table)
    assert set(names) <= set(TABLES)  # a new one is an entry in TABLES, and no other line
    assert len(names) == len(set(names)) >= 14


def test_the_page_of_tables_shows_mup_as_it_is() -> None:
    (shown,) = [
        b.code for b in blocks("docs/rule_tables.md", INDENTED) if "orthogonal.lr" in b.code
    ]
    assert [row.split() for row in shown.strip().splitlines()] == [
        row.split()
        for row in TABLES["mup"].strip().splitlines()[1:]  # below its title
    ]


def test_the_command_line_page_lists_every_choice_of_a_group() -> None:
    text = (ROOT / "docs/command_line.md").read_text().replace("\\|", "|")
    listed: dict[str, set[str]] = {}
    for group, choices in re.findall(r"`(\w+)=(\w+(?:\|\w+)+)`", text):
        listed.setdefault(group, set()).update(choices.split("|"))
    for group in ("model", "data", "optimizer", "scheduler", "trainer", "callbacks", "logger"):
        there = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
        assert listed[group] == there, group
    assert listed["size"] == {file.stem for file in (ROOT / "conf/size").glob("*.yaml")}


def test_the_version_is_one() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in citation


def test_helpers_of_the_tests_are_imported_in_one_way() -> None:
    """`from loop import` beside `from tests.loop import` would be two modules."""
    helpers = "|".join(f.stem for f in (ROOT / "tests").glob("*.py") if "test_" not in f.name)
    for file in (ROOT / "tests").glob("*.py"):
        assert not re.search(rf"(?m)^(from|import) ({helpers})\b", file.read_text()), file
    assert importlib.import_module("tests.commands").ROOT == ROOT

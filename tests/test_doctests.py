"""The examples in docstrings run and give what they say: one test for each module that has some."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.commands import ROOT

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Packages that a module may need although a plain installation lacks them
OPTIONAL = ("pytorch_optimizer", "ray", "submitit", "wandb", "tensorboard", "joblib", "optuna")


def modules_with_examples() -> list[str]:
    """Dotted names of the modules of mupl whose text has a prompt."""
    found = []
    for file in sorted((ROOT / "mupl").rglob("*.py")):
        if "plugin" not in file.parts and ">>> " in file.read_text():
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # of data loaders and loggers
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # what an example writes
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        pytest.skip(f"{name} needs {error.name}")
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0, capsys.readouterr().out
    assert result.attempted > 0, f"{name}: a prompt that is in no docstring"

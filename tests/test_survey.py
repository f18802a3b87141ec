"""scripts/survey_models.py: models that nobody wrote for mupl meet its targets."""

from pathlib import Path
from typing import Any

import pytest

from scripts import survey_models
from scripts.survey_models import CASES, chosen, main, misses, survey

PAGE = Path(__file__).parents[1] / "docs/models_table.md"
FEW = ["LSTM, tied", "LoRA"]
KEPT = pytest.mark.filterwarnings("ignore:kept as the model made them")


@KEPT
@pytest.mark.parametrize("name", FEW)
def test_a_model_meets_the_targets(name: str) -> None:
    assert misses(survey(name, seeds=range(2))) == []


@KEPT
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_model_meets_the_targets(name: str) -> None:
    assert misses(survey(name, seeds=range(5))) == []


def test_each_target_can_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CASES["three readouts"]._replace(roles={"late.weight": "hidden"})
    monkeypatch.setitem(CASES, "wrong", wrong)
    monkeypatch.setattr(survey_models, "NOT_STOCK", ("umup", "umup_output_scale"))
    monkeypatch.setattr(survey_models.mupl.Setup, "fold", lambda setup: setup.build())
    row = survey("wrong", seeds=range(2))
    assert row["stock"] == row["tables"] - 1  # unit_init is the same up to rounding
    under_sp = ["their change grows under sp", "something fails under sp"]
    assert set(misses(row)) == set(survey_models.TARGETS) - set(under_sp)
    assert set(under_sp) <= set(misses(row | {"sp": row["mup"] - 1, "sp fail": 0}))


@pytest.mark.parametrize(("fold", "code"), [(0.0, 0), (0.5, 1)])
def test_the_exit_code_says_whether_a_target_is_missed(
    fold: float, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: dict[str, Any] = {"stock": 10, "tables": 10, "sp": 0.9, "sp fail": 7, "fold": fold}
    for key in ("mup", "mup low", "mup high", "sp low", "sp high"):
        numbers.setdefault(key, 0.0)
    counts = {"tensors": 6, "asked": 0, "mup pass": 64, "mup fail": 0, "mup not judged": 2}
    row = {"as_proposed": True, "blind": "", "warnings": [], **numbers, **counts}
    monkeypatch.setattr(survey_models, "survey", lambda name, seeds: {"model": name, **row})
    assert main(["shared layer", "--format", "markdown"]) == code
    out = capsys.readouterr().out
    assert "| shared layer | 6 | yes | +0.00 (+0.00 to +0.00) | +0.90 (" in out
    assert ("the folded model is the same" in out) == bool(code)
    assert main(["shared layer", "--format", "csv"]) == code


def test_names_are_globs(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(["GRU*", "LSTM"]) == ["LSTM", "GRU", "GRU, tied"]
    with pytest.raises(SystemExit) as end:
        main(["nothing"])
    assert end.value.code == 2
    assert "'nothing' matches none of torch TransformerEncoder" in capsys.readouterr().err


def test_the_page_has_every_model() -> None:
    text = PAGE.read_text()
    for name in CASES:
        assert f"\n| {name} |" in text, name

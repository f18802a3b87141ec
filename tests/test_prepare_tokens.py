"""Texts become token files: nothing is lost, and a killed run goes on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mupl.data import prepare_tokens, read_tokens, text_files
from mupl.data.modules import TextData
from mupl.data.prepare_tokens import Options, pieces, prepare
from mupl.errors import ConfigError
from mupl.identity import job_id
from tests.commands import IGNORED, ROOT, train_here

pytest.importorskip("tokenizers")
pytestmark = IGNORED

SMALL = Options(vocabulary=300, val_fraction=0.2)
LINE = "def größe(x):\n    return  x + 1  # π ½ it's\n\n"


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small texts are cut as long ones are."""
    monkeypatch.setattr(prepare_tokens, "PIECE", 100)
    monkeypatch.setattr(prepare_tokens, "SPAN", 1000)
    monkeypatch.setattr(text_files, "SPAN", 1000)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.py").write_text(80 * LINE)
    (folder / "inner" / "b.md").write_text("To be, or not to be.\n" * 90)
    (folder / "c.bin").write_bytes(b"\0\1\2")
    (folder / "d.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "e.txt").write_text("")
    (folder / ".hidden").write_text("secret")
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_tokens_of_a_folder_are_its_texts(texts: Path, tmp_path: Path) -> None:
    manifest = prepare([texts], tmp_path / "out", SMALL)
    tokens = read_tokens(tmp_path / "out", context=8)
    assert tokens.tokenizer is not None
    end = manifest["end_of_text"]
    joined = {}
    for split, values in (("train", tokens.train), ("val", tokens.val)):
        ids = values.tolist()
        assert len(ids) == manifest["tokens"][split]
        joined[split] = tokens.tokenizer.decode(ids)
        assert len(joined[split].encode()) == manifest["bytes"][split]
        assert ids.count(end) == 2 * (split == "train") or split == "val"
    for name in ("a.py", "inner/b.md"):
        text = (texts / name).read_text()
        cut = next(n for n in range(len(text), 0, -1) if text[:n] in joined["train"])
        assert text[cut:] in joined["val"]
        assert 0.75 < cut / len(text) < 0.85
    assert manifest["skipped"] == {"binary": 1, "not UTF-8": 1, "empty": 1}
    assert manifest["sources"]["files"] == 2
    assert tokens.model_args == {"vocabulary": manifest["vocabulary"], "context": 8}


def test_cutting_a_text_changes_no_token(texts: Path, tmp_path: Path) -> None:
    prepare([texts], tmp_path / "out", SMALL)
    tokenizer = read_tokens(tmp_path / "out", context=8).tokenizer
    assert tokenizer is not None
    text = (texts / "a.py").read_text()
    parts = list(pieces(text))
    assert len(parts) > 10
    ids: list[int] = []
    for part in parts:
        ids += tokenizer.encode(part)
    assert ids == tokenizer.encode(text)


def test_a_killed_preparation_goes_on(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare([texts], tmp_path / "whole", SMALL)
    left = 3

    def killing(file: Path, content: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        original(file, content)

    original = prepare_tokens.write_atomically
    out = tmp_path / "killed"
    for left in (3, 2, 1):  # noqa: B007 (of `killing`)
        monkeypatch.setattr(prepare_tokens, "write_atomically", killing)
        with pytest.raises(KeyboardInterrupt):
            prepare([texts], out, SMALL)
        with pytest.raises(ConfigError, match="preparation of its tokens has not ended"):
            read_tokens(out)
        monkeypatch.undo()
        monkeypatch.setattr(prepare_tokens, "PIECE", 100)
        monkeypatch.setattr(prepare_tokens, "SPAN", 1000)
        monkeypatch.setattr(text_files, "SPAN", 1000)
    with pytest.raises(ConfigError, match="of other texts or options has not ended there"):
        prepare([texts], out, Options(vocabulary=301))
    prepare([texts], out, SMALL)
    assert written(out) == written(tmp_path / "whole")
    before = written(out)
    prepare([texts], out, SMALL)  # is done
    assert written(out) == before
    with pytest.raises(ConfigError, match="holds tokens of other texts or options"):
        prepare([texts], out, Options(vocabulary=301))


def test_of_many_files_whole_ones_validate(tmp_path: Path) -> None:
    for i in range(120):
        (tmp_path / f"{i}.txt").write_text(f"{i} " * 50)
    found = text_files.spans(text_files.text_files([tmp_path], ["txt"]), 0.1)
    assert all(span.ends for span in found)
    sizes = {split: sum(s.stop - s.start for s in found if s.split == split) for split in
             ("train", "val")}  # fmt: skip
    assert 0.1 <= sizes["val"] / sum(sizes.values()) < 0.12


def test_the_id_of_a_job_follows_from_the_tokens_and_not_from_where_they_lie(
    texts: Path, tmp_path: Path
) -> None:
    prepare([texts], tmp_path / "a", SMALL)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    prepare([texts / "a.py"], tmp_path / "c", SMALL)
    ids = []
    for name in "abc":
        data = {"_target_": "mupl.data.read_tokens", "root": str(tmp_path / name)}
        ids.append(job_id(OmegaConf.create({"data": data, "trainer": {}})))
    assert ids[0] == ids[1] != ids[2]


def test_a_gpt_trains_on_prepared_tokens(
    texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "scripts/prepare_tokens.py", str(texts), "--vocabulary", "280"]
    command += ["--suffixes", "py", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokens of 1 files, vocabulary 280: data=tokens data.root=" in done.stdout
    run = [f"data.root={tmp_path / 'out'}", "data.context=8", f"hydra.run.dir={tmp_path / 'run'}"]
    small = ["width=8", "base_width=8", "model.d_head=4", "depth=1", "max_steps=2", "trainer=cpu"]
    done = train_here(capfd, "model=gpt", "data=tokens", *run, *small)
    assert done.returncode == 0, done.stderr
    assert "280x8" in done.stdout or "(280, 8)" in done.stdout
    row = json.loads((tmp_path / "run" / "result.json").read_text())
    assert row["provenance"]["data"] == {}


def test_crops_are_read_from_files_that_stay_on_disk(texts: Path, tmp_path: Path) -> None:
    prepare([texts], tmp_path / "out", SMALL)
    tokens = read_tokens(tmp_path / "out", context=8)
    assert isinstance(tokens.train, np.memmap)
    x, y = next(iter(TextData(tokens, batch_size=4).train_dataloader()))
    assert torch.equal(x[:, 1:], y[:, :-1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere.txt"], "nowhere.txt: there is no such file or folder"),
        (["TMP", "--suffixes", "rs"], "there are no files of the suffixes .rs in"),
        (["TMP/c.bin"], "none of 1 files is text in UTF-8"),
        (["TMP", "--vocabulary", "70000"], "--vocabulary 70000: must be from 257"),
        (["TMP", "--val-fraction", "0"], "--val-fraction 0.0: must be between 0 and 1"),
        (["TMP", "--sample-mb", "0"], "--sample-mb 0.0: must be above 0"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], text: str, texts: Path, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from scripts.prepare_tokens import main

    given = [argument.replace("TMP", str(texts)) for argument in arguments]
    argv = ["prepare_tokens.py", *given, "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        main()
    assert str(end.value).startswith(f"error: {text}")

"""Text as tokens: where they come from, and that crops are a function of seed and step alone."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mupl.data import Tokens, TrainLoader, random_tokens, read_text, read_tokens
from mupl.data.batches import CropBatches, crop_starts
from mupl.data.modules import TextData, data_module
from mupl.errors import ConfigError
from tests.commands import IGNORED, train_here
from tests.resuming import Recorder, whole_and_resumed


def counting(train: int = 500, val: int = 120, context: int = 8) -> Tokens:
    """Tokens that are their own position."""
    return Tokens(
        torch.arange(train, dtype=torch.int32), torch.arange(val, dtype=torch.int32), train, context
    )


def test_the_standard_library_is_split_by_file() -> None:
    tokens = read_text()
    total = len(tokens.train) + len(tokens.val)
    assert 8e6 < total < 20e6
    assert 0.05 < len(tokens.val) / total < 0.2
    assert tokens.model_args == {"vocabulary": 256, "context": 64}
    source = (Path(os.__file__).parent / "this.py").read_bytes()
    train, val = (bytes(t.numpy()) for t in (tokens.train, tokens.val))
    assert (source in train) != (source in val)
    assert torch.equal(read_text().train, tokens.train)


def test_random_tokens_are_uniform_and_always_the_same() -> None:
    tokens = random_tokens(vocabulary=16, context=8)
    assert tokens.model_args == {"vocabulary": 16, "context": 8}
    share = torch.bincount(torch.as_tensor(tokens.train)) / len(tokens.train)
    assert (share - 1 / 16).abs().max() < 0.005
    assert torch.equal(tokens.val, random_tokens(16, 32).val)


@pytest.mark.parametrize("level", ["byte", "character"])
def test_a_file_gives_its_bytes_or_characters(level: str, tmp_path: Path) -> None:
    text = "Größe: ½ π … " * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokens = read_text(tmp_path / "a.txt", level, context=4, val_fraction=0.33)
    joined = torch.cat([tokens.train, tokens.val]).tolist()
    if level == "byte":
        assert (bytes(joined).decode(), tokens.vocabulary) == (text, 256)
    else:
        characters = sorted(set(text))
        assert "".join(characters[i] for i in joined) == text
        assert tokens.vocabulary == len(characters)
    assert 0.3 < len(tokens.val) / len(joined) < 0.36


def test_tiny_shakespeare_has_65_characters(real_text: Path) -> None:
    tokens = read_text(real_text, "character")
    assert tokens.vocabulary == 65
    assert len(tokens.train) + len(tokens.val) == 1_115_394


def test_token_files_are_those_of_nanogpt_and_stay_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    written = rng.integers(0, 50257, 400, dtype=np.uint16)
    written[:300].tofile(tmp_path / "train.bin")
    written[300:].tofile(tmp_path / "val.bin")
    tokens = read_tokens(tmp_path, vocabulary=50304, context=16)
    assert isinstance(tokens.train, np.memmap)
    x, y = next(iter(TextData(tokens, batch_size=5, seed=1).train_dataloader()))
    assert (x.dtype, x.shape) == (torch.int64, (5, 16))
    for i, start in enumerate(crop_starts(300 - 17, 5, seed=1, step=0).tolist()):
        assert x[i].tolist() == written[start : start + 16].tolist()
        assert y[i].tolist() == written[start + 1 : start + 17].tolist()


def test_mapped_tokens_and_tokens_on_the_device_give_the_same_batches() -> None:
    held = torch.arange(500, dtype=torch.int32)
    cpu = torch.device("cpu")
    loaders = [TrainLoader(CropBatches(t, 8, 4, [2], cpu)) for t in (held, held.numpy())]
    for (x, y), (other_x, other_y) in zip(*loaders, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_targets_are_the_tokens_that_follow() -> None:
    tokens = torch.arange(500, dtype=torch.int32)
    for x, y in TrainLoader(CropBatches(tokens, 8, 4, [2], torch.device("cpu"))):
        assert torch.equal(y, x + 1)


def test_crops_are_a_function_of_seed_and_step() -> None:
    torch.manual_seed(0)
    first = [crop_starts(1000, 4, seed, step).tolist() for seed in (0, 1) for step in range(3)]
    torch.manual_seed(1)
    assert [
        crop_starts(1000, 4, seed, step).tolist() for seed in (0, 1) for step in range(3)
    ] == first
    assert len({tuple(starts) for starts in first}) == 6
    every = crop_starts(3, 1000, 0, 0)
    assert sorted(set(every.tolist())) == [0, 1, 2, 3]  # the last crop too


def test_an_epoch_has_as_many_tokens_as_there_are_and_the_next_goes_on() -> None:
    loader = TextData(counting(), batch_size=4, seed=3).train_dataloader()
    assert len(loader) == 500 // 32
    seen = [x[:, 0].tolist() for _ in range(2) for x, y in loader if torch.equal(y, x + 1)]
    assert seen == [crop_starts(491, 4, 3, step).tolist() for step in range(2 * len(loader))]


def test_validation_is_the_same_crops_from_end_to_end() -> None:
    loader = TextData(counting(), batch_size=4, val_crops=10).val_dataloader()
    starts = torch.cat([x[:, 0] for x, _ in loader]).tolist()
    assert (starts[0], starts[-1], len(starts)) == (0, 111, 10)
    assert torch.cat([x[:, 0] for x, _ in loader]).tolist() == starts


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("steps", [3, 15, 20])
def test_a_resumed_run_sees_the_crops_left(steps: int, tmp_path: Path) -> None:
    data = partial(data_module, counting(), batch_size=4, seed=4)
    module = partial(Recorder, lambda x: x[:, 0].tolist())
    whole, rest = whole_and_resumed(module, data, tmp_path, steps, max_steps=25, max_epochs=-1)
    assert whole.seen == [crop_starts(491, 4, 4, step).tolist() for step in range(25)]
    assert rest.seen == whole.seen[steps:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "/nowhere.txt"}, "data.file=/nowhere.txt: must be a text file in UTF-8"),
        ({"level": "word"}, "data.level=word: must be one of byte, character"),
        ({"val_fraction": 1.0}, "data.val_fraction=1.0: must be between"),
        (
            {"file": __file__, "context": 10**6},
            "data.context=1000000: must be at least 1 and below",
        ),
        ({"file": __file__, "context": 0}, "data.context=0: must be"),
    ],
)
def test_bad_text_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_text(**options)


def test_bytes_that_are_no_text_are_refused_as_characters(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe" * 50)
    with pytest.raises(ConfigError, match="must be a text file in UTF-8"):
        read_text(tmp_path / "a", "character", context=4)


def test_bad_token_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold train.bin and val.bin"):
        read_tokens(tmp_path, 10)
    for name in ("train.bin", "val.bin"):
        np.arange(100, dtype=np.uint16).tofile(tmp_path / name)
    with pytest.raises(
        ConfigError, match=r"data.vocabulary=50: must be above 99, a token in train.bin"
    ):
        read_tokens(tmp_path, 50, context=8)


@pytest.mark.parametrize("key", ["batch_size", "val_crops"])
def test_bad_sizes_are_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=0: must be at least 1"):
        TextData(counting(), **({"batch_size": 4} | {key: 0}))


@IGNORED[0]
@IGNORED[1]
def test_a_gpt_trains_on_text_through_the_command_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(
        capfd,
        "model=gpt",
        "data=text",
        "parametrization=completep",
        "width=32",
        "base_width=32",
        "depth=2",
        "base_depth=1",
        "max_steps=5",
        "batch_size=4",
        "trainer=cpu",
        f"hydra.run.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "parametrization.csv").read_text()
    assert "blocks.1.mlp_residual,residual,,adam,0.5," in table

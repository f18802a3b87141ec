"""Tokens to predict one by one, and texts as such."""

import functools
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mupl.data.batches import (
    Batch,
    CropBatches,
    EvalLoader,
    TokenArray,
    on_device,
    read_crops,
)
from mupl.errors import ConfigError

CPU = torch.device("cpu")
LEVELS = ("byte", "character")
VAL_CROPS = 256
NO_SOURCES = {"site-packages", "dist-packages", "test", "tests"}  # left out of the standard library


class Tokenizer(Protocol):
    """What makes text into tokens, and tokens into text."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...


class ByteTokenizer:
    """The bytes of a text in UTF-8.

    >>> ByteTokenizer().decode(ByteTokenizer().encode("½"))
    '½'
    """

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class CharacterTokenizer:
    """The places of characters among those that there are; others are left out.

    >>> tokenizer = CharacterTokenizer("abc")
    >>> tokenizer.encode("cab!"), tokenizer.decode([2, 0])
    ([2, 0, 1], 'ca')
    """

    def __init__(self, characters: str) -> None:
        self._characters = characters

    def encode(self, text: str) -> list[int]:
        places = map(self._characters.find, text)
        return [place for place in places if place >= 0]

    def decode(self, tokens: list[int]) -> str:
        return "".join(self._characters[token] for token in tokens)


@dataclass(frozen=True, eq=False)
class Tokens:
    """Train and validation tokens, each one long sequence (N,); `context` is the length of a crop.

    `tokenizer` makes them of text, and text of them; None for tokens that are no text.

    Raises:
        ConfigError: if a sequence has no more tokens than a crop.

    Example:
        >>> import torch
        >>> tokens = Tokens(torch.arange(100), torch.arange(20), vocabulary=100, context=8)
        >>> batches = tokens.train_batches(batch_size=4, seeds=[0])
        >>> batches.set_step(0)
        >>> x, y = batches()
        >>> x.shape, bool((y == x + 1).all())
        (torch.Size([1, 4, 8]), True)
    """

    train: TokenArray
    val: TokenArray
    vocabulary: int
    context: int
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        shortest = min(len(self.train), len(self.val))
        if not 1 <= self.context < shortest:
            raise ConfigError(
                f"data.context={self.context}: must be at least 1 and below {shortest}, the number "
                "of tokens in the shorter of the two splits"
            )

    def train_batches(
        self,
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device = CPU,
        parts: int = 1,
    ) -> CropBatches:
        """Random crops for each of the seeds, cut into parts."""
        return CropBatches(self.train, self.context, batch_size, seeds, device, parts)

    def val_batches(
        self,
        batch_size: int,
        device: torch.device = CPU,
        crops: int = VAL_CROPS,
    ) -> EvalLoader:
        """Crops at equal distances, the same each time."""
        tokens = on_device(self.val, device)
        last = len(tokens) - self.context - 1
        starts = torch.arange(crops) * last // max(crops - 1, 1)

        def read(starts: Tensor) -> Batch:
            crops = read_crops(tokens, starts, self.context + 1)
            crops = crops.to(device)
            return crops[:, :-1], crops[:, 1:]

        return EvalLoader(starts, batch_size, read)

    @property
    def model_args(self) -> dict[str, int]:
        """The arguments that the data offer to a model, whose constructor gets those it takes."""
        return {"vocabulary": self.vocabulary, "context": self.context}


def read_text(
    file: str | Path | None = None,
    level: str = "byte",
    context: int = 64,
    val_fraction: float = 0.1,
) -> Tokens:
    """A text file, its last `val_fraction` to validate.

    Args:
        file: None is Python's own standard library, see `stdlib_text`.
        level: "byte" (256 tokens) or "character" (as many as there are in the text, in UTF-8).

    Raises:
        ConfigError: if there is no such file, it is not UTF-8, or a value is out of range.
    """
    if level not in LEVELS:
        raise ConfigError(f"data.level={level}: must be one of {', '.join(LEVELS)}")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
    path = None if file is None else Path(file).expanduser().resolve()
    train, val, characters = _read_text(path, level, val_fraction)
    if characters is None:
        return Tokens(train, val, 256, context, ByteTokenizer())
    return Tokens(train, val, len(characters), context, CharacterTokenizer(characters))


@functools.cache  # the jobs of a sweep that run in one process share the text
def _read_text(
    file: Path | None, level: str, val_fraction: float
) -> tuple[Tensor, Tensor, str | None]:
    """Return both splits and, at the level of characters, those that there are."""
    try:
        if file is None:
            train, val = stdlib_text(val_fraction)
        else:
            train, val = _cut(file.read_bytes(), val_fraction)
        if level == "byte":
            return _bytes(train), _bytes(val), None
        return _characters(train, val)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.file={file}: must be a text file in UTF-8, not empty ({error})"
        ) from error


def _bytes(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _characters(train: bytes, val: bytes) -> tuple[Tensor, Tensor, str]:
    """Both texts with the number of each character among all, sorted, and these."""
    train_codes = _code_points(train)
    val_codes = _code_points(val)
    codes = np.concatenate([train_codes, val_codes])
    characters, ids = np.unique(codes, return_inverse=True)
    tokens = torch.from_numpy(ids.astype(np.int32))
    count = len(train_codes)
    return tokens[:count], tokens[count:], "".join(map(chr, characters))


def _code_points(text: bytes) -> np.ndarray:
    return np.frombuffer(text.decode().encode("utf-32-le"), np.uint32)


def _cut(text: bytes, val_fraction: float) -> tuple[bytes, bytes]:
    """Cut a text in two, but not amid a character of UTF-8."""
    place = round(len(text) * (1 - val_fraction))
    while 0 < place < len(text) and text[place] & 0xC0 == 0x80:
        place -= 1
    return text[:place], text[place:]


def stdlib_text(val_fraction: float) -> tuple[bytes, bytes]:
    """The sources of the standard library of the Python that runs, to train and to validate on.

    Without its tests and installed packages. A file is in the validation split if the CRC-32 of its
    path says so, whatever the other files are.
    """
    root = Path(sysconfig.get_path("stdlib"))
    train: list[bytes] = []
    val: list[bytes] = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        if NO_SOURCES & set(path.parts):
            continue
        validates = zlib.crc32(path.as_posix().encode()) < val_fraction * 2**32
        split = val if validates else train
        split.append(file.read_bytes())
    return b"\n".join(train), b"\n".join(val)


@functools.cache
def random_tokens(vocabulary: int = 256, context: int = 64, count: int = 2**17) -> Tokens:
    """`count` independent uniform tokens, half of them to validate.

    There is nothing to learn from them, but they are what unit scaling assumes.
    """
    if vocabulary < 2:
        raise ConfigError(f"data.vocabulary={vocabulary}: must be a whole number >= 2")
    generator = torch.Generator().manual_seed(0)
    train, val = torch.randint(vocabulary, (2, count // 2), generator=generator)
    return Tokens(train, val, vocabulary, context)

"""Tokens to predict one by one, from text or token files, and random crops of them on the device."""

import functools
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mupl.data.loader import seeded
from mupl.errors import ConfigError

TokenArray = (
    Tensor | np.ndarray
)  # (N,) of any integer type; an array may be mapped from a file and stays on the host
LEVELS = ("byte", "character")
VAL_CROPS = 256


@dataclass(frozen=True, eq=False)
class Tokens:
    """Train and validation tokens, each one long sequence; `context` is the length of a crop."""

    train: TokenArray
    val: TokenArray
    vocabulary: int
    context: int

    def __post_init__(self) -> None:
        shortest = min(len(self.train), len(self.val))
        if not 1 <= self.context < shortest:
            raise ConfigError(
                f"data.context={self.context}: must be at least 1 and below the {shortest} tokens there are"
            )

    def train_batches(self, batch_size: int, seed: int, device: torch.device) -> "CropLoader":
        """Random crops by `seed`."""
        return CropLoader(self.train, self.context, batch_size, device, seed)

    def val_batches(
        self, batch_size: int, device: torch.device, crops: int = VAL_CROPS
    ) -> "CropLoader":
        """The same crops each time."""
        return CropLoader(self.val, self.context, batch_size, device, None, crops)

    @property
    def model_args(self) -> dict[str, int]:
        """What a model's constructor is told about the data."""
        return {"vocabulary": self.vocabulary, "context": self.context}


def read_text(
    file: str | Path | None = None,
    level: str = "byte",
    context: int = 64,
    val_fraction: float = 0.1,
) -> Tokens:
    """A text file, its last `val_fraction` to validate; without one, Python's own standard library (`stdlib_text`).

    level: "byte" (256 tokens) or "character" (as many as there are in the text, which is UTF-8).

    Raises ConfigError if there is no such file, it is not UTF-8, or a value is out of range.
    """
    if level not in LEVELS:
        raise ConfigError(f"data.level={level}: must be one of {', '.join(LEVELS)}")
    if not 0 < val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction}: must be between 0 and 1")
    train, val, vocabulary = _read_text(
        None if file is None else Path(file).expanduser().resolve(), level, val_fraction
    )
    return Tokens(train, val, vocabulary, context)


@functools.cache  # the jobs of a sweep that run in one process share the text
def _read_text(file: Path | None, level: str, val_fraction: float) -> tuple[Tensor, Tensor, int]:
    try:
        splits = (
            stdlib_text(val_fraction) if file is None else _cut(file.read_bytes(), val_fraction)
        )
        if level == "byte":
            train, val = (torch.frombuffer(bytearray(split), dtype=torch.uint8) for split in splits)
            return train, val, 256
        codes = [np.frombuffer(split.decode().encode("utf-32-le"), np.uint32) for split in splits]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.file={file}: must be a text file in UTF-8, not empty ({error})"
        ) from error
    characters, ids = np.unique(np.concatenate(codes), return_inverse=True)
    train, val = torch.from_numpy(ids.astype(np.int32)).split([len(codes[0]), len(codes[1])])
    return train, val, len(characters)


def _cut(text: bytes, val_fraction: float) -> tuple[bytes, bytes]:
    """In two, not amid a character of UTF-8."""
    place = round(len(text) * (1 - val_fraction))
    while 0 < place < len(text) and text[place] & 0xC0 == 0x80:
        place -= 1
    return text[:place], text[place:]


def stdlib_text(val_fraction: float) -> tuple[bytes, bytes]:
    """The sources of the standard library of the Python that runs, without its tests and installed packages.

    Split by file, whatever the others are: one is in the validation split if the CRC-32 of its path says so.
    """
    root = Path(sysconfig.get_path("stdlib"))
    splits: tuple[list[bytes], list[bytes]] = ([], [])
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        if not {"site-packages", "dist-packages", "test", "tests"} & set(path.parts):
            content = file.read_bytes()
            splits[zlib.crc32(path.as_posix().encode()) < val_fraction * 2**32].append(content)
    return b"\n".join(splits[0]), b"\n".join(splits[1])


def read_tokens(root: str | Path, vocabulary: int, context: int = 1024) -> Tokens:
    """Token files `root/train.bin` and `root/val.bin`: little-endian uint16 without a header, as nanoGPT writes them.

    They are mapped, not read. vocabulary: all tokens must be below it.

    Raises ConfigError if a file is not there or begins with a token outside the vocabulary.
    """
    splits = {}
    for name in ("train", "val"):
        file = Path(root).expanduser() / f"{name}.bin"
        if not file.is_file() or file.stat().st_size == 0:
            raise ConfigError(f"data.root={root}: must hold train.bin and val.bin, not empty")
        tokens = np.memmap(file, np.dtype("<u2"), mode="r")
        if (largest := int(tokens[: 2**20].max())) >= vocabulary:
            raise ConfigError(
                f"data.vocabulary={vocabulary}: must be above {largest}, a token in {file.name}"
            )
        splits[name] = tokens
    return Tokens(splits["train"], splits["val"], vocabulary, context)


@functools.cache
def random_tokens(vocabulary: int = 256, context: int = 64, count: int = 2**17) -> Tokens:
    """`count` independent uniform tokens, half of them to validate: nothing to learn, but what unit scaling assumes."""
    train, val = torch.randint(
        vocabulary, (2, count // 2), generator=torch.Generator().manual_seed(0)
    )
    return Tokens(train, val, vocabulary, context)


def crop_starts(last: int, count: int, seed: int, step: int) -> Tensor:
    """Where the crops of a step begin, (count,) int64 in 0..last: a function of (seed, step)."""
    return torch.randint(last + 1, (count,), generator=seeded(seed, step))


class CropLoader:
    """Iterates over batches (x, y) of crops, (B, T) int64 each on `device`; y is x one token later.

    With a seed: B random crops a step, and as many steps an epoch as make the number of tokens; steps count on over
    epochs. With seed None: `crops` at equal distances.
    """

    def __init__(
        self,
        tokens: TokenArray,
        context: int,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        crops: int = 0,
    ) -> None:
        self.tokens = tokens.to(device) if isinstance(tokens, Tensor) else tokens
        self.context, self.batch_size, self.device, self.seed = context, batch_size, device, seed
        self._last = len(tokens) - context - 1
        self._fixed = (
            (torch.arange(crops) * self._last // max(crops - 1, 1)).split(batch_size)
            if seed is None
            else ()
        )
        self._step = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._fixed) or max(1, len(self.tokens) // (self.batch_size * self.context))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.seed is None:
            yield from map(_shifted, map(self._crops, self._fixed))
            return
        for _ in range(len(self) - self._step % len(self)):
            self._step += 1
            yield _shifted(self.crops_of(self._step - 1))

    def crops_of(self, step: int) -> Tensor:
        """The random crops of a step, (B, T + 1)."""
        assert self.seed is not None
        return self._crops(crop_starts(self._last, self.batch_size, self.seed, step))

    def _crops(self, starts: Tensor) -> Tensor:
        places = starts[:, None] + torch.arange(self.context + 1)
        if isinstance(self.tokens, Tensor):
            return self.tokens[places.to(self.device)].long()
        return torch.from_numpy(self.tokens[places.numpy()].astype(np.int64)).to(self.device)

    def state_dict(self) -> dict[str, int]:
        """The number of steps given: Lightning saves it, so that a resumed run goes on from there."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._step = state["step"]


def _shifted(crops: Tensor) -> tuple[Tensor, Tensor]:
    return crops[:, :-1], crops[:, 1:]

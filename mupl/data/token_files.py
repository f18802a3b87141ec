"""Tokens in files that are mapped into memory, and the manifest that says what they are."""

from pathlib import Path
from typing import Any

import numpy as np

from mupl.data.text import Tokens
from mupl.errors import ConfigError
from mupl.files import MANIFEST_FILE, read_manifest

TRAIN_FILE = "train.bin"
VAL_FILE = "val.bin"
TOKENIZER_FILE = "tokenizer.json"
PROGRESS_FILE = "progress.json"  # of a preparation that has not ended
DTYPE = np.dtype("<u2")  # of both files
CHECKED_TOKENS = 2**20  # of a file without a manifest, whose rest is not read before training
GPT2_VOCABULARY = 50304  # 50257 rounded up to a multiple of 64, as nanoGPT does


class FileTokenizer:
    """A tokenizer of the package tokenizers, read from its file when it is first asked.

    Args:
        file: what `tokenizers.Tokenizer.save` wrote.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tokenizer: Any = None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._loaded().encode(text).ids

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._loaded().decode(tokens)

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = tokenizers_package().Tokenizer.from_file(str(self._file))
        return self._tokenizer


def tokenizers_package() -> Any:
    """Import the package tokenizers.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "tokenizers: the package is not installed; pip install 'mupl[tokens]'"
        ) from error
    return tokenizers


def read_tokens(root: str | Path, vocabulary: int | None = None, context: int = 1024) -> Tokens:
    """Token files `root/train.bin` and `root/val.bin`, mapped into memory.

    They are little-endian uint16 without a header, as `scripts/prepare_tokens.py` and nanoGPT write
    them. Crops are read when they are needed, and the files are never loaded.

    Args:
        vocabulary: all tokens are below it. None is what the manifest says, and 50304 where there
            is none. With a manifest it may be larger, such as a multiple of 64.

    Raises:
        ConfigError: if a file is not there, is not as long as the manifest says, or begins with a
            token outside the vocabulary.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in (TRAIN_FILE, VAL_FILE):
        ...     np.arange(100, dtype=DTYPE).tofile(folder / name)
        >>> read_tokens(folder, vocabulary=100, context=8).train[:3].tolist()
        [0, 1, 2]
    """
    folder = Path(root).expanduser()
    manifest = read_manifest(folder)
    if manifest is None and (folder / PROGRESS_FILE).exists():
        raise ConfigError(
            f"data.root={folder}: the preparation of its tokens has not ended; give the same "
            "command of scripts/prepare_tokens.py again"
        )
    if manifest is None:
        vocabulary = GPT2_VOCABULARY if vocabulary is None else vocabulary
        train = _mapped(folder, TRAIN_FILE)
        val = _mapped(folder, VAL_FILE)
        for name, tokens in ((TRAIN_FILE, train), (VAL_FILE, val)):
            _check_below(vocabulary, name, tokens)
        return Tokens(train, val, vocabulary, context)
    known = manifest["vocabulary"]
    if vocabulary is not None and vocabulary < known:
        raise ConfigError(
            f"data.vocabulary={vocabulary}: must be null or at least {known}, which "
            f"{folder / MANIFEST_FILE} says"
        )
    train = _mapped(folder, TRAIN_FILE, manifest["tokens"]["train"])
    val = _mapped(folder, VAL_FILE, manifest["tokens"]["val"])
    tokenizer = FileTokenizer(folder / manifest["tokenizer"])
    return Tokens(train, val, vocabulary or known, context, tokenizer)


def _mapped(folder: Path, name: str, count: int | None = None) -> np.ndarray:
    """Map a file of tokens.

    Args:
        count: how many tokens it must hold; None: any number but 0.
    """
    file = folder / name
    if not file.is_file() or file.stat().st_size == 0:
        raise ConfigError(
            f"data.root={folder}: must hold {TRAIN_FILE} and {VAL_FILE}, not empty; "
            f"python scripts/prepare_tokens.py TEXTS --out {folder} makes them"
        )
    tokens = np.memmap(file, DTYPE, mode="r")
    if count is not None and len(tokens) != count:
        raise ConfigError(
            f"data.root={folder}: {name} holds {len(tokens)} tokens, but {MANIFEST_FILE} says "
            f"{count}; copy the folder again, or prepare it anew"
        )
    return tokens


def _check_below(vocabulary: int, name: str, tokens: np.ndarray) -> None:
    largest = int(tokens[:CHECKED_TOKENS].max())
    if largest >= vocabulary:
        raise ConfigError(
            f"data.vocabulary={vocabulary}: must be above {largest}, a token in {name}"
        )

"""Files of text -> a byte-level BPE, files of tokens, and a manifest that says what they are.

A preparation that was killed goes on: each span of text is written and then counted, and what was
written but not counted is cut off. The manifest comes last: a folder that has one is whole.
"""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn, track

from mupl.data.text_files import CUT, SPAN, Span, spans, text_files, why_no_text
from mupl.data.token_files import (
    DTYPE,
    PROGRESS_FILE,
    TOKENIZER_FILE,
    TRAIN_FILE,
    VAL_FILE,
    tokenizers_package,
)
from mupl.errors import ConfigError
from mupl.files import MANIFEST_FILE, read_manifest, write_atomically

END = "<|endoftext|>"  # after each file
FILES = {"train": TRAIN_FILE, "val": VAL_FILE}
PIECE = 2**16  # bytes that one thread tokenizes at a time
MAX_VOCABULARY = 2**16  # of uint16
MIN_VOCABULARY = 257  # all bytes and END

Manifest = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How texts are made into tokens.

    Raises:
        ConfigError: naming the value that is out of range.
    """

    vocabulary: int = 32768  # different tokens, at most: a short text gives fewer
    suffixes: tuple[str, ...] = ()  # of files in folders; none: all
    val_fraction: float = 0.05  # share of the bytes that validate
    sample_mb: float = 100.0  # of text that the vocabulary is learnt from, evenly spread

    def __post_init__(self) -> None:
        if not MIN_VOCABULARY <= self.vocabulary <= MAX_VOCABULARY:
            raise ConfigError(
                f"--vocabulary {self.vocabulary}: must be from {MIN_VOCABULARY} (every byte, and "
                f"the end of a text) to {MAX_VOCABULARY} (what uint16 holds)"
            )
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"--val-fraction {self.val_fraction}: must be between 0 and 1")
        if not self.sample_mb > 0:
            raise ConfigError(f"--sample-mb {self.sample_mb}: must be above 0")


def prepare(sources: Iterable[str | Path], out: Path, options: Options) -> Manifest:
    """Train a byte-level BPE on texts, write their tokens into a folder, and return its manifest.

    A folder that a killed preparation of the same texts left is gone on with, and one that is whole
    is left as it is.

    Args:
        sources: files and folders.

    Raises:
        ConfigError: if there is no text, or the folder holds tokens of other texts or options.
    """
    tokenizers_package()
    out.mkdir(parents=True, exist_ok=True)
    files, skipped = _readable(text_files(sources, options.suffixes))
    todo = spans(files, options.val_fraction)
    plan = _digest_of_plan(files, options)
    manifest = read_manifest(out)
    if manifest is not None:
        if manifest["plan"] != plan:
            raise ConfigError(f"--out {out}: holds tokens of other texts or options; say another")
        return manifest
    state = _State.read(out, plan)
    tokenizer = _tokenizer(out, todo, options, fresh=state.done == 0)
    started = time.perf_counter()
    tokenized = _write_tokens(out, todo, tokenizer, state)
    seconds = time.perf_counter() - started
    if tokenized:
        print(f"{tokenized / 1e6:.1f} MB of text in {seconds:.1f} s", flush=True)
    if not all(state.tokens.values()):
        raise ConfigError("the texts are too short for both train and val")
    manifest = {
        "vocabulary": tokenizer.get_vocab_size(),
        "tokens": state.tokens,
        "bytes": _bytes_of(todo),
        "sources": {"files": len(files), "bytes": sum(span.stop - span.start for span in todo)},
        "skipped": skipped,
        "tokenizer": TOKENIZER_FILE,
        "end_of_text": tokenizer.token_to_id(END),
        "options": asdict(options),
        "plan": plan,
    }
    manifest["hash"] = _finish(out)
    write_atomically(out / MANIFEST_FILE, json.dumps(manifest, indent=1))
    (out / PROGRESS_FILE).unlink()
    return manifest


def _shown(entries: Sequence[T], text: str) -> Iterable[T]:
    """Show a bar over entries, on a terminal."""
    return track(entries, text, transient=True, disable=not sys.stdout.isatty())


def _readable(files: Sequence[Path]) -> tuple[list[Path], dict[str, int]]:
    """Return the files that are text, and the numbers of those that are not, by reason."""
    readable = []
    skipped: Counter[str] = Counter()
    for file in _shown(files, "reading"):
        reason = why_no_text(file)
        if reason is None:
            readable.append(file)
        else:
            skipped[reason] += 1
    if not readable:
        raise ConfigError(f"none of {len(files)} files is text in UTF-8")
    return readable, dict(skipped)


def _digest_of_plan(files: Sequence[Path], options: Options) -> str:
    """Return a digest of the options, and of the names, sizes and times of change of the files."""
    digest = hashlib.sha256(json.dumps(asdict(options)).encode())
    for file in files:
        status = file.stat()
        digest.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


@dataclass
class _State:
    """How far a preparation is."""

    plan: str
    done: int  # spans
    tokens: dict[str, int]  # by split

    @classmethod
    def read(cls, out: Path, plan: str) -> "_State":
        file = out / PROGRESS_FILE
        if not file.exists():
            return cls(plan, 0, dict.fromkeys(FILES, 0))
        state = cls(**json.loads(file.read_text()))
        if state.plan != plan:
            raise ConfigError(
                f"--out {out}: a preparation of other texts or options has not ended there; say "
                f"another folder, or delete {file}"
            )
        return state

    def write(self, out: Path) -> None:
        write_atomically(out / PROGRESS_FILE, json.dumps(asdict(self)))


def _partial(out: Path, name: str) -> Path:
    return out / f"{name}.partial"


def _tokenizer(out: Path, todo: Sequence[Span], options: Options, fresh: bool) -> Any:
    """Return the tokenizer of an earlier start, or train one on a sample of the spans."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    file = out / TOKENIZER_FILE
    if not fresh:
        return Tokenizer.from_file(str(file))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stdout.isatty(),
    )
    tokenizer.train_from_iterator(_sample(todo, options.sample_mb), trainer)
    write_atomically(file, tokenizer.to_str())
    return tokenizer


def _sample(todo: Sequence[Span], megabytes: float) -> Iterator[str]:
    """Yield pieces of the train spans, evenly spread, of about so many megabytes together."""
    train = [span for span in todo if span.split == "train"]
    size = sum(span.stop - span.start for span in train)
    share = min(1.0, megabytes * 1e6 / max(size, 1))
    due = 0.0
    for span in _shown(train, "learning the vocabulary"):
        for piece in pieces(span.read()):
            due += share
            if due >= 1 - 1e-9:
                due -= 1
                yield piece


def pieces(text: str) -> Iterator[str]:
    """Cut a text where that changes no token, into pieces of `PIECE` bytes and little more.

    >>> list(pieces("to be"))
    ['to be']
    """
    content = text.encode()
    start = 0
    while start < len(content):
        found = CUT.search(content, start + PIECE)
        stop = found.start() if found else len(content)
        yield content[start:stop].decode()
        start = stop


def _write_tokens(out: Path, todo: Sequence[Span], tokenizer: Any, state: _State) -> int:
    """Append the tokens of all spans that are not done; return the number of bytes of text."""
    end = tokenizer.token_to_id(END)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with (
        _opened(out, "train", state) as train,
        _opened(out, "val", state) as val,
        Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress,
    ):
        files = {"train": train, "val": val}
        sizes = [span.stop - span.start for span in todo]
        done = sum(sizes[: state.done])
        task = progress.add_task("tokenizing", total=sum(sizes), completed=done)
        for group in _groups(todo[state.done :]):
            for split, tokens in _tokenized(group, tokenizer, end):
                files[split].write(tokens.tobytes())
                state.tokens[split] += len(tokens)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            state.done += len(group)
            state.write(out)
            progress.advance(task, sum(span.stop - span.start for span in group))
        return sum(sizes) - done


def _groups(todo: Sequence[Span]) -> Iterator[list[Span]]:
    """Yield neighbouring spans together, as many as a long file's span has bytes."""
    group: list[Span] = []
    size = 0
    for span in todo:
        group.append(span)
        size += span.stop - span.start
        if size >= SPAN:
            yield group
            group = []
            size = 0
    if group:
        yield group


def _tokenized(group: Sequence[Span], tokenizer: Any, end: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the split and the tokens of each span; all are tokenized at once, by all threads."""
    cut = [list(pieces(span.read())) for span in group]
    encodings = iter(tokenizer.encode_batch_fast([*chain(*cut)]))
    for span, parts in zip(group, cut, strict=True):
        ids: list[int] = []
        for _ in parts:
            ids += next(encodings).ids
        if span.ends:
            ids.append(end)
        yield span.split, np.array(ids, DTYPE)


def _opened(out: Path, split: str, state: _State) -> Any:
    """Open a file of tokens to append to, without what was written but not counted."""
    file = _partial(out, FILES[split])
    if (out / FILES[split]).exists():  # an earlier start ended after it was renamed
        (out / FILES[split]).replace(file)
    file.touch()
    os.truncate(file, state.tokens[split] * DTYPE.itemsize)
    return file.open("ab")


def _bytes_of(todo: Sequence[Span]) -> dict[str, int]:
    counts = dict.fromkeys(FILES, 0)
    for span in todo:
        counts[span.split] += span.stop - span.start
    return counts


def _finish(out: Path) -> str:
    """Name the files of tokens as they are read, and return a digest of these and the tokenizer."""
    digest = hashlib.sha256()
    for name in FILES.values():
        _partial(out, name).replace(out / name)
    for name in (TOKENIZER_FILE, *FILES.values()):
        with open(out / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]

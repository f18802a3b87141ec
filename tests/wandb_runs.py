"""Read what W&B wrote offline. Its package has no reader since version 0.31."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes of a LevelDB log
HEADER = struct.Struct("<IHB")  # checksum, length and kind of a piece
FULL, FIRST, MIDDLE, LAST = range(1, 5)


@dataclass
class Run:
    """A run of W&B, as one file has it.

    Attributes:
        history: a row for each step that was logged.
    """

    name: str = ""
    group: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def metrics(self, name: str) -> dict[int, float]:
        """Values by Lightning's step."""
        rows = [row for row in self.history if name in row]
        return {row["trainer/global_step"]: row[name] for row in rows}


def runs_below(folder: Path) -> list[Run]:
    """Every run that W&B wrote below a folder."""
    return [read_run(file) for file in sorted(folder.rglob("*.wandb"))]


def read_run(file: Path) -> Run:
    from wandb.proto import wandb_internal_pb2 as protocol

    run = Run()
    for content in records(file.read_bytes()):
        record = protocol.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.group = record.run.display_name, record.run.run_group
            run.project, run.tags = record.run.project, list(record.run.tags)
            run.config |= items(record.run.config.update)
        elif kind == "config":
            run.config |= items(record.config.update)
        elif kind == "history":
            run.history.append(items(record.history.item))
        elif kind == "summary":
            run.summary |= items(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def items(entries: Any) -> dict[str, Any]:
    return {
        entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }


def records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log after W&B's header of seven bytes."""
    at, record = 7, b""
    while at + HEADER.size <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER.size:
            at += left
            continue
        _, length, kind = HEADER.unpack_from(content, at)
        at += HEADER.size
        record += content[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield record
            record = b""

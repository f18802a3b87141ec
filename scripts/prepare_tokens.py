"""Make texts into tokens that a language model trains on, with a vocabulary learnt from them.

    python scripts/prepare_tokens.py FILES_OR_FOLDERS --vocabulary 32768 --out DIR
    python train.py model=gpt data=tokens data.root=DIR

Writes DIR/train.bin, DIR/val.bin (uint16), DIR/tokenizer.json and, when all is done,
DIR/manifest.json. The same command goes on where it was killed.
"""

import argparse
import sys
from pathlib import Path

from mupl.data.prepare_tokens import Options, prepare
from mupl.errors import ConfigError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", help="files, and folders with files, of text")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--vocabulary", type=int, default=Options.vocabulary)
    parser.add_argument("--suffixes", nargs="+", default=(), help="of files in folders: py c h md")
    parser.add_argument("--val-fraction", type=float, default=Options.val_fraction)
    parser.add_argument(
        "--sample-mb",
        type=float,
        default=Options.sample_mb,
        help="megabytes of text from which the vocabulary is learnt",
    )
    given = parser.parse_args()
    try:
        options = Options(
            given.vocabulary, tuple(given.suffixes), given.val_fraction, given.sample_mb
        )
        manifest = prepare(given.sources, given.out, options)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    for reason, count in manifest["skipped"].items():
        print(f"{count} files left out: {reason}")
    tokens = manifest["tokens"]
    print(
        f"{tokens['train']:,} + {tokens['val']:,} tokens of {manifest['sources']['files']} files, "
        f"vocabulary {manifest['vocabulary']}: data=tokens data.root={given.out}"
    )


if __name__ == "__main__":
    main()

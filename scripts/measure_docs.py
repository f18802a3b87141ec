"""How long the sentences of pages are: the mean number of words, without code, tables, headings.

python scripts/measure_docs.py README.md docs/*.md
"""

import argparse
import re
from pathlib import Path

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]+`")  # counts as one word
NO_SENTENCE = re.compile(r"^(#|\||:::|!!!|    )")  # heading, table, API, note, indented code
ITEM = re.compile(r"^\s*([-*]|\d+\.)\s+")
END = re.compile(r"[.!?](?=\s|$)")


def sentences(text: str) -> list[str]:
    """Return the sentences of a page in Markdown; an item of a list without a full stop is one.

    >>> sentences("# Title\\n\\nOne `long name` here. Two:\\n\\n- [three](a.md)\\n- four\\n")
    ['One code here', 'Two:', 'three', 'four']
    """
    for pattern in (COMMENT, FENCED, IMAGE):
        text = pattern.sub("", text)
    text = CODE.sub("code", LINK.sub(r"\1", text))
    paragraphs = [""]
    for line in text.splitlines():
        if not line.strip() or NO_SENTENCE.match(line):
            paragraphs.append("")
        elif ITEM.match(line):
            paragraphs.append(ITEM.sub("", line))
        else:
            paragraphs[-1] += f" {line.strip()}"
    found = []
    for paragraph in paragraphs:
        found += [part.strip(" *_") for part in END.split(paragraph)]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def mean_length(text: str) -> float:
    """Return the mean number of words in a sentence of a page; 0 if it has none.

    >>> mean_length("One two three. One.")
    2.0
    """
    found = sentences(text)
    words = sum(len(sentence.split()) for sentence in found)
    return words / len(found) if found else 0.0


def main() -> None:
    """Print a line for each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args().pages:
        text = page.read_text()
        print(f"{mean_length(text):5.1f} words, {len(sentences(text)):4d} sentences  {page}")


if __name__ == "__main__":
    main()

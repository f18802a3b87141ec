"""An extension of Griffe: examples of docstrings are shown as code on the page of the API.

Griffe knows the section `Examples:`. Docstrings of mupl have `Example:`, or end with one that has
no title.
"""

import re
import textwrap
from typing import Any

from griffe import Extension, Object

TITLE = re.compile(r"^Example:$", re.MULTILINE)
UNTITLED = re.compile(r"\n\n(>>> .*)\Z", re.DOTALL)


def with_examples(docstring: str) -> str:
    """Return a docstring whose example stands in a section `Examples:`.

    >>> with_examples("Add one.\\n\\n>>> add(1)\\n2")
    'Add one.\\n\\nExamples:\\n    >>> add(1)\\n    2'
    """

    def titled(example: re.Match[str]) -> str:
        return "\n\nExamples:\n" + textwrap.indent(example[1], "    ")

    return UNTITLED.sub(titled, TITLE.sub("Examples:", docstring))


class Examples(Extension):
    """Give the docstring of each class, function and attribute its section of examples."""

    def on_object(self, *, obj: Object, **options: Any) -> None:
        """Change the docstring of an object that Griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)

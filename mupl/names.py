"""Names of tensors and modules."""

import re


def block_pattern(name: str) -> str:
    """The same for every block: `blocks.3.mlp.up.weight` -> `blocks.*.mlp.up.weight`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)

"""What the code of a module's forward pass says about the module."""

import functools
import inspect
import textwrap

from torch import nn


def forward_source(module: nn.Module) -> str:
    """Return the source of the class that defines a module's forward pass; "" if there is none.

    Example:
        >>> "F.linear(input, self.weight, self.bias)" in forward_source(nn.Linear(2, 2))
        True
    """
    for kind in type(module).__mro__:
        if "forward" in vars(kind):
            return _source(kind)
    return ""


@functools.cache  # a model has many modules of one class, and Python parses the file for each
def _source(kind: type) -> str:
    try:
        return textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # typed into a prompt, or not written in Python
        return ""

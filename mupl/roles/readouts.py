"""By what a model multiplies what a tied readout reads, as the models of T5 do."""

import re

from torch import nn

from mupl.roles.source import forward_source

# `if self.config.tie_word_embeddings: x = x * (self.model_dim**-0.5)`, with comments between
_SCALED = re.compile(
    r"if self\.config\.(?P<condition>scale_decoder_outputs|tie_word_embeddings):"
    r"(?:\s|#[^\n]*\n)*"
    r"\w+ = \w+ \* \(?self\.(?:model_dim|config\.d_model) ?\*\* ?-0\.5\)?"
)
_POWER = re.compile(r"\*\* ?\(?-0\.5")


def readout_scale(model: nn.Module, path: str) -> float | None:
    """Return by what a model multiplies the input of a tied readout: 1 or `width^-1/2`.

    It is read from the forward pass of the module that has the readout. None: that multiplies by
    something to the power -1/2, and it is not known what, or its source is not there.

    Args:
        path: of the readout.

    Example:
        >>> readout_scale(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3)), "1")
        1.0
    """
    readout = model.get_submodule(path)
    owner = model.get_submodule(path.rpartition(".")[0])
    source = forward_source(owner)
    scaled = _SCALED.search(source)
    if scaled is not None and hasattr(owner, "config"):
        is_scaled = getattr(owner.config, scaled["condition"], False)
        width = readout.get_parameter("weight").shape[1]
        return float(width**-0.5) if is_scaled else 1.0
    if not source or _POWER.search(_forward_of(source)):
        return None
    return 1.0


def _forward_of(source: str) -> str:
    """Return the forward pass, of the source of a class."""
    forward = source.partition("def forward(")[2]
    return re.split(r"\n    (?:def|@|class) ?", forward)[0]

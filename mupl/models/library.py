"""Models of other libraries, which say in a config how their arguments follow from sizes."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError, enumerated
from mupl.models.sizes import Size, size_of
from mupl.names import find_object

CAUSAL = "transformers.AutoModelForCausalLM"
EXAMPLES = {"width": "+model.sizes.embed_dim=width", "depth": "+model.sizes.depth=depth, or null"}


def from_library(
    width: Size,
    *,
    constructor: str,
    sizes: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    requires: Mapping[str, Any] | None = None,
    depth: int | None = None,
    vocabulary: int | None = None,
    context: int | None = None,
    in_channels: int | None = None,
    image_size: Size | None = None,
    in_features: int | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Build a model of any library: `constructor(**options, **sizes)`.

    Args:
        width, depth: what grows.
        constructor: dotted name of a class or function that returns a module.
        sizes: its arguments that follow from the sizes above. Each is such a name, or a product or
            quotient of names and whole numbers: "4 * width", "width / 32"; or a list of these. None
            leaves an argument out.
        options: its other arguments.
        requires: sizes for which the model is made, such as `{"in_channels": 3}`.
        vocabulary, context: of data that are tokens.
        in_channels, image_size, in_features, num_classes: of data that are images. An image size is
            one number for squares, else (height, width).

    Raises:
        ConfigError: naming the argument that cannot be made, or what the constructor says.

    Example:
        >>> sizes = {"in_features": "in_features", "out_features": "width / 2"}
        >>> from_library(8, constructor="torch.nn.Linear", sizes=sizes, in_features=64)
        Linear(in_features=64, out_features=4, bias=True)
    """
    every_size: dict[str, Size | None] = {"width": width, "depth": depth}
    every_size |= {"vocabulary": vocabulary, "context": context, "in_channels": in_channels}
    every_size |= {"in_features": in_features, "num_classes": num_classes}
    every_size["image_size"] = _side(image_size)
    known = {name: size for name, size in every_size.items() if size is not None}
    _check_sizes(constructor, sizes, requires or {}, known)
    arguments = dict(options or {})
    for name, said in sizes.items():
        if said is not None:
            arguments[name] = size_of(f"model.sizes.{name}", said, known)
    return _construct(constructor, arguments)


def _side(image_size: Size | None) -> Size | None:
    """Return one number for an image of equal sides, which all libraries take."""
    if isinstance(image_size, Sequence) and len(set(image_size)) == 1:
        return image_size[0]
    return image_size


def _check_sizes(
    constructor: str,
    sizes: Mapping[str, Any],
    requires: Mapping[str, Any],
    known: Mapping[str, Size],
) -> None:
    """Refuse data that the model is not made for, and a width or depth that changes nothing."""
    for name, needed in requires.items():
        if known.get(name) != needed:
            raise ConfigError(
                f"model={constructor}: needs {name}={needed}; here it is {known.get(name)}"
            )
    used = set(re.findall(r"\w+", str(list(sizes.values()))))
    for name in ("width", "depth"):
        if name in known and name not in used:
            raise ConfigError(
                f"{name}={known[name]}: no entry of model.sizes follows from it, so that it would "
                f"change nothing; say one, such as {EXAMPLES[name]}"
            )


def _construct(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    constructor = find_object("model.constructor", name, "a function that returns an nn.Module")
    try:
        model = constructor(**arguments)
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError | TypeError) and nn.Linear(1, 1).weight.is_meta:
            raise  # a value may have been read that is not there, which `describe` knows of
        raise ConfigError(f"model={name}: {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.constructor={name}: must return an nn.Module, not a {type(model).__name__}"
        )
    return model


def _reason(error: Exception) -> str:
    """Return what an error says: its beginning, as some list all models there are."""
    return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def from_config(config: str, auto: str = CAUSAL, **fields: Any) -> nn.Module:
    """Build a model of transformers from one of its config classes: tokens or images -> logits.

    Nothing is downloaded: the weights are those that the model draws itself.

    Args:
        config: dotted name of the config class.
        auto: dotted name of the auto class that finds the model of the config.
        fields: of the config.

    Raises:
        ConfigError: on a name that there is not, or a field that the config has not.

    Example:
        >>> model = from_config(
        ...     "transformers.LlamaConfig", vocab_size=11, hidden_size=8, intermediate_size=16,
        ...     num_attention_heads=2, num_hidden_layers=1, use_cache=False
        ... )
        >>> model(torch.zeros(3, 5, dtype=torch.long)).shape
        torch.Size([3, 5, 11])
    """
    config_class = find_object("model.options.config", config, "a config class")
    auto_class = find_object("model.options.auto", auto, "an auto class of transformers")
    default = config_class()
    for field in fields:  # else any other name would become an attribute that nobody reads
        if not hasattr(default, field):
            raise ConfigError(
                f"model: {config} has no field {field}; it has {enumerated(default.to_dict())}"
            )
    model = auto_class.from_config(config_class(**fields))
    model.register_forward_hook(_logits)
    return model


def _logits(model: nn.Module, args: Any, output: Any) -> Tensor:
    """Return the logits of an output of transformers."""
    if not hasattr(output, "logits"):
        raise ConfigError(
            f"model.options.auto: a {type(model).__name__} gives no logits; take an auto class of "
            f"models that do, such as {CAUSAL}"
        )
    return output.logits

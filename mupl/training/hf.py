"""Setups of models of transformers, from a config and the fields that differ at the base size."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.training.losses import cross_entropy
from mupl.training.setup import Setup

DEPTH = "num_hidden_layers"  # what every config of transformers calls its number of blocks


def hf(
    config: Any,
    base: Mapping[str, Any],
    *,
    model_class: Any = None,
    **setup_arguments: Any,
) -> Setup:
    """Set up a model of transformers, by its config and what differs in that at the base size.

    Fields that follow from others, such as the size of a head, follow at the base size too. Where
    `base` says the number of layers, rules in depth have their base there. Nothing is downloaded.

    Args:
        config: of the model to train: a `PretrainedConfig`, a dict of its fields with `model_type`,
            or a folder with a `config.json`.
        base: the fields, and their values, of the model at which `lr` was tuned.
        model_class: a class of transformers or its name; else what `config.architectures` says, or
            `AutoModelForCausalLM` (`AutoModelForSeq2SeqLM` for an encoder with a decoder).
        setup_arguments: of `mupl.Setup`; `loss` is by default the model's own if its output has
            one, else the cross-entropy of its logits.

    Raises:
        ConfigError: on a config that cannot be read, or a field that it has not.

    Example:
        >>> fields = dict(model_type="gpt2", vocab_size=11, n_embd=64, n_layer=2, n_head=4)
        >>> setup = hf(fields, base={"n_embd": 16}, lr=0.01)
        >>> type(setup.model).__name__, setup.scales["lm_head"].mult
        ('GPT2LMHeadModel', 0.25)
    """
    transformers = _transformers()
    sizes = _Sizes(_read_config(transformers, config), base)
    model_class = _model_class(transformers, sizes.config, model_class)

    def build(width: int, depth: int | None = None) -> nn.Module:
        return _new_model(model_class, sizes.at(width, depth))

    if sizes.base_depth is not None:
        setup_arguments = {
            "depth": sizes.depth,
            "base_depth": sizes.base_depth,
            **setup_arguments,
        }
    return Setup(
        build,
        sizes.width,
        base_width=sizes.base_width,
        **{"loss": output_loss, **setup_arguments},
    )


def output_loss(output: Any, target: Tensor) -> Tensor:
    """Return the loss that a model of transformers computed; else logits' cross-entropy.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> output = SimpleNamespace(loss=None, logits=torch.zeros(2, 3, 4))
        >>> output_loss(output, torch.zeros(2, 3, dtype=torch.long))  # log(4)
        tensor(1.3863)
    """
    if getattr(output, "loss", None) is not None:
        return output.loss
    return cross_entropy(output.logits, target)


class _Sizes:
    """The configs of one model at several sizes, each named by a width and a depth.

    Args:
        config: of the model to train.
        base: the fields that differ at the base size.
    """

    def __init__(self, config: Any, base: Mapping[str, Any]) -> None:
        self.config = config
        fields = {}
        for name, value in base.items():
            field = config.attribute_map.get(name, name)
            if not hasattr(config, field):
                raise ConfigError(
                    f"base: a {type(config).__name__} has no field {name!r}; say fields of it, "
                    "such as hidden_size"
                )
            fields[field] = value
        self._depth_field = config.attribute_map.get(DEPTH, DEPTH)
        self.base_depth = fields.pop(self._depth_field, None)
        self.depth = getattr(config, self._depth_field, None)
        self._base = fields
        differing = [name for name in fields if fields[name] != getattr(config, name)]
        width_field = config.attribute_map.get("hidden_size", "hidden_size")
        if differing and width_field not in differing:
            width_field = differing[0]
        self.width = getattr(config, width_field)
        self.base_width = fields.get(width_field, self.width)
        self._twice = {name: 2 * fields[name] for name in differing}
        self._independent = _independent_fields(config)

    def at(self, width: int, depth: int | None) -> Any:
        """Return the config at the width of the model to train, at the base width, or at twice."""
        fields: dict[str, Any] = {}
        if width == self.base_width:
            fields = self._base
        elif width != self.width:
            fields = {**self._base, **self._twice}
        if depth is not None:
            fields = {**fields, self._depth_field: depth}
        new = type(self.config).from_dict({**self._independent, **fields})
        new._attn_implementation = self.config._attn_implementation
        return new


def _independent_fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config that do not follow from its other ones."""
    kind = type(config)
    fields = config.to_diff_dict()
    for name in list(fields):
        others = {field: value for field, value in fields.items() if field != name}
        try:
            follows = getattr(kind.from_dict(others), name, None) == fields[name]
        except Exception:  # the default does not fit the other fields, so this one is no default
            follows = False
        if follows:
            fields = others
    return fields


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "mupl.hf needs the package transformers: pip install 'mupl[models]'", name=error.name
        ) from error
    return transformers


def _read_config(transformers: Any, config: Any) -> Any:
    """Return a config of transformers, from its fields or its folder."""
    if isinstance(config, transformers.PretrainedConfig):
        return config
    try:
        if isinstance(config, Mapping):
            return transformers.AutoConfig.for_model(**config)
        return transformers.AutoConfig.from_pretrained(config, local_files_only=True)
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            "config: must be a PretrainedConfig, a dict of its fields with model_type, or a folder "
            f"with a config.json ({error})"
        ) from error


def _model_class(transformers: Any, config: Any, given: Any) -> Any:
    """Return the class of a model: what is given, what the config says, or a language model."""
    if given is None:
        given = "AutoModelForCausalLM"
        if config.is_encoder_decoder:
            given = "AutoModelForSeq2SeqLM"
        if config.architectures:
            given = config.architectures[0]
    if not isinstance(given, str):
        return given
    if not hasattr(transformers, given):
        raise ConfigError(f"model_class={given}: transformers has no such class")
    return getattr(transformers, given)


def _new_model(model_class: Any, config: Any) -> nn.Module:
    if hasattr(model_class, "from_config"):  # an AutoModel
        return model_class.from_config(config)
    return model_class(config)

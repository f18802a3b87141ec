"""A ladder: proxies of several widths for one target, whose other sizes may grow in proportion."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

GROWING = ("depth", "batch_size", "max_steps")  # sizes that may grow with width in proportion
SIZES = ("width", *GROWING)


def in_proportion(key: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """Resolve `${in_proportion:KEY,VALUE}`: a size of a proxy.

    It is target.KEY * width / target.width, rounded, where target.in_proportion names the key, and
    VALUE else.

    Example:
        >>> from omegaconf import OmegaConf
        >>> target = {"width": 1024, "depth": 24, "in_proportion": ["depth"]}
        >>> in_proportion("depth", 4, _root_=OmegaConf.create({"width": 256, "target": target}))
        6
    """
    target = _root_.target
    if not target or key not in target.in_proportion:
        return otherwise
    return max(1, round(target[key] * _root_.width / target.width))


def target_problems(target: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with `{width, depth, batch_size, max_steps, in_proportion}`.

    Example:
        >>> list(target_problems({"width": 0, "in_proportion": []}))
        ['target.width=0: must be a whole number >= 1, the width of the run that the ladder is for']
    """
    for key in SIZES:
        value = target.get(key)
        if type(value) is int and value >= 1:
            continue
        if key == "width":
            yield (
                f"target.width={value}: must be a whole number >= 1, the width of the run that the "
                "ladder is for"
            )
        elif value is not None:
            yield f"target.{key}={value}: must be a whole number >= 1, or null for the proxies'"
    growing = target["in_proportion"]
    if not isinstance(growing, list) or not set(growing) <= set(GROWING):
        yield f"target.in_proportion={growing}: must be a list of {', '.join(GROWING)}"
        return
    for key in growing:
        if target.get(key) is None:
            yield f"target.{key}=null: is to grow in proportion; say the target's"

"""Data sets in memory and batches made from them on the device."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mupl.data.loader import TensorLoader, epoch_order
from mupl.data.sources import cifar10, digits, fashion_mnist, image_folder, mnist
from mupl.data.splits import Splits
from mupl.data.text import Tokens, random_tokens, read_text, read_tokens

if TYPE_CHECKING:
    from mupl.data.modules import TensorData, TextData, data_module

__all__ = [
    "Splits",
    "TensorData",
    "TensorLoader",
    "TextData",
    "Tokens",
    "cifar10",
    "data_module",
    "digits",
    "epoch_order",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "random_tokens",
    "read_text",
    "read_tokens",
]


def __getattr__(name: str) -> Any:
    """What imports Lightning, which takes as long as all else together: only for those who name it."""
    if name in ("TensorData", "TextData", "data_module"):
        return getattr(import_module("mupl.data.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Data sets in memory and batches made from them on the device."""

from typing import Any

from lightning import LightningDataModule

from mupl.data.loader import TensorData, TensorLoader, epoch_order
from mupl.data.sources import cifar10, digits, fashion_mnist, image_folder, mnist
from mupl.data.splits import Splits
from mupl.data.text import TextData, Tokens, random_tokens, read_text, read_tokens

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


def data_module(splits: Splits | Tokens, **options: Any) -> LightningDataModule:
    """The data module for a source's splits; options: batch_size, seed."""
    return TextData(splits, **options) if isinstance(splits, Tokens) else TensorData(splits, **options)

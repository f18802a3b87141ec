"""Data sets in memory and batches made from them; `mupl.data.modules` has them for Lightning."""

from mupl.data.batches import EvalLoader, TrainLoader, epoch_order
from mupl.data.images import cifar10, digits, fashion_mnist, image_folder, mnist
from mupl.data.splits import Arrays, Splits
from mupl.data.table import read_table
from mupl.data.text import Tokens, random_tokens, read_text
from mupl.data.token_files import read_tokens

__all__ = [
    "Arrays",
    "EvalLoader",
    "Splits",
    "Tokens",
    "TrainLoader",
    "cifar10",
    "digits",
    "epoch_order",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "random_tokens",
    "read_table",
    "read_text",
    "read_tokens",
]

"""Data sets in memory and batches made from them on the device."""

from mupl.data.loader import TensorData, TensorLoader, epoch_order
from mupl.data.sources import cifar10, digits, fashion_mnist, image_folder, mnist
from mupl.data.splits import Splits

__all__ = [
    "Splits",
    "TensorData",
    "TensorLoader",
    "cifar10",
    "digits",
    "epoch_order",
    "fashion_mnist",
    "image_folder",
    "mnist",
]

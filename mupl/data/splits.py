"""A data set in memory: what every source returns and everything else takes."""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mupl.data.loader import TensorLoader


@dataclass(frozen=True, eq=False)
class Splits:
    """Train and validation images with their labels.

    Shapes: train_x, val_x (N, C, H, W) uint8, 0..255; train_y, val_y (N,) int64, 0..num_classes - 1.

    Raises ValueError if a dtype, a shape, a length or a label does not fit.
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        for split, x, y in (("train", self.train_x, self.train_y), ("val", self.val_x, self.val_y)):
            if x.dtype != torch.uint8 or x.ndim != 4:
                raise ValueError(
                    f"{split}_x must be uint8 (N, C, H, W), not {x.dtype} {tuple(x.shape)}"
                )
            if y.dtype != torch.int64 or y.ndim != 1:
                raise ValueError(f"{split}_y must be int64 (N,), not {y.dtype} {tuple(y.shape)}")
            if len(x) != len(y):
                raise ValueError(f"{split}_x has {len(x)} images but {split}_y has {len(y)} labels")
            if len(x) == 0:
                raise ValueError(f"the {split} split has no examples")
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"{split}_y has labels {low}..{high}, outside 0..{self.num_classes - 1} of num_classes"
                )
        if self.train_x.shape[1:] != self.val_x.shape[1:]:
            raise ValueError(
                f"train_x and val_x have images of different shapes: {tuple(self.train_x.shape[1:])} and "
                f"{tuple(self.val_x.shape[1:])}"
            )

    def train_batches(self, batch_size: int, seed: int, device: torch.device) -> TensorLoader:
        """Shuffled by `seed`; an incomplete last batch is dropped."""
        return TensorLoader(
            self.train_x.to(device), self.train_y.to(device), batch_size, self.mean, self.std, seed
        )

    def val_batches(self, batch_size: int, device: torch.device) -> TensorLoader:
        """In order, every example once."""
        return TensorLoader(
            self.val_x.to(device), self.val_y.to(device), batch_size, self.mean, self.std
        )

    @functools.cached_property
    def _pixel_counts(self) -> Tensor:
        """How often each of the 256 values occurs in each channel of train_x: (C, 256) int64."""
        counts = torch.zeros(self.train_x.shape[1], 256, dtype=torch.int64)
        for chunk in torch.split(
            self.train_x, 4096
        ):  # bounds the copy that flattening a channel makes
            for channel, pixels in enumerate(chunk.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
        return counts

    @property
    def mean(self) -> Tensor:
        """Mean of train_x / 255 over examples and pixels: (C,) float64."""
        values = torch.arange(256, dtype=torch.float64) / 255
        return self._pixel_counts.double() @ values / self._pixel_counts.sum(1)

    @property
    def std(self) -> Tensor:
        """Standard deviation (divided by n, not n - 1) of train_x / 255: (C,) float64; 1 for a constant channel."""
        values = torch.arange(256, dtype=torch.float64) / 255
        squares = (values - self.mean[:, None]).square()
        variance = (self._pixel_counts * squares).sum(1) / self._pixel_counts.sum(1)
        constant = (self._pixel_counts > 0).sum(
            1
        ) == 1  # its variance may be 0 up to round-off only
        return variance.sqrt().masked_fill(constant, 1.0)

    @property
    def in_features(self) -> int:
        """Numbers in one image, C * H * W."""
        return self.train_x[0].numel()

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments that the data offer to a model's constructor, which gets those that it takes."""
        channels, *image_size = self.train_x.shape[1:]
        return {
            "in_channels": channels,
            "image_size": tuple(image_size),  # (height, width)
            "in_features": self.in_features,
            "num_classes": self.num_classes,
        }

"""Images in memory: what every source of images returns and everything else takes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mupl.data.batches import Batch, EvalLoader, ImageBatches, Normalise
from mupl.errors import ConfigError

CPU = torch.device("cpu")
COUNTED_AT_ONCE = 4096  # images; bounds the copy that flattening a channel makes


@dataclass(frozen=True, eq=False)
class Splits:
    """Train and validation images with their labels.

    train_x and val_x are (N, C, H, W) uint8, 0..255; train_y and val_y are (N,) int64,
    0..num_classes - 1.

    Raises:
        ValueError: if a dtype, a shape, a length or a label does not fit.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(6, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> splits = Splits(x[:4], y[:4], x[4:], y[4:], num_classes=3)
        >>> splits.in_features
        3072
        >>> [len(y) for x, y in splits.val_batches(batch_size=1)]
        [1, 1]
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        self._check("train", self.train_x, self.train_y)
        self._check("val", self.val_x, self.val_y)
        train_shape = tuple(self.train_x.shape[1:])
        val_shape = tuple(self.val_x.shape[1:])
        if train_shape != val_shape:
            raise ValueError(
                f"train_x and val_x have images of different shapes: {train_shape} and {val_shape}"
            )

    def _check(self, split: str, x: Tensor, y: Tensor) -> None:
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
        low = int(y.min())
        high = int(y.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{split}_y has labels {low}..{high}, "
                f"outside 0..{self.num_classes - 1} of num_classes"
            )

    def train_batches(
        self,
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device = CPU,
        parts: int = 1,
    ) -> ImageBatches:
        """Shuffled training batches for each of the seeds, cut into parts.

        Raises:
            ConfigError: if a batch is larger than the train split.
        """
        self.check_batch_size(batch_size)
        x = self.train_x.to(device)
        y = self.train_y.to(device)
        return ImageBatches(x, y, self._normalise(device), batch_size, seeds, parts)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ConfigError if a batch is larger than the train split."""
        if batch_size > len(self.train_x):
            raise ConfigError(
                f"batch_size={batch_size}: must be at most {len(self.train_x)}, "
                "the size of the train split"
            )

    def val_batches(self, batch_size: int, device: torch.device = CPU) -> EvalLoader:
        """Every validation example once, in order."""
        x = self.val_x.to(device)
        y = self.val_y.to(device)
        normalise = self._normalise(device)

        def read(rows: Tensor) -> Batch:
            images = normalise(x.index_select(0, rows))
            return images, y.index_select(0, rows)

        return EvalLoader(torch.arange(len(x), device=device), batch_size, read)

    def _normalise(self, device: torch.device) -> Normalise:
        return Normalise(self.mean, self.std, device)

    @functools.cached_property
    def _pixel_counts(self) -> Tensor:
        """How often each of the 256 values occurs in each channel of train_x: (C, 256) int64."""
        counts = torch.zeros(self.train_x.shape[1], 256, dtype=torch.int64)
        for images in torch.split(self.train_x, COUNTED_AT_ONCE):
            for channel, pixels in enumerate(images.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
        return counts

    @property
    def mean(self) -> Tensor:
        """Mean of train_x / 255 over examples and pixels: (C,) float64."""
        values = torch.arange(256, dtype=torch.float64) / 255
        return self._pixel_counts.double() @ values / self._pixel_counts.sum(1)

    @property
    def std(self) -> Tensor:
        """Standard deviation (over n, not n - 1) of train_x / 255: (C,) float64.

        Of a channel with one value only it is 1.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        squares = (values - self.mean[:, None]).square()
        variance = (self._pixel_counts * squares).sum(1) / self._pixel_counts.sum(1)
        # counted, as the variance of a constant channel is 0 only up to round-off
        constant = (self._pixel_counts > 0).sum(1) == 1
        return variance.sqrt().masked_fill(constant, 1.0)

    @property
    def in_features(self) -> int:
        """Numbers in one image, C * H * W."""
        return self.train_x[0].numel()

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments that the data offer to a model, whose constructor gets those it takes."""
        channels, height, width = self.train_x.shape[1:]
        return {
            "in_channels": channels,
            "image_size": (height, width),
            "in_features": self.in_features,
            "num_classes": self.num_classes,
        }

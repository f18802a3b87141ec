"""Examples in memory: images, or numbers of any kind, with what is to be told from them."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mupl.data.batches import Batch, EvalLoader, ExampleBatches, Normalise
from mupl.errors import ConfigError

CPU = torch.device("cpu")
# Of every split that we make; not the run's seed, so that all runs see the same examples
SPLIT_SEED = 0
COUNTED_AT_ONCE = 4096  # images; bounds the copy that flattening a channel makes


def random_split(count: int, val_fraction: float, what: str) -> tuple[Tensor, Tensor]:
    """Return the places of train and of validation examples, in a fixed random order.

    Args:
        count: of examples.
        what: they are, for the error.

    Raises:
        ConfigError: if one of the two would be empty.

    Example:
        >>> train, val = random_split(10, 0.2, "images")
        >>> len(train), len(val)
        (8, 2)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = round(val_fraction * count)
    if not 0 < num_val < count:
        raise ConfigError(
            f"data.val_fraction={val_fraction}: leaves one split of {count} {what} empty"
        )
    return order[:-num_val], order[-num_val:]


@dataclass(frozen=True, eq=False)
class Examples(ABC):
    """Train and validation examples in memory, and the batches made from them.

    train_x and val_x are (N, ...), train_y and val_y (N,) or (N, K).
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor

    def train_batches(
        self,
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device = CPU,
        parts: int = 1,
    ) -> ExampleBatches:
        """Shuffled training batches for each of the seeds, cut into parts.

        Raises:
            ConfigError: if a batch is larger than the train split.
        """
        self.check_batch_size(batch_size)
        x = self.train_x.to(device)
        y = self.train_y.to(device)
        return ExampleBatches(x, y, self._prepared(device), batch_size, seeds, parts)

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
        prepared = self._prepared(device)

        def read(rows: Tensor) -> Batch:
            return prepared(x.index_select(0, rows)), y.index_select(0, rows)

        return EvalLoader(torch.arange(len(x), device=device), batch_size, read)

    @abstractmethod
    def _prepared(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return what makes a model's inputs of rows of x on this device."""

    @property
    def in_features(self) -> int:
        """Numbers in one example."""
        return self.train_x[0].numel()

    @property
    @abstractmethod
    def model_args(self) -> dict[str, Any]:
        """The arguments that the data offer to a model, whose constructor gets those it takes."""


@dataclass(frozen=True, eq=False)
class Splits(Examples):
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

    def _prepared(self, device: torch.device) -> Normalise:
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
    def model_args(self) -> dict[str, Any]:
        """The arguments that the data offer to a model, whose constructor gets those it takes."""
        channels, height, width = self.train_x.shape[1:]
        return {
            "in_channels": channels,
            "image_size": (height, width),
            "in_features": self.in_features,
            "num_classes": self.num_classes,
        }


@dataclass(frozen=True, eq=False)
class Arrays(Examples):
    """Examples that are numbers already: rows of a table, sequences, images of floats.

    train_x and val_x are (N, ...) of a floating-point type, and stay as they are. train_y and val_y
    are classes, (N,) int64 in 0..num_classes - 1; or numbers to tell, (N, K) of a floating-point
    type, for a loss such as `torch.nn.functional.mse_loss`.

    Args:
        num_classes: of classes; None says that the targets are numbers.

    Raises:
        ConfigError: if a dtype, a shape, a length or a label does not fit.

    Example:
        >>> x = torch.linspace(0, 1, 12).view(6, 2)
        >>> y = x.sum(1, keepdim=True)
        >>> arrays = Arrays(x[:4], y[:4], x[4:], y[4:])
        >>> arrays.model_args
        {'in_features': 2, 'num_classes': 1}
        >>> [(tuple(a.shape), tuple(b.shape)) for a, b in arrays.val_batches(batch_size=2)]
        [((2, 2), (2, 1))]
    """

    num_classes: int | None = None

    def __post_init__(self) -> None:
        self._check("train", self.train_x, self.train_y)
        self._check("val", self.val_x, self.val_y)
        for name, train, val in (
            ("x", self.train_x, self.val_x),
            ("y", self.train_y, self.val_y),
        ):
            if train.shape[1:] != val.shape[1:] or train.dtype != val.dtype:
                raise ConfigError(
                    f"train_{name} and val_{name}: must be alike but for their length, not "
                    f"{_described(train)} and {_described(val)}"
                )

    def _check(self, split: str, x: Tensor, y: Tensor) -> None:
        if not x.is_floating_point() or x.ndim < 2:
            raise ConfigError(f"{split}_x: must be (N, ...) of floats, not {_described(x)}")
        if len(x) != len(y) or len(x) == 0:
            raise ConfigError(f"{split}_y: must have a target for each of {len(x)} examples (> 0)")
        if self.num_classes is None:
            if not y.is_floating_point() or y.ndim != 2:
                raise ConfigError(
                    f"{split}_y: must be (N, K) of floats, not {_described(y)}; one number of each "
                    "example is y[:, None], and for classes say num_classes"
                )
        elif y.dtype != torch.int64 or y.ndim != 1:
            raise ConfigError(f"{split}_y: classes must be (N,) int64, not {_described(y)}")
        elif int(y.min()) < 0 or int(y.max()) >= self.num_classes:
            raise ConfigError(f"num_classes={self.num_classes}: {split}_y has others")

    def _prepared(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        return _unchanged

    @property
    def model_args(self) -> dict[str, Any]:
        """Return what a model is offered; num_classes is the number of outputs, also of numbers."""
        outputs = self.train_y.shape[1] if self.num_classes is None else self.num_classes
        return {"in_features": self.in_features, "num_classes": outputs}


def _unchanged(x: Tensor) -> Tensor:
    return x


def _described(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"

"""A residual network for images that knows nothing of parametrizations."""

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.nn.layers import ScaledLinear, times
from mupl.nn.multipliers import Residual

NORMS = ("groupnorm", "batchnorm")


class ResNet(nn.Module):
    """A residual network with pre-activation basic blocks (He et al. 2016, arXiv:1603.05027).

    A 3x3 convolution makes `width` channels of the image. Stages of `depth` blocks follow; each
    stage but the first doubles the channels and halves the sides of the image. A block is
    `x -> shortcut(x) + residual_mult conv2(relu(norm2(conv1(relu(norm1(x))))))`, its convolutions
    3x3; where the shape changes, the shortcut is a 1x1 convolution. A last norm and ReLU, the mean
    over all pixels and a linear layer give the logits. With 3 stages, as for CIFAR, there are
    6 depth + 2 layers: `depth=3` is ResNet-20.

    Initialised in the standard parametrization: `W ~ N(0, init_std^2 / fan_in)`, the fan_in of a
    convolution counting its receptive field, gains 1, biases 0.

    Args:
        in_channels: channels of an image.
        num_classes: number of logits.
        width: channels of the first stage.
        depth: blocks in a stage.
        stages: number of stages.
        norm: "groupnorm" or "batchnorm".
        groups: groups of "groupnorm"; more channels in each with width.
        residual_mult: multiplies the residual branches.
        output_mult: multiplies the logits.
        init_std: std of the weights times sqrt(fan_in).
        zero_readout: start the readout at 0.

    Raises:
        ConfigError: naming the argument that is out of range.

    Example:
        >>> import torch
        >>> model = ResNet(in_channels=3, num_classes=10, width=8, depth=1)
        >>> model(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    # Arguments in which the members of one stack may differ (see `mupl.stacked.stack`)
    per_member: ClassVar = ("residual_mult", "output_mult", "init_std", "zero_readout")

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int,
        depth: int = 3,
        stages: int = 3,
        norm: str = "groupnorm",
        groups: int = 4,
        residual_mult: float = 1.0,
        output_mult: float = 1.0,
        init_std: float = 1.0,
        zero_readout: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(width, int) or width < 1:
            raise ConfigError(f"width={width}: must be one whole number >= 1 for a ResNet")
        if depth < 1:
            raise ConfigError(f"depth={depth}: must be a whole number >= 1")
        if stages < 1:
            raise ConfigError(f"model.stages={stages}: must be a whole number >= 1")
        if norm not in NORMS:
            raise ConfigError(f"model.norm={norm}: must be one of {', '.join(NORMS)}")
        if norm == "groupnorm" and (groups < 1 or width % groups):
            raise ConfigError(f"model.groups={groups}: must divide the width {width}")
        if init_std < 0:
            raise ConfigError(f"model.init_std={init_std}: must be >= 0")
        if norm == "batchnorm":
            groups = 0
        self.output_mult = output_mult
        self.init_std = init_std
        self.zero_readout = zero_readout

        self.stem = _convolution(in_channels, width)
        self.blocks = nn.ModuleList()
        channels = width
        for stage in range(stages):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                self.blocks.append(
                    Block(channels, stride * channels, stride, groups, residual_mult)
                )
                channels = stride * channels
        self.norm = _norm(channels, groups)
        self.readout = ScaledLinear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=self.init_std / math.sqrt(fan_in))
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.reset_parameters()
        readout_std = 0.0 if self.zero_readout else self.init_std
        self.readout.init_normal_(readout_std / math.sqrt(self.readout.in_features))

    def forward(self, images: Tensor) -> Tensor:
        """images (N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.norm(x))
        x = x.mean((-2, -1))  # (N, channels)
        return times(self.output_mult, self.readout(x))


class Block(nn.Module):
    """Two convolutions, each after a norm and a ReLU, added to the residual stream."""

    last_of_branch: ClassVar = {"residual": "conv2"}

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, groups: int, residual_mult: float
    ) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = _convolution(in_channels, out_channels, stride)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = _convolution(out_channels, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.residual = Residual(residual_mult)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        return self.residual(self.shortcut(x), lambda _: self._branch(x))

    def _branch(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(h)))


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _norm(channels: int, groups: int) -> nn.Module:
    """GroupNorm of that many groups, or BatchNorm for 0."""
    return nn.GroupNorm(groups, channels) if groups else nn.BatchNorm2d(channels)

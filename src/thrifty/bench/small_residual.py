"""A residual network small enough to be trained in minutes, for whom the size of the batch is the question.

A 3x3/2 stem of 16 channels, then three blocks of 16, 32 and 64 with BatchNorm, mean, one Linear: 0.08 million
parameters and about 3 million multiply-adds an image of 32 px. The last scale of each block starts at 0, or, to see
what that is worth, at 1.
"""

import torch
from torch import Tensor, nn

from thrifty.distributed.recipe import zero_last_gamma_

_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: `(B, inputs, H, W)` -> `(B, outputs, H / stride, W / stride)`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block of one feature map."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def plain(num_classes: int, in_channels: int) -> nn.Module:
    """The network with all scales at 1."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, _WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(_WIDTHS[0])]
    width = _WIDTHS[0]
    for i, outputs in enumerate(_WIDTHS):
        layers.append(BasicBlock(width, outputs, 1 if i == 0 else 2))
        width = outputs
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def network(num_classes: int, in_channels: int) -> nn.Module:
    """The network as the recipe has it: each block starts as its shortcut."""
    model = plain(num_classes, in_channels)
    zero_last_gamma_(model)
    return model

"""CifarNet: the two-convolution network on which deep reuse was first shown (Ning & Shen, ICS 2019 and ICDE 2019).

Shapes after the classic CIFAR-10 tutorial network: conv 5x5x64, pool 3x3/2, conv 5x5x64, pool 3x3/2, 384, 192, classes.
Deviations: the local response normalisation of 2012 is left out (modern initial weights make it needless and it is slow
on a CPU); `cifarnet-bn` puts BatchNorm in its place. Images larger than 32 px are averaged down to 8 x 8 before the
first Linear, so that its size does not grow with the image.

Cost at 32 px, RGB, a sample, forward: 32 * 32 * 75 * 64 + 16 * 16 * 1600 * 64 + 4096 * 384 + ... = 32.8 million MACs.
"""

import torch
from torch import Tensor, nn

from thrifty.models.initialise import kaiming_

SMALLEST = 4
_WIDTH = 64
_GRID = 8


class CifarNet(nn.Module):
    """Images `(B, in_channels, H, W)` -> logits `(B, num_classes)`; H and W at least 4.

    Args:
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: (height, width) in pixels.
        batch_norm: BatchNorm after each convolution, whose bias is then left out.
        dropout: probability of dropping a value after each hidden Linear.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (in_channels, _WIDTH):
            layers.append(nn.Conv2d(inputs, _WIDTH, kernel_size=5, padding=2, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(_WIDTH))
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)]
        grid = [-(-side // 4) for side in image_size]  # each pool halves, rounding up
        if max(grid) > _GRID:
            grid = [min(side, _GRID) for side in grid]
            layers.append(nn.AdaptiveAvgPool2d((grid[0], grid[1])))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(_WIDTH * grid[0] * grid[1], 384),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(384, 192),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(192, num_classes),
        )
        kaiming_(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of float images `(B, C, H, W)`."""
        return self.classifier(torch.flatten(self.features(images), 1))


def cifarnet(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.0) -> CifarNet:
    """Build CifarNet without normalisation."""
    return CifarNet(num_classes, in_channels=in_channels, image_size=image_size, dropout=dropout)


def cifarnet_bn(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.0) -> CifarNet:
    """Build CifarNet with BatchNorm after each convolution."""
    return CifarNet(num_classes, in_channels=in_channels, image_size=image_size, batch_norm=True, dropout=dropout)

"""AlexNet (Krizhevsky, Sutskever & Hinton, NeurIPS 2012) as one tower, and AlexNet-BN for large batches.

Shapes: 96-256-384-384-256 convolutions without the two-GPU groups of 2012, then 4096, 4096, classes: 62,378,344
parameters at 1000 classes and 224 px. AlexNet-BN follows the large-batch recipe (You et al., ICPP 2018; Jia et al.,
arXiv 1807.11205): BatchNorm after every convolution and one more after the last pool.
Deviations: local response normalisation is left out (BatchNorm replaces it in AlexNet-BN); weights after He et al. 2015
instead of a fixed deviation of 0.01. The convolutions leave a grid of 6 x 6 at 224 px; smaller images keep the smaller
grid that they leave (1 x 1 at 64 px, 3 x 3 at 128 px) and the first Linear shrinks with it.
"""

import torch
from torch import Tensor, nn

from thrifty.models.initialise import CALM, kaiming_

SMALLEST = 63
_GRID = 6
# (outputs, kernel, stride, padding, pool after it)
_CONVOLUTIONS = (
    (96, 11, 4, 2, True),
    (256, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNet(nn.Module):
    """Images `(B, in_channels, H, W)` -> logits `(B, num_classes)`; H and W at least 63.

    Args:
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: (height, width) in pixels.
        batch_norm: the AlexNet-BN of large-batch training.
        dropout: probability of dropping a value before each hidden Linear.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, grid = in_channels, list(image_size)
        for outputs, kernel, stride, padding, pool in _CONVOLUTIONS:
            layers.append(nn.Conv2d(channels, outputs, kernel, stride, padding, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
            grid = [(side + 2 * padding - kernel) // stride + 1 for side in grid]
            if pool:
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2))
                grid = [(side - 3) // 2 + 1 for side in grid]
            channels = outputs
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        if max(grid) > _GRID:
            grid = [min(side, _GRID) for side in grid]
            layers.append(nn.AdaptiveAvgPool2d((grid[0], grid[1])))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * grid[0] * grid[1], 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )
        kaiming_(self, linear=CALM)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of float images `(B, C, H, W)`."""
        return self.classifier(torch.flatten(self.features(images), 1))


def alexnet(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.5) -> AlexNet:
    """Build AlexNet without normalisation."""
    return AlexNet(num_classes, in_channels=in_channels, image_size=image_size, dropout=dropout)


def alexnet_bn(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.5) -> AlexNet:
    """Build AlexNet-BN."""
    return AlexNet(num_classes, in_channels=in_channels, image_size=image_size, batch_norm=True, dropout=dropout)

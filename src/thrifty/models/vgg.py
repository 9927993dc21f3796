"""VGG-19 (Simonyan & Zisserman, ICLR 2015, configuration E), without and with BatchNorm.

143,667,240 parameters at 1000 classes and 224 px without BatchNorm. Five pools leave a grid of size / 32, 7 x 7 at
224 px. Larger images are averaged down to 7 x 7; smaller ones keep the grid that they leave (1 x 1 at 32 px, 2 x 2 at
64 px, 4 x 4 at 128 px) and the first Linear shrinks with it instead of reading repeated values.
Deviation: weights after He et al. 2015; the paper trained shallower networks first to make depth 19 start at all.
"""

import torch
from torch import Tensor, nn

from thrifty.models.initialise import CALM, kaiming_

SMALLEST = 32
_GRID = 7
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class VGG(nn.Module):
    """Images `(B, in_channels, H, W)` -> logits `(B, num_classes)`; H and W at least 32.

    Args:
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: (height, width) in pixels.
        batch_norm: BatchNorm after each convolution (the convolutions keep their bias, as in the common VGG-19-BN).
        dropout: probability of dropping a value after each hidden Linear.
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
        channels = in_channels
        for depth, width in _BLOCKS:
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        grid = [side // 32 for side in image_size]
        if max(grid) > _GRID:
            grid = [min(side, _GRID) for side in grid]
            layers.append(nn.AdaptiveAvgPool2d((grid[0], grid[1])))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * grid[0] * grid[1], 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        # Without BatchNorm the signal that reaches the head is weak, and a calm head would lose the rest of it.
        kaiming_(self, linear=CALM if batch_norm else None)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of float images `(B, C, H, W)`."""
        return self.classifier(torch.flatten(self.features(images), 1))


def vgg19(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.5) -> VGG:
    """Build VGG-19."""
    return VGG(num_classes, in_channels=in_channels, image_size=image_size, dropout=dropout)


def vgg19_bn(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float = 0.5) -> VGG:
    """Build VGG-19 with BatchNorm after each convolution."""
    return VGG(num_classes, in_channels=in_channels, image_size=image_size, batch_norm=True, dropout=dropout)

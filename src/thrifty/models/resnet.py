"""ResNet-50 (He et al., CVPR 2016), in the common v1.5 form: the 3x3 of a bottleneck carries the stride.

25,557,032 parameters at 1000 classes. Module names follow the common ones (`layer1.0.conv1`, `fc`), so published
weights of the same form load. The last BatchNorm of every block starts at scale 0 (Goyal et al., arXiv 1706.02677):
each block starts as the identity. Below 64 px the 7x7/2 convolution and the 3x3/2 pool of the stem would leave a grid
of one pixel or none: the stem is then one 3x3/1 convolution without a pool, as the paper's own networks for CIFAR have.
"""

import torch
from torch import Tensor, nn

from thrifty.models.initialise import kaiming_

SMALLEST = 8
_FULL_STEM = 64
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 - 3x3 - 1x1 with a shortcut: `(B, inputs, H, W)` -> `(B, 4 * width, H / stride, W / stride)`."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * _EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The block of one feature map."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def _stage(inputs: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(width * _EXPANSION, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


class ResNet50(nn.Module):
    """Images `(B, in_channels, H, W)` -> logits `(B, num_classes)`; H and W at least 8.

    Args:
        num_classes: width of the output.
        in_channels: channels of an image.
        image_size: (height, width) in pixels; it picks the stem.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, image_size: tuple[int, int] = (224, 224)) -> None:
        super().__init__()
        full = min(image_size) >= _FULL_STEM
        kernel, stride, padding = (7, 2, 3) if full else (3, 1, 1)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if full else nn.Identity()
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * _EXPANSION, num_classes)
        kaiming_(self, mode="fan_out")
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, num_classes)` of float images `(B, C, H, W)`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet50(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> ResNet50:
    """Build ResNet-50."""
    return ResNet50(num_classes, in_channels=in_channels, image_size=image_size)
